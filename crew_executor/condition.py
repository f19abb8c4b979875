"""A future's condition, whose lock no Ctrl-C can lose for ever.

concurrent.futures and threading take this lock in Python code. A signal handler that raises just after it was taken
leaves it locked (a Ctrl-C in wait() may leave it so in a thousand futures), and whoever finishes such a future would
wait for ever: here that is a thread which serves the whole pool. So who finishes looks whether the owner can still know
of the lock: whoever holds it by right is in one of the few files that take it.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import _base
from types import CodeType
from typing import Any

LOOK_SECONDS = 0.005
"""For so long a lock that is taken is waited for before its owner is looked at, and between such looks."""
LOOKS = 2
"""So many looks in a row must find it lost: to one look an owner has lost it that gives it back, and takes it again,
after its frames were read."""

_HOLDERS = {__file__, _base.__file__}
_METHODS = {method.__code__ for method in vars(threading.Condition).values() if hasattr(method, "__code__")}
_WAITERS: set[CodeType] = set()
_renewing = threading.RLock()


def may_hold(file: str) -> None:
    """Name one more file whose functions take the locks of conditions."""
    _HOLDERS.add(file)


def waits_with_none(function: Callable[..., Any]) -> None:
    """Name a function in one of those files which waits for something else, and holds no such lock meanwhile."""
    _WAITERS.add(function.__code__)


class FutureCondition(threading.Condition):
    """A condition that can be taken from an owner who has lost it."""

    _lock: Any

    def take(self) -> None:
        """Acquire the lock."""
        doubts = 0
        while not (lock := self._lock).acquire(timeout=LOOK_SECONDS):
            doubts = doubts + 1 if _is_lost(lock) else 0
            if doubts >= LOOKS:
                with _renewing:
                    if self._lock is lock:  # nobody was faster
                        fresh = vars(threading.Condition())
                        del fresh["_waiters"]  # those who wait are woken as before
                        vars(self).update(fresh)

    def __enter__(self) -> bool:
        """Acquire the lock."""
        self.take()
        return True

    def __exit__(self, *details: object) -> None:
        """Release the lock, unless an interrupted wait() has left it released: then its exception goes on."""
        try:
            self.release()
        except RuntimeError:
            if details[0] is None:
                raise


def _owner_of(lock: Any) -> int:
    found = re.search(r"owner=(\d+)", repr(lock))
    return 0 if found is None else int(found[1])


def _is_lost(lock: Any) -> bool:
    owner = _owner_of(lock)
    if not owner:
        return False  # free again
    frame = sys._current_frames().get(owner)
    if _owner_of(lock) != owner:
        return False  # it was given back before we had the frames
    if frame is not None and frame.f_code is threading.Condition.wait.__code__:
        # It is about to release this lock, or has just taken it again; or it has gone on to wait for something else.
        return getattr(frame.f_locals.get("self"), "_lock", None) is not lock
    if frame is not None and frame.f_code in _WAITERS:
        return True
    while frame is not None:
        if frame.f_code.co_filename in _HOLDERS or frame.f_code in _METHODS:
            return False
        frame = frame.f_back
    return True
