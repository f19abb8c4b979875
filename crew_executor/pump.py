"""Entries to be written over one link, in the order in which they were put, by whichever thread comes along.

What could make its writer wait, because the other side does not read, is left to a thread of its own. What an entry is,
and how it is written, is not known here.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from .framing import LinkClosed

INLINE_BYTES = 64 * 1024
"""What is no longer than this is written by whoever comes along: the socket's buffer takes it. What is longer could
make its writer wait until the worker reads."""


class Entry(Protocol):
    """What is to be written."""

    @property
    def may_block(self) -> bool:
        """Whether to write it could take as long as the other side does not read."""


E = TypeVar("E", bound=Entry)


class Pump(Generic[E]):
    """Write what was put.

    Args:
        name: the worker's, for the thread's name.
        send_lock: of the link.
        write: called with an entry by who holds the lock; raises LinkClosed.
        never_blocks: nothing that is written makes anybody wait.
    """

    def __init__(
        self, name: str, send_lock: threading.Lock, write: Callable[[E], None], *, never_blocks: bool = False
    ) -> None:
        self._name = name
        self._send_lock = send_lock
        self._write = write
        self._never_blocks = never_blocks
        self._entries: deque[E] = deque()
        self.put = self._entries.append
        """Queue an entry; pump() then."""
        self._sender: threading.Thread | None = None
        self._sender_wake: queue.SimpleQueue[bool] = queue.SimpleQueue()

    @property
    def is_busy(self) -> bool:
        """Whether something is being written, or waits for it."""
        return bool(self._entries) or self._send_lock.locked()

    def pump(self, may_block: bool = False) -> None:
        """Write the queued entries, unless another thread is at it: then that one writes them.

        The last look at the queue comes after the lock is free again, so an entry queued while its holder was about to
        stop is not forgotten:
        1. holder: sees the queue empty   2. other: queues, finds the lock taken, goes away
        3. holder: frees the lock         4. holder: looks again, and writes it
        """
        entries, send_lock = self._entries, self._send_lock
        while entries and send_lock.acquire(blocking=may_block):
            try:
                while entries:
                    if entries[0].may_block and not (may_block or self._never_blocks) and self._wake_sender():
                        return
                    self._write(entries.popleft())
            except LinkClosed:
                entries.clear()  # the loss is noticed and judged elsewhere
            finally:
                send_lock.release()

    def _wake_sender(self) -> bool:
        """Leave what may block to the sender thread; False when there can be none any more."""
        if self._sender is None:
            sender = threading.Thread(target=self._send, name=f"crew-sender-{self._name}", daemon=True)
            try:
                sender.start()
            except RuntimeError:  # Python 3.12 at its end
                return False
            self._sender = sender
        self._sender_wake.put(True)
        return True

    def _send(self) -> None:
        while self._sender_wake.get():
            self.pump(may_block=True)

    def close(self) -> None:
        """End the thread, and wait for it; the link is closed already."""
        self._sender_wake.put(False)
        if self._sender is not None:
            self._sender.join()
