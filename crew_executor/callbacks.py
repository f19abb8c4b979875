"""Where users' callbacks run: in a thread of their own, so that one that blocks stops only the callbacks behind it.

A callback may wait for another task. In the thread that reads from a worker, or in the dispatcher's, it would wait for
ever if that thread is the one that must bring the result. Callbacks known to be quick run where the future is finished:
those of asyncio, which only wake a loop, and those marked by quick().
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .mailbox import Mailbox

if TYPE_CHECKING:
    from .futures import CrewFuture

C = TypeVar("C", bound=Callable[..., Any])

_QUICK_MODULES = ("asyncio.futures",)


def quick(callback: C) -> C:
    """Mark a callback that never blocks."""
    callback.is_quick = True  # type: ignore[attr-defined]
    return callback


def _is_quick(callback: Callable[..., Any]) -> bool:
    return getattr(callback, "is_quick", False) or getattr(callback, "__module__", None) in _QUICK_MODULES


class CallbackThread:
    """Run callbacks one after the other; start the thread with the first that needs it.

    Args:
        name: the executor's.
    """

    def __init__(self, name: str) -> None:
        self._name = f"crew-callbacks-{name}"
        self._lock = threading.Lock()
        self._mailbox = Mailbox()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def run(self, future: CrewFuture[Any]) -> None:
        """Run the callbacks of a future that is done: here if all are quick, else in the thread."""
        callbacks = future._done_callbacks
        if all(map(_is_quick, callbacks)) or not self._can_run_later():
            future._call_back()
        else:
            self._mailbox.put(future._call_back)

    def is_current(self) -> bool:
        """Answer whether the caller is a callback."""
        return self._thread is threading.current_thread()

    def close(self) -> None:
        """Let the callbacks that wait run, then end the thread and wait for it."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is not None:
            self._mailbox.put(self._nothing)
            thread.join()

    def _can_run_later(self) -> bool:
        if self._thread is not None and not self._is_closed:
            return True
        with self._lock:
            if self._is_closed:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # too many threads, or the interpreter is ending
                    return False
                self._thread = thread
        return True

    def _serve(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._is_closed  # before the events are taken: what comes later finds the thread closed
            for function, arguments in self._mailbox.take(0 if is_over else None):
                function(*arguments)

    def _nothing(self) -> None:
        """Only wake the thread."""
