"""The thread of a controller that judges what has become of its tasks: the only one that moves a task to its end.

    futures' callbacks, in whatever thread --event--> clerk --> Controller._judge(), and from there into its queue

A user's thread may be stopped between any two steps by a Ctrl-C, and would leave a task half moved. This one is not,
for Python runs signal handlers in the main thread. And a callback of a user's that takes its time, or waits for the
controller, keeps no record waiting: those run elsewhere. Must not keep the controller alive.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from ..callbacks import quick
from ..log import logger
from ..mailbox import Event, Mailbox
from ..thread import Thread

LOOK_SECONDS = 1.0
"""Between looks whether the thread has ended before it came to what is waited for."""


class Clerk:
    """Serve one controller until it is told to stop, or the controller is forgotten.

    Args:
        controller: whose name the thread has.
        name: the controller's.
    """

    def __init__(self, controller: object, name: str) -> None:
        self._mailbox = mailbox = Mailbox()
        self._thread = Thread(lambda: _serve(mailbox), f"crew-clerk-{name}")
        self._finalizer = weakref.finalize(controller, mailbox.put, _stop)
        self._finalizer.atexit = False
        self._thread.start()

    def put(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have the thread call a function; never blocks, and may interrupt itself. After its end, call it here."""
        self._mailbox.put(function, *arguments)
        if self._thread.is_over:
            _run_all(self._mailbox.take(0))

    def teller(self, function: Callable[..., None], *arguments: Any) -> Callable[[Any], None]:
        """Return a callback for a future: put() this function with these arguments and the future."""

        @quick
        def tell(future: Any) -> None:
            self.put(function, *arguments, future)

        return tell

    def flush(self, timeout: float = math.inf) -> None:
        """Wait until all that was put before is done, or for so many seconds."""
        is_done = threading.Lock()
        is_done.acquire()
        self.put(is_done.release)
        until = time.monotonic() + timeout
        while self._thread is not threading.current_thread() and not self._thread.is_over:
            left = until - time.monotonic()
            if left <= 0 or is_done.acquire(timeout=min(left, LOOK_SECONDS)):
                return

    def close(self, timeout: float) -> None:
        """Have the thread do what was put so far, then end, and wait for it, so many seconds. May be done again."""
        self._mailbox.put(_stop)
        self._finalizer.detach()
        if self._thread is not threading.current_thread() and self._thread.wait_over(timeout):
            _run_all(self._mailbox.take(0))  # what came behind the last word


class _Stopped(Exception):
    """The thread is to end."""


def _stop() -> None:
    raise _Stopped


def _serve(mailbox: Mailbox) -> None:
    """Handle events until one says stop; between them refer to nothing of a controller's."""
    while not _run_all(mailbox.take(None)):
        pass


def _run_all(events: list[Event]) -> bool:
    """Handle events; return whether one has said stop."""
    is_over = False
    events.reverse()
    while events:
        function, arguments = events.pop()
        try:
            function(*arguments)
        except _Stopped:
            is_over = True
        except BaseException:  # a record that cannot be made must not keep all others from being popped
            logger.exception("a controller could not take what has become of a task")
    return is_over
