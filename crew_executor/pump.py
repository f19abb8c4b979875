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

INLINE_BYTES = 272 * 1024
"""What is no longer than this is written by whoever comes along: the socket's buffer takes it. What is longer could
make its writer wait until the worker reads."""


class Entry(Protocol):
    """What is to be written."""

    @property
    def may_block(self) -> bool:
        """Whether to write it could take as long as the other side does not read."""


class Writer(Protocol):
    """Where entries are written; whoever does so holds its lock."""

    send_lock: threading.Lock

    @property
    def bytes_sent(self) -> int:
        """How many bytes have been taken, in all."""

    def has_room(self) -> bool:
        """Answer whether what is no longer than INLINE_BYTES can be written at once."""


E = TypeVar("E", bound=Entry)


class Pump(Generic[E]):
    """Write what was put.

    Args:
        name: the worker's, for the thread's name.
        writer: the link, or what stands for it. It may be full though little was written since the last report: a
            worker that stands still between two tasks reads nothing; what is taken back from it stays in its socket,
            and what it is given next comes on top.
        write: called with an entry by who holds the lock; raises LinkClosed.
        never_blocks: nothing that is written makes anybody wait.
    """

    def __init__(self, name: str, writer: Writer, write: Callable[[E], None], *, never_blocks: bool = False) -> None:
        self._name = name
        self._writer = writer
        self._send_lock = writer.send_lock
        self._write = write
        self._never_blocks = never_blocks
        self._entries: deque[E] = deque()
        self.put = self._entries.append
        """Queue an entry; pump() then."""
        self._bytes_seen = 0
        self._sender: threading.Thread | None = None
        self._sender_wake: queue.SimpleQueue[bool] = queue.SimpleQueue()

    @property
    def is_busy(self) -> bool:
        """Whether something is being written, or waits for it."""
        return bool(self._entries) or self._send_lock.locked()

    def is_moving(self) -> bool:
        """Answer whether something is being written, and more of it has been taken since this was asked last."""
        before, self._bytes_seen = self._bytes_seen, self._writer.bytes_sent
        return self.is_busy and self._bytes_seen != before

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
                    if not (may_block or self._can_write(entries[0])) and self._wake_sender():
                        return
                    self._write(entries.popleft())
            except LinkClosed:
                entries.clear()  # the loss is noticed and judged elsewhere
            finally:
                send_lock.release()

    def _can_write(self, entry: E) -> bool:
        """Answer whether to write an entry makes nobody wait."""
        return self._never_blocks or (not entry.may_block and self._writer.has_room())

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
