"""Large buffers that the client has sent to this host once, for all workers here: kept in shared memory, lent to them.

What does not fit there is kept as bytes, and sent to each worker over its own link.
"""

from __future__ import annotations

import contextlib

from ..core.messages import Buffer, Frame, decode_content
from ..errors import ProtocolError
from ..segment_port import SegmentPort, pack_number
from ..segments import Segment, SegmentPool


class Contents:
    """Keep what has come, by the client's numbers. Used by the thread that reads from the client alone."""

    def __init__(self) -> None:
        self._pool = SegmentPool()
        self._kept: dict[int, Segment | bytearray] = {}

    def take(self, frame: Frame) -> None:
        """Take a piece of something, or forget it."""
        number, size, start, piece = decode_content(frame.body)
        if not size:
            self._kept.pop(number, None)
            return
        kept = self._kept.get(number)
        if kept is None:
            kept = self._kept[number] = self._make(size)
        view = kept.view() if isinstance(kept, Segment) else memoryview(kept)
        view[start : start + len(piece)] = piece

    def part_for(self, number: int, port: SegmentPort, *, is_constant: bool = False) -> Buffer:
        """Hand content over to a worker; return what its frame has to say: a number of the port's, or all of it."""
        kept = self._find(number)
        if isinstance(kept, bytearray):
            return kept
        lent = port.lend(kept, is_constant=is_constant)
        return kept.view() if lent is None else pack_number(lent)

    def whole(self, number: int) -> Buffer:
        """Return content as it is, for a frame."""
        kept = self._find(number)
        return kept if isinstance(kept, bytearray) else kept.view()

    def _find(self, number: int) -> Segment | bytearray:
        kept = self._kept.get(number)
        if kept is None:
            raise ProtocolError(f"content {number} has not been sent to this host")
        return kept

    def _make(self, size: int) -> Segment | bytearray:
        segment = self._pool.make(size)
        if segment is None:
            return bytearray(size)
        segment.borrowers += 1  # for good: workers read it as long as they like, and nobody here is told
        return segment

    def close(self) -> None:
        """Forget everything."""
        with contextlib.suppress(BufferError):
            self._kept.clear()
        self._pool.close()
