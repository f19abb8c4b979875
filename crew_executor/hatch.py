"""A worker's hatch: a small socket besides its link, through which whoever submits hands it one task, without a lock.

On the link a frame may be half written, so its writers take turns by a lock; a signal handler could raise or wait in
the midst of that, and with it everybody who writes there. What goes through the hatch goes whole or not at all, and may
go twice, or late: the worker drops what it has seen. See ticket.py.

Back comes, for who waits there, a copy of what the worker will report over its link. Nothing depends on it: whoever is
interrupted with an answer in his hands has lost nothing. See waiting.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket

FRAME_BYTES_MAX = 16 * 1024
"""The longest frame that goes through, or answer: copied in the submitting thread, and never waited for."""
STREAK = 2
"""Where only every second task is waited for, a worker that answers and reports later costs more than it saves."""
POLL_SECONDS_MAX = 3600.0
_RING = b"!"


class Hatch:
    """The client's end. It is closed when nobody refers to it any more, never before.

    So the number of its descriptor cannot become that of another file while a thread is about to write.

    Args:
        fd: of a datagram socket that does not wait; taken over.
        bell_fd: of the worker's end, for who is to wake those that wait at this one; does not wait; taken over.

    Attributes:
        is_watched: somebody has waited here, or would have, since the last task was sent.
        waiters: who wants to wait here; only the first one may. Who comes in takes himself out again.
    """

    __slots__ = ("_bell_fd", "_fd", "_poll", "_streak", "is_watched", "waiters")

    def __init__(self, fd: int, bell_fd: int) -> None:
        self._fd = fd  # not a socket object, which may be finalised before this one, and complains then
        self._bell_fd = bell_fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self.is_watched = False
        self._streak = 0  # of tasks that were waited for
        self.waiters: list[object] = []

    def __del__(self) -> None:
        os.close(self._fd)
        os.close(self._bell_fd)

    def expects_waiter(self) -> bool:
        """Answer whether the task that is sent next will be waited for: if so many in a row were; asked for each."""
        self._streak = self._streak + 1 if self.is_watched else 0
        self.is_watched = False
        return self._streak >= STREAK

    def send(self, frame: bytes) -> bool:
        """Send a frame if that can be done at once; return whether it was."""
        try:
            return os.write(self._fd, frame) == len(frame)
        except OSError:  # too many are there already, or the worker is gone
            return False

    def recv(self, timeout: float | None) -> bytes | None:
        """Wait for an answer, at most so many seconds; return it, b"" if somebody has rung, None if nothing came."""
        if not self._poll.poll(None if timeout is None else min(timeout, POLL_SECONDS_MAX) * 1000):
            return None
        try:
            answer = os.read(self._fd, FRAME_BYTES_MAX)
        except OSError:  # somebody else has it
            return b""
        return b"" if answer == _RING else answer

    def release(self) -> None:
        """Wake who waits here, as a lock would."""
        with contextlib.suppress(OSError):  # so much is there that he is awake
            os.write(self._bell_fd, _RING)


def hatch_pair() -> tuple[Hatch, socket.socket]:
    """Return the client's end and the worker's, neither of which waits; raise OSError."""
    # Datagrams: each is whole, and a worker does not see a closed end as something to read for ever.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours:
        ours.setblocking(False)
        theirs.setblocking(False)  # nor does its copy: both are one file to the kernel
        try:
            bell = theirs.dup()
        except OSError:
            theirs.close()
            raise
        return Hatch(ours.detach(), bell.detach()), theirs
