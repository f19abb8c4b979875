"""What lies between the client and a worker on another host: everything goes through the worker's agent.

Its cell is on that host, so nothing is known of it before the agent reports. Large buffers are sent to the agent, once
for all its workers, and shared there; those of results come back in pieces, before the outcome that names them.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

from .core.messages import Buffer, Kind
from .framing import LinkClosed
from .segments import Segment
from .shares import Whole


class Relay(Protocol):
    """Who passes things on to the worker: its agent, as the client sees it."""

    def relay(self, number: int, kind: Kind, pieces: Sequence[Buffer], count: int, *, has_content: bool) -> None:
        """Send a frame for a worker; raise LinkClosed."""

    def content_number(self, content: Segment | Whole) -> int:
        """Return the number under which the agent has content, sent now or before."""


class FarCell:
    """What is known of a far worker's cell.

    Attributes:
        started: the ordinal of the last task it started; None: nobody knows.
        started_at: when, by this machine's monotonic clock.
        timed_out, interrupted: as in cell.py.
        outbox: what it had finished and perhaps not sent.
    """

    def __init__(self) -> None:
        self.started: int | None = None
        self.started_at = 0.0
        self.timed_out = 0
        self.interrupted = 0
        self.outbox = b""

    def read_outbox(self) -> bytes:
        """Return the outbox, as it was reported last; once."""
        outbox, self.outbox = self.outbox, b""
        return outbox

    def take_report(self, fields: dict[str, Any], outbox: bytes) -> None:
        """Note what was true when the worker ended."""
        self.started = fields["started"]
        self.started_at = time.monotonic() - fields["seconds"]
        self.timed_out = fields["timed_out"]
        self.interrupted = fields["interrupted"]
        self.outbox = outbox


class FarContent:
    """Large buffers that have come over the network: to the rest the same as a mapped segment.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        self._content = bytearray(size)

    def view(self) -> memoryview:
        """Return the content."""
        return memoryview(self._content)


class FarEnds:
    """The client's ends for one worker.

    Args:
        number: the worker's, among those of its executor.

    Attributes:
        relay: its agent, once that is known.
        log: the end of its stderr, once it is over.
    """

    is_far = True
    bytes_sent = 0

    def __init__(self, number: int) -> None:
        self.number = number
        self.cell = FarCell()
        self.relay: Relay | None = None
        self.log = ""
        self.send_lock = threading.Lock()
        self._contents: dict[int, FarContent] = {}
        # As in segment_port.py: last outcomes may be read twice, from a reported outbox and from their frame.
        self._found: weakref.WeakValueDictionary[int, FarContent] = weakref.WeakValueDictionary()
        self._has_content = False  # the frame that is about to be sent names content; under the lock

    @property
    def writer(self) -> FarEnds:
        """Itself."""
        return self

    @property
    def port(self) -> FarEnds:
        """Itself."""
        return self

    def has_room(self) -> bool:
        """Answer yes: what cannot be sent is kept."""
        return True

    def send_locked(self, kind: Kind, pieces: Sequence[Buffer], count: int = 0) -> None:
        """Send a frame; it is written later, so this never blocks."""
        has_content, self._has_content = self._has_content, False
        if self.relay is None:
            raise LinkClosed("the worker's agent has not come")
        self.relay.relay(self.number, kind, pieces, count, has_content=has_content)

    def lend(self, segment: Segment, *, is_kept: bool = False, is_constant: bool = False) -> int | None:  # noqa: ARG002
        """Send a segment's content to the agent, unless it has it; return the number there."""
        return self.send_content(segment)

    def send_content(self, content: Segment | Whole) -> int | None:
        """Send content to the agent, unless it has it; return the number there, which the next frame is to name."""
        if self.relay is None:
            return None
        self._has_content = True
        return self.relay.content_number(content)

    def find(self, number: int, *, is_kept: bool = False) -> FarContent | None:
        """Return what the worker has handed over under this number; what came before it is given up.

        `is_kept`: it will be asked for again.
        """
        for older in [known for known in self._contents if known < number]:
            del self._contents[older]
        content = self._contents.get(number) if is_kept else self._contents.pop(number, None)
        content = content or self._found.get(number)
        if content is not None:
            self._found[number] = content
        return content

    def take_content(self, number: int, size: int, start: int, piece: memoryview) -> None:
        """Take a piece of what the worker has handed over."""
        content = self._contents.get(number)
        if content is None:
            content = self._contents[number] = FarContent(size)
        content.view()[start : start + len(piece)] = piece

    def drain(self) -> None:
        """What had arrived came before the word that the worker is over."""

    def log_tail(self, bytes_max: int) -> str:
        """Return the end of its stderr, once it is over."""
        return self.log[-bytes_max:].strip()

    def shut(self) -> None:
        """Nobody waits here."""

    def close(self) -> None:
        """Nothing is held."""
        self.relay = None
