"""The outcomes a worker has and the client may not: first in the cell, where they survive the worker, then sent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..core.messages import Kind, encode_clock

if TYPE_CHECKING:
    from ..cell import Cell
    from ..channel import Channel


class Outbox:
    """Collect outcomes and send them.

    Args:
        channel: to the client.
        cell: shared with it.

    Attributes:
        flushed_at: when outcomes were sent last, or the worker began to have some to send; perf_counter() seconds.
    """

    def __init__(self, channel: Channel, cell: Cell) -> None:
        self._channel = channel
        self._cell = cell
        self._unsent = 0
        self.flushed_at = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether everything has been sent."""
        return not self._unsent

    def put(self, data: bytes, outcomes: int = 1) -> bool:
        """Add encoded outcomes, or more of the last one; False when there is no room."""
        if not self._cell.put(data):
            return False
        self._unsent += outcomes
        return True

    def send(self, data: bytes) -> None:
        """Send one outcome past the outbox, which is empty: it is larger than that."""
        self._channel.send(Kind.OUTCOMES, [encode_clock(time.monotonic()), data], 1)

    def flush(self) -> None:
        """Send what is there."""
        if not self._unsent:
            return
        self._channel.send(Kind.OUTCOMES, [encode_clock(time.monotonic()), self._cell.peek()], self._unsent)
        self._cell.clear()
        self._unsent = 0
        self.flushed_at = time.perf_counter()
