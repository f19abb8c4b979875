"""Where users' callbacks run: in a thread of their own, so that one that blocks stops only the callbacks behind it.

A callback may wait for another task. In the thread that reads from a worker, or in the dispatcher's, it would wait for
ever if that thread is the one that must bring the result. Callbacks known to be quick run where the future is finished:
those of asyncio, which only wake a loop, and those marked by quick().

In a ProcessPoolExecutor one thread finishes the futures and runs their callbacks: who has the last result finds that
the callbacks of all have run. Programs count on it: they close the progress bar that the callbacks move. So here
result() lets the callbacks run first, unless one of them takes its time.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .condition import may_hold
from .mailbox import Event, Mailbox

if TYPE_CHECKING:
    from .futures import CrewFuture

PATIENCE_SECONDS = 0.1
"""For so long result() waits for one callback; with one that takes longer, those behind it are waited for no more."""

C = TypeVar("C", bound=Callable[..., Any])

_QUICK_MODULES = ("asyncio.futures",)


def quick(callback: C) -> C:
    """Mark a callback that never blocks."""
    callback.is_quick = True  # type: ignore[attr-defined]
    return callback


def _is_quick(callback: Callable[..., Any]) -> bool:
    return getattr(callback, "is_quick", False) or getattr(callback, "__module__", None) in _QUICK_MODULES


def _is_in_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


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
        self._ended = 0  # futures called back
        self._stuck_at = -1  # what _ended was when somebody lost patience

    def run(self, future: CrewFuture[Any]) -> None:
        """Run the callbacks of a future that is done: the quick ones here, at once, the others in the thread."""
        if not self.is_needed(future) or not self._can_run_later():
            future._call_back()
        else:
            future._call_back_some(_is_quick)
            self._mailbox.put(future._call_back)

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call something in the thread, behind what waits there; here, if there can be no thread."""
        if self._can_run_later():
            self._mailbox.put(function, *arguments)
        else:
            function(*arguments)

    @staticmethod
    def is_needed(future: CrewFuture[Any]) -> bool:
        """Answer whether a future has callbacks that may block."""
        return not all(map(_is_quick, future._done_callbacks))

    def wait_for(self, future: CrewFuture[Any], timeout: float | None) -> None:
        """Wait until the callbacks of a future that is done have run, or one has run for too long.

        Callbacks and event loops never wait here.

        Args:
            future: one that this thread calls back.
            timeout: seconds, None: as long as patience lasts.
        """
        if self._ended == self._stuck_at or self.is_current() or _is_in_loop():
            return
        until = None if timeout is None else time.monotonic() + timeout
        with future._condition:
            while future._caller is not None:
                ended = self._ended
                left = PATIENCE_SECONDS if until is None else min(PATIENCE_SECONDS, until - time.monotonic())
                if left <= 0:
                    return
                if not future._condition.wait(left) and self._ended == ended and left == PATIENCE_SECONDS:
                    self._stuck_at = ended
                    return

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
            self._run_all(self._mailbox.take(0 if is_over else None))

    def _run_all(self, events: list[Event]) -> None:
        """Run callbacks, and forget each future then: while the thread waits it must not keep the last result."""
        events.reverse()
        while events:
            function, arguments = events.pop()
            function(*arguments)
            self._ended += 1

    def _nothing(self) -> None:
        """Only wake the thread."""


may_hold(__file__)
