"""Frames on a reliable byte stream: a length of 8 bytes and so many bytes; what they mean is not known here.

Knows no socket and no NNG: those who do say how bytes are read and written.
"""

from __future__ import annotations

import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

from .errors import CrewError, ProtocolError

Buffer = bytes | bytearray | memoryview

_LENGTH = struct.Struct("<Q")
LENGTH_BYTES = _LENGTH.size
RECEIVE_BYTES = 64 * 1024
"""The receive buffer. Frames above it are received straight into a buffer of their own."""
JOIN_BYTES = 256 * 1024
"""Pieces up to this total are joined into one write; above, large pieces are written from where they are."""
FRAME_BYTES_MAX = 1 << 40
UNTRUSTED_BYTES_MAX = 4096
"""The longest frame accepted from a peer that has not proved who it is."""


class LinkClosed(CrewError):
    """The link is closed, by this side or the other; what had arrived before has been delivered."""


class LinkTimeout(CrewError):
    """Nothing arrived within the timeout; nothing is lost."""


class FramedStream(ABC):
    """A framed, reliable byte stream with one reader and any number of senders.

    recv() belongs to one thread; send() may be called by any; close() by any.
    """

    join_bytes = JOIN_BYTES
    """What it is for this kind of stream."""

    def __init__(self) -> None:
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._large: tuple[bytearray, int] | None = None  # a frame above RECEIVE_BYTES, and how much of it is here
        self.send_lock = threading.Lock()
        self.bytes_sent = 0
        """In all, those of half a frame included; counted by links on this machine."""
        self.bytes_received = 0
        """In all, those of frames that are not whole yet included."""

    @abstractmethod
    def _read(self, into: memoryview, timeout: float | None) -> int:
        """Wait for bytes, take what is there, return how many; raise LinkClosed or LinkTimeout."""

    @abstractmethod
    def _write(self, data: Buffer) -> None:
        """Hand all of `data` to the kernel; raise LinkClosed."""

    def has_room(self) -> bool:
        """Answer whether a frame of INLINE_BYTES (pump.py) can be sent without waiting for the peer to read."""
        return True

    @abstractmethod
    def drain(self) -> None:
        """Let the reader finish what has arrived and then see the end."""

    @abstractmethod
    def close(self) -> None:
        """Close the link: a blocked recv() or send() raises LinkClosed. Idempotent, from any thread."""

    @abstractmethod
    def free(self) -> None:
        """Give the memory back. For the one reader, after its last recv(), when nobody will send any more."""

    # ------------------------------------------------------------------ receiving

    def recv(self, *, timeout: float | None = None, limit: int = FRAME_BYTES_MAX) -> memoryview:
        """Return the next frame without its length.

        Args:
            timeout: seconds to wait for each read, None for ever. What had arrived is kept for the next call.
            limit: the longest frame accepted, in bytes.

        Raises:
            LinkClosed: the peer or this side closed the link.
            LinkTimeout: nothing came in time.
            ProtocolError: the frame is longer than `limit`.
        """
        while self._large is None:
            have = self._end - self._start
            if have >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, self._start)
                if length > limit:
                    raise ProtocolError(f"a frame of {length} bytes was announced where {limit} are allowed")
                whole = _LENGTH.size + length
                if have >= whole:
                    start = self._start + _LENGTH.size
                    self._start += whole
                    return memoryview(bytes(self._view[start : self._start]))
                if whole > RECEIVE_BYTES:
                    self._begin_large(length)
                    break
            if self._start:
                self._buffer[:have] = self._buffer[self._start : self._end]
                self._start, self._end = 0, have
            got = self._read(self._view[self._end :], timeout)
            self._end += got
            self.bytes_received += got
        return self._recv_large(timeout)

    def _begin_large(self, length: int) -> None:
        """Make room for a frame that does not fit into the buffer, whose beginning is there."""
        frame = bytearray(length)
        got = self._end - self._start - _LENGTH.size
        frame[:got] = self._buffer[self._start + _LENGTH.size : self._end]
        self._start = self._end = 0
        self._large = (frame, got)

    def _recv_large(self, timeout: float | None) -> memoryview:
        assert self._large is not None
        frame, got = self._large
        view = memoryview(frame)
        while got < len(frame):
            more = self._read(view[got:], timeout)
            got += more
            self.bytes_received += more
            self._large = (frame, got)
        self._large = None
        return memoryview(frame)

    # ------------------------------------------------------------------ sending

    def send(self, pieces: Sequence[Buffer]) -> None:
        """Send a frame whose pieces already begin with its length; return when the kernel has it.

        Raises:
            LinkClosed: the link is closed; the frame may have left in part.
        """
        with self.send_lock:
            self.send_locked(pieces)

    def send_locked(self, pieces: Sequence[Buffer]) -> None:
        """Send like send(), for a caller that holds `send_lock`."""
        if sum(map(len, pieces)) <= self.join_bytes:
            self._write(b"".join(pieces))
            return
        joined: list[Buffer] = []
        small: list[Buffer] = []
        for piece in pieces:
            if len(piece) < self.join_bytes:
                small.append(piece)
                continue
            if small:
                joined.append(b"".join(small))
                small = []
            joined.append(piece)
        if small:
            joined.append(b"".join(small))
        self._write_all(joined)

    def _write_all(self, pieces: Sequence[Buffer]) -> None:
        """Hand all pieces to the kernel; raise LinkClosed."""
        for piece in pieces:
            self._write(piece)
