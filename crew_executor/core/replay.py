"""What makes a conversation outlive its link: frames that the peer may not have, frames that come twice. Pure.

Each frame of a direction has a number, 1, 2, 3 ... A frame is kept until the peer acknowledges it. When a new link
takes the place of one that broke, each side says which frame it has received last, and the other sends what came after
that again. So every frame arrives, once, in order, whatever the old link had swallowed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ProtocolError
from .messages import Buffer


class Replay:
    """The numbers of both directions of one conversation, and the frames that were not acknowledged.

    Attributes:
        sent: the number of the last frame sent.
        received: the number of the last frame received, to be acknowledged.
        acknowledged: the number up to which the peer has received.
        bytes_kept: how much is kept to be sent again.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.acknowledged = 0
        self.bytes_kept = 0
        self._kept: dict[int, tuple[Sequence[Buffer], object]] = {}

    def next(self) -> int:
        """Return the number of the frame about to be sent; keep() it then."""
        self.sent += 1
        return self.sent

    def keep(self, pieces: Sequence[Buffer], owner: object = None) -> None:
        """Remember the frame that was numbered last, and the owner of its memory."""
        self._kept[self.sent] = pieces, owner
        self.bytes_kept += sum(map(len, pieces))

    def accept(self, number: int, ack: int) -> bool:
        """Take note of a frame that has arrived; return False if it is here for the second time.

        Raises:
            ProtocolError: a frame before it is missing, or one is acknowledged that was never sent.
        """
        self.acknowledge(ack)
        if number <= self.received:
            return False
        if number != self.received + 1:
            raise ProtocolError(f"frame {number} arrived after frame {self.received}")
        self.received = number
        return True

    def acknowledge(self, ack: int) -> None:
        """Forget what the peer has received; raise ProtocolError if that is more than was sent."""
        if ack > self.sent:
            raise ProtocolError(f"the peer acknowledges frame {ack}, but only {self.sent} were sent")
        for number in range(self.acknowledged + 1, ack + 1):
            self.bytes_kept -= sum(map(len, self._kept.pop(number)[0]))
        self.acknowledged = max(self.acknowledged, ack)

    def frame(self, number: int) -> Sequence[Buffer]:
        """Return a frame that was not acknowledged."""
        return self._kept[number][0]

    def resume(self, received: int) -> None:
        """Go on with a peer that has received so many, or more: what came after is to be sent again.

        It may have more than it said when it asked for a new link: it went on reading from the former one, and has
        acknowledged what it read there.

        Raises:
            ProtocolError: it has received what was never sent.
        """
        self.acknowledge(received)
