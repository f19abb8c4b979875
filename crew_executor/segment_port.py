"""Where a client and a worker on one machine hand each other segments: a socket pair beside their link.

A message is a number and a size; it brings a descriptor, or says that the segment with this number, which the other
side has lent, is not read any more. Numbers are the lender's. A frame on the link that names a number is sent after the
segment itself, so whoever reads the frame finds the segment here.

Nothing here waits. What the socket does not take at once travels over the link instead.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import stat
import struct
import threading
import time
import weakref
from collections.abc import Callable

from .segments import Arrival, LostArrival, Segment

_MESSAGE = struct.Struct("<BQQ")
_LENT, _ENDED, _CONSTANT = 1, 2, 3
_NUMBER = struct.Struct("<Q")
NUMBER_BYTES = _NUMBER.size


def pack_number(number: int) -> bytes:
    """Return a number as a part of a frame."""
    return _NUMBER.pack(number)


def unpack_number(part: bytes | memoryview) -> int:
    """Return the number in a part."""
    return int(_NUMBER.unpack(part)[0])


def is_number(part: bytes | memoryview) -> bool:
    """Answer whether the last part of a payload is a number, and not the buffers themselves: none is so small."""
    return len(part) == NUMBER_BYTES


def socket_pair() -> tuple[int, int]:
    """Return two descriptors for the two ends; raise OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours.detach(), theirs.detach()


class SegmentPort:
    """One end. Any thread may call any method.

    Args:
        fd: of the socket, or of anything else: then there is no other end, and all is refused. Closed by close().
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._socket: socket.socket | None = None
        if fd >= 0 and stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.set_inheritable(fd, False)
            self._socket = socket.socket(fileno=fd)
            self._socket.setblocking(False)  # send_fds() and recv_fds() ignore MSG_DONTWAIT
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._lent: dict[int, tuple[Segment, float]] = {}  # and when
        self._waiting: dict[int, Arrival] = {}
        # A worker's last outcomes may be read twice, from its cell and from its link: both find the same arrival.
        self._found: weakref.WeakValueDictionary[int, Arrival] = weakref.WeakValueDictionary()

    def lend(self, segment: Segment, *, is_kept: bool = False, is_constant: bool = False) -> int | None:
        """Hand a segment over; return its number, or None if that cannot be done.

        Args:
            segment: what the other side may read.
            is_kept: the port refers to the segment until the other side says, in a message, that it has ended.
            is_constant: the other side gets it read-only.
        """
        if self._socket is None:
            return None
        number = next(self._numbers)
        try:
            kind = _CONSTANT if is_constant else _LENT
            socket.send_fds(self._socket, [_MESSAGE.pack(kind, number, segment.size)], [segment.fileno()])
        except OSError:
            return None
        if is_kept:
            self._lent[number] = segment, time.monotonic()
        return number

    def find(self, number: int, *, is_kept: bool = False) -> Arrival | None:
        """Return the segment with this number, if it has been handed over, and not been found and forgotten.

        Args:
            number: the lender's.
            is_kept: whoever asks may have no use for it yet: it will be asked for again.
        """
        with self._lock:
            self._receive()
            arrival = self._waiting.get(number) if is_kept else self._waiting.pop(number, None)
            if arrival is None:
                return self._found.get(number)
            self._found[number] = arrival
            return arrival

    def take(self, number: int) -> Arrival | None:
        """Return the segment with this number; what was handed over before it is given up, nobody will ask for it."""
        with self._lock:
            self._receive()
            for older in [known for known in self._waiting if known < number]:
                del self._waiting[older]
            return self._waiting.pop(number, None)

    def take_all(self) -> list[tuple[int, Arrival]]:
        """Return the segments that have come, with their numbers."""
        with self._lock:
            self._receive()
            arrivals, self._waiting = list(self._waiting.items()), {}
            return arrivals

    def look(self) -> None:
        """Take what has come, so that segments are free again that the other side has done with."""
        with self._lock:
            self._receive()

    def leave(self, seconds: float) -> float | None:
        """Leave segments to the other side that it has had for so long; return when to come again, in seconds."""
        self.look()
        now = time.monotonic()
        for number, (segment, since) in list(self._lent.items()):
            if since + seconds > now:
                return since + seconds - now
            segment.borrowers += 1  # for good: it is not filled again
            del self._lent[number]
        return None

    def close(self) -> None:
        """Give everything up."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            elif self._fd >= 0:
                os.close(self._fd)
            self._fd = -1
            self._lent.clear()
            self._waiting.clear()

    def _receive(self) -> None:
        while self._socket is not None:
            try:
                data, descriptors, _flags, _address = socket.recv_fds(self._socket, _MESSAGE.size, 4)
            except OSError:  # nothing there, or no descriptor is free here
                return
            if len(data) != _MESSAGE.size:
                for fd in descriptors:
                    os.close(fd)
                return  # the end
            kind, number, size = _MESSAGE.unpack(data)
            if kind == _ENDED:
                self._lent.pop(number, None)
            else:
                self._waiting[number] = self._arrive(descriptors, number, size, is_constant=kind == _CONSTANT)

    def _arrive(self, descriptors: list[int], number: int, size: int, *, is_constant: bool) -> Arrival:
        if len(descriptors) != 1:  # the kernel drops what there is no free descriptor for
            return LostArrival(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        try:
            return Arrival(descriptors[0], size, self._teller(number), is_constant=is_constant)
        except OSError as error:
            return LostArrival(error)

    def _teller(self, number: int) -> Callable[[], None]:
        """Return what tells the other side that its segment has ended. It takes no lock, and outlives this port."""
        sock = weakref.ref(self._socket) if self._socket is not None else lambda: None

        def tell() -> None:
            there = sock()
            if there is not None:
                with contextlib.suppress(OSError):  # then the segment is not used again
                    there.send(_MESSAGE.pack(_ENDED, number, 0))

        return tell
