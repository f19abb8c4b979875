"""The numbering of frames on one link: what this side sends next and what it has seen. Pure.

A stream keeps its order, so today a gap or a repetition is an error of the peer. The numbers are on the wire from
the first version so that a link that comes back can resend what was not acknowledged.
"""

from __future__ import annotations

from ..errors import ProtocolError


class SequenceCounter:
    """Count the frames of both directions of one link.

    Attributes:
        sent: the sequence of the last frame sent.
        received: the sequence of the last frame received: what the next frame acknowledges.
        acknowledged: the highest sequence that the peer says it has seen.
    """

    __slots__ = ("acknowledged", "received", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.acknowledged = 0

    def next(self) -> int:
        """Return the sequence of the frame about to be sent."""
        self.sent += 1
        return self.sent

    def accept(self, sequence: int, ack: int) -> None:
        """Check a received frame; raise ProtocolError when one is missing, repeated, or acknowledges the future."""
        if sequence != self.received + 1:
            raise ProtocolError(f"frame {sequence} arrived after frame {self.received}")
        if ack > self.sent:
            raise ProtocolError(f"the peer acknowledges frame {ack}, but only {self.sent} were sent")
        self.received = sequence
        self.acknowledged = max(self.acknowledged, ack)
