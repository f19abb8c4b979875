"""A worker's hatch: a small socket besides its link, through which whoever submits hands it one task, without a lock.

On the link a frame may be half written, so its writers take turns by a lock; a signal handler could raise or wait in
the midst of that, and with it everybody who writes there. What goes through the hatch goes whole or not at all, and may
go twice, or late: the worker drops what it has seen. See ticket.py.
"""

from __future__ import annotations

import os
import socket

FRAME_BYTES_MAX = 16 * 1024
"""The longest frame that goes through: copied in the submitting thread, and never waited for."""


class Hatch:
    """The client's end. It is closed when nobody refers to it any more, never before.

    So the number of its descriptor cannot become that of another file while a thread is about to write.

    Args:
        fd: of a datagram socket that does not wait; taken over.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd  # not a socket object, which may be finalised before this one, and complains then

    def __del__(self) -> None:
        os.close(self._fd)

    def send(self, frame: bytes) -> bool:
        """Send a frame if that can be done at once; return whether it was."""
        try:
            return os.write(self._fd, frame) == len(frame)
        except OSError:  # too many are there already, or the worker is gone
            return False


def hatch_pair() -> tuple[Hatch, socket.socket]:
    """Return the client's end and the worker's; raise OSError."""
    # Datagrams: each is whole, and a worker does not see a closed end as something to read for ever.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    return Hatch(ours.detach()), theirs
