"""Events for one thread, put by any: also by finalisers and signal handlers, in the middle of anything.

Not queue.SimpleQueue: in CPython 3.10 its get() with a short time-out can wait for ever, because a deadline that passes
between its two looks at the lock becomes a negative time-out (seen once in 262 starts of an executor).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

Event = tuple[Callable[..., None], tuple[Any, ...]]


class Mailbox:
    """Hold events until their one receiver takes them. put() never blocks and may interrupt itself."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self.bell = threading.Lock()  # held: nothing to do; a binary semaphore
        self.bell.acquire()

    def put(self, function: Callable[..., None], *arguments: Any) -> None:
        """Add an event and wake the receiver. A handler that raises finds both done, or neither: see Inbox.put()."""
        try:
            self._events.append((function, arguments))
        finally:
            try:  # noqa: SIM105  contextlib.suppress() has calls within
                self.bell.release()
            except RuntimeError:  # rung already and not yet heard: whoever hears it takes all events
                pass

    def take(self, timeout: float | None) -> list[Event]:
        """Wait until there are events or the time is over, and return those that are there.

        Args:
            timeout: seconds; 0 or less: do not wait; None: for ever.
        """
        if timeout is None:
            self.bell.acquire()
        elif timeout > 0:
            self.bell.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))
        else:
            self.bell.acquire(blocking=False)
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events
