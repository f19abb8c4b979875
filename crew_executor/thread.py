"""A thread whose end can be waited for, also after such a wait was interrupted. Knows nothing of what the thread does.

Until Python 3.12, Thread.join() is fooled by a signal handler that raises:

1. the main thread waits in join() for the lock that the other thread holds as long as it lives
2. Ctrl-C: the handler raises; join() looks whether the lock is locked, finds that it is, and takes it for its own
3. it releases the lock and marks the thread as stopped, which goes on; the next join() returns at once
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

END_SECONDS = 1.0
"""How long to wait for the interpreter to forget a thread that has nothing left to do; microseconds, mostly."""


class Thread(threading.Thread):
    """A daemon thread; wait for it with wait_over(), not with join().

    Args:
        target: what it does.
        name: its name.
    """

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._running = threading.Lock()  # held while it runs
        self.is_over = True
        """Whether it is not running: not yet, or not any more."""

    def start(self) -> None:
        """Start it; raise RuntimeError if the system gives no thread."""
        self._running.acquire()
        self.is_over = False
        try:
            super().start()
        except RuntimeError:  # not a Ctrl-C: the thread may run
            self._end()
            raise

    def run(self) -> None:
        """Do what it is for; called by start()."""
        try:
            super().run()
        finally:
            self._end()

    def _end(self) -> None:
        self.is_over = True  # first: whoever is interrupted between the next acquire and its release must not matter
        self._running.release()

    def wait_over(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; return whether it has.

        Args:
            timeout: seconds, or None for as long as it takes.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not self.is_over:
            left = -1.0 if until is None else until - time.monotonic()
            if until is not None and left <= 0:
                return False
            if self._running.acquire(timeout=left):
                self._running.release()
        if self.ident is not None:
            self.join(END_SECONDS)
        return True
