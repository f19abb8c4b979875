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
from concurrent.futures import _base

LOOK_SECONDS = 0.005
"""For so long a lock that is taken is waited for before its owner is looked at, and between such looks."""

_HOLDERS = {threading.__file__, _base.__file__}
_BEGINNINGS = ("_bootstrap", "_bootstrap_inner", "run")
"""With these of threading.py every thread begins."""


def may_hold(file: str) -> None:
    """Name one more file whose functions take the locks of conditions."""
    _HOLDERS.add(file)


class FutureCondition(threading.Condition):
    """A condition that can be taken from an owner who has lost it."""

    def take(self) -> None:
        """Acquire the lock, for a finisher."""
        while not self.acquire(timeout=LOOK_SECONDS):
            if self._is_lost():
                waiting = self._waiters  # type: ignore[has-type]
                threading.Condition.__init__(self)  # with a new lock
                self._waiters = waiting

    def __exit__(self, *details: object) -> None:
        """Release the lock, unless an interrupted wait() has left it released: then its exception goes on."""
        try:
            self.release()
        except RuntimeError:
            if details[0] is None:
                raise

    def _is_lost(self) -> bool:
        found = re.search(r"owner=(\d+)", repr(self._lock))  # type: ignore[attr-defined]
        if found is None or found[1] == "0":
            return False  # free again
        frame = sys._current_frames().get(int(found[1]))
        if frame is not None and frame.f_code is threading.Condition.wait.__code__:
            return True  # the owner has gone on to wait for something else
        while frame is not None:
            if frame.f_code.co_filename in _HOLDERS and frame.f_code.co_name not in _BEGINNINGS:
                return False
            frame = frame.f_back
        return True
