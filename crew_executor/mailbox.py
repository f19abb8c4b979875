"""Events for one thread, put by any: also by finalisers and signal handlers, in the middle of anything.

Not queue.SimpleQueue: in CPython 3.10 its get() with a short time-out can wait for ever, because a deadline that passes
between its two looks at the lock becomes a negative time-out (seen once in 262 starts of an executor).
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

Event = tuple[Callable[..., None], tuple[Any, ...]]


class Mailbox:
    """Hold events until their one receiver takes them. put() never blocks and may interrupt itself."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._bell = threading.Lock()  # held: nothing to do; a binary semaphore
        self._bell.acquire()

    def put(self, function: Callable[..., None], *arguments: Any) -> None:
        """Add an event and wake the receiver."""
        self._events.append((function, arguments))
        with contextlib.suppress(RuntimeError):  # rung already and not yet heard: whoever hears it takes all events
            self._bell.release()

    def take(self, timeout: float | None) -> list[Event]:
        """Wait until there are events or the time is over, and return those that are there.

        Args:
            timeout: seconds; 0 or less: do not wait; None: for ever.
        """
        if timeout is None:
            self._bell.acquire()
        elif timeout > 0:
            self._bell.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))
        else:
            self._bell.acquire(blocking=False)
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events
