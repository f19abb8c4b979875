"""What lies between the client and one worker: where frames are written, what is shared, where its last words are.

LocalEnds are for a worker on this machine: a socket pair, shared memory, a file without a name. far_ends.py has those
for a worker on another host. They carry; when and what is the business of connection.py, and how a worker gets the
other ends that of its launcher.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Protocol

from . import cell as cells
from . import pump
from .channel import Channel
from .core.messages import Buffer, Frame, Kind
from .hatch import Hatch, hatch_pair
from .segment_port import SegmentPort, socket_pair
from .segments import Segment
from .transport import Link


class Writer(pump.Writer, Protocol):
    """Where frames for the worker are written."""

    def send_locked(self, kind: Kind, pieces: Sequence[Buffer], count: int = 0) -> None:
        """Send a frame, for a caller that holds the lock; raise LinkClosed."""


class CellView(Protocol):
    """What is true of a worker even when it is dead; see cell.py."""

    @property
    def started(self) -> int | None:
        """The ordinal of the last task that it started, or 0; None: nobody knows."""

    @property
    def started_at(self) -> float:
        """When that was: seconds of this machine's monotonic clock."""

    @property
    def timed_out(self) -> int:
        """The ordinal of the task for whose timeout it was killed, or 0."""

    @property
    def interrupted(self) -> int:
        """The ordinal of the last task that was to be interrupted, or 0."""

    def read_outbox(self) -> bytes:
        """Return the finished outcomes that may not have been sent."""


class Content(Protocol):
    """Large buffers, handed over or about to be."""

    def view(self) -> memoryview:
        """Return them."""


class Port(Protocol):
    """Where segments are handed over; see segment_port.py."""

    def lend(self, segment: Segment, *, is_kept: bool = False, is_constant: bool = False) -> int | None:
        """Hand a segment over; return its number, or None if that cannot be done."""

    def find(self, number: int, *, is_kept: bool = False) -> Content | None:
        """Return the content with this number, if it has been handed over; if kept, it will be asked for again."""


class Ends(Protocol):
    """All that lies between.

    Attributes:
        is_far: the worker is on another host: its cell says nothing before its end, its port copies, and what is
            written to it never blocks.
    """

    is_far: bool

    @property
    def writer(self) -> Writer:
        """Where frames are written."""

    @property
    def cell(self) -> CellView:
        """What is shared with the worker."""

    @property
    def port(self) -> Port:
        """For large buffers."""

    def drain(self) -> None:
        """Let whoever reads finish with what has arrived, and then see the end: the worker is dead."""

    def log_tail(self, bytes_max: int) -> str:
        """Return the last of what the worker wrote to its stderr."""

    def shut(self) -> None:
        """Have those who read and write come back, with LinkClosed."""

    def close(self) -> None:
        """Give everything back, when nobody reads or writes any more."""


class LocalEnds:
    """The client's ends for a worker on this machine, and the worker's until it has them.

    Args:
        run: the executor's run.

    Attributes:
        channel: the frames of both directions.
        hatch: where a task goes that its submitter sends; None when closed.

    Raises:
        OSError: descriptors or memory ran out.
    """

    is_far = False

    def __init__(self, run: int) -> None:
        ours, self._theirs = socket.socketpair()
        self.cell = cells.Cell(cells.create_file())
        self._log_fd = cells.create_file(0)
        own, self._their_port = socket_pair()
        self.port = SegmentPort(own)
        self.hatch: Hatch | None
        self.hatch, self._their_hatch = hatch_pair()
        self.channel = self.writer = Channel(Link(ours), run)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Link, cell, log, port, hatch: what the worker needs, in the order of supervisor_wire.py."""
        return self._theirs.fileno(), self.cell.fd, self._log_fd, self._their_port, self._their_hatch.fileno()

    def handed_over(self) -> None:
        """Close this process's copies of the worker's ends, once the launcher has passed them on. Idempotent."""
        self._theirs.close()
        self._their_hatch.close()
        fd, self._their_port = self._their_port, -1
        if fd >= 0:
            os.close(fd)

    def recv(self, *, limit: int, timeout: float | None) -> Frame:
        """Return the next frame of the worker; raise as Channel.recv() does."""
        return self.channel.recv(limit=limit, timeout=timeout)

    def drain(self) -> None:
        """Let the reader finish with what has arrived: the worker is dead."""
        self.channel.link.drain()

    def log_tail(self, bytes_max: int) -> str:
        """Return the last lines that the worker wrote to its stderr, or the task whose output was caught to both."""
        if self._log_fd < 0:
            return ""
        size = os.fstat(self._log_fd).st_size
        tail = os.pread(self._log_fd, bytes_max, max(0, size - bytes_max))
        return tail.decode(errors="replace").strip()

    def shut(self) -> None:
        """Have the reader come back, and who writes."""
        self.channel.link.close()
        self.handed_over()

    def close(self) -> None:
        """Give everything back."""
        self.channel.link.free()
        self.port.close()
        self.hatch = None
        self.cell.close()
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1
