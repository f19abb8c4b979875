"""Frames over a link: headers, sequence numbers and the run, the same on both ends.

Knows how frames look (core.messages) and how bytes travel (transport); knows nothing of tasks or scheduling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .core.messages import Buffer, Frame, Kind, decode_frame, encode_control, encode_header
from .core.sequence import SequenceCounter
from .errors import ProtocolError
from .framing import FRAME_BYTES_MAX, FramedStream


class Channel:
    """One end of a conversation between a client and a worker.

    recv() belongs to one thread; send() may be called by any. After an error of either the link is closed.

    Attributes:
        has_own_reader: a thread reads it that ends with the process: the link must not be freed before.
    """

    def __init__(self, link: FramedStream, run: int) -> None:
        self.link = link
        self.send_lock = link.send_lock
        self.run = run
        self.has_own_reader = False
        self._counter = SequenceCounter()

    def recv(self, *, timeout: float | None = None, limit: int = FRAME_BYTES_MAX) -> Frame:
        """Return the next frame; raise what Link.recv() raises, or ProtocolError for one that does not belong here."""
        frame = decode_frame(self.link.recv(timeout=timeout, limit=limit))
        if frame.run != self.run:
            raise ProtocolError(f"a frame of run {frame.run:x} arrived on a link of run {self.run:x}")
        if frame.sequence:  # else it came through the hatch
            self._counter.accept(frame.sequence, frame.ack)
        return frame

    def send(self, kind: Kind, pieces: Sequence[Buffer], count: int = 0) -> None:
        """Send a frame whose body are these pieces."""
        with self.send_lock:
            self.send_locked(kind, pieces, count)

    def send_locked(self, kind: Kind, pieces: Sequence[Buffer], count: int = 0) -> None:
        """Send like send(), for a caller that holds the link's send_lock."""
        counter = self._counter
        size = sum(map(len, pieces))
        header = encode_header(kind, self.run, counter.next(), counter.received, count, size)
        self.link.send_locked([header, *pieces])

    @property
    def bytes_sent(self) -> int:
        """How many bytes the link has taken, in all."""
        return self.link.bytes_sent

    def has_room(self) -> bool:
        """Answer whether a frame of INLINE_BYTES (pump.py) can be sent without waiting for the other side to read."""
        return self.link.has_room()

    def send_control(self, kind: Kind, fields: dict[str, Any] | None = None, parts: Sequence[Buffer] = ()) -> None:
        """Send a control frame: a JSON object and opaque parts."""
        self.send(kind, [encode_control(fields or {}, parts)])
