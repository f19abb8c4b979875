"""Checks core/replay.py: over links that break at any moment every frame arrives once and in order."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from crew_executor.core.replay import Replay
from crew_executor.errors import ProtocolError

from .fakes import hypothesis_settings


def send(side: Replay, text: bytes = b"x") -> tuple[int, int, bytes]:
    number = side.next()
    side.keep([text])
    return number, side.received, text


def test_what_was_not_acknowledged_is_sent_again_and_no_more() -> None:
    side = Replay()
    for text in (b"a", b"bb", b"ccc"):
        send(side, text)
    assert side.bytes_kept == 6
    side.acknowledge(1)
    assert side.bytes_kept == 5
    side.resume(2)
    assert side.frame(3) == [b"ccc"]
    assert (side.acknowledged, side.bytes_kept) == (2, 3)
    side.resume(3)
    assert side.bytes_kept == 0


def test_the_second_of_two_is_dropped_and_its_acknowledgement_heard() -> None:
    side = Replay()
    send(side)
    assert side.accept(1, 0)
    assert not side.accept(1, 1)
    assert (side.received, side.acknowledged, side.bytes_kept) == (1, 1, 0)


def test_a_peer_that_is_not_what_it_was_is_refused() -> None:
    side = Replay()
    with pytest.raises(ProtocolError, match="frame 2 arrived after frame 0"):
        side.accept(2, 0)
    with pytest.raises(ProtocolError, match="acknowledges frame 1, but only 0 were sent"):
        side.accept(1, 1)
    with pytest.raises(ProtocolError, match="acknowledges frame 1, but only 0 were sent"):
        side.resume(1)


def test_a_peer_may_have_read_more_than_it_said() -> None:
    side = Replay()
    for _ in range(2):
        send(side)
    side.acknowledge(1)
    side.resume(0)
    assert (side.acknowledged, side.frame(2)) == (1, [b"x"])


class Sides(RuleBasedStateMachine):
    """Two sides, and a link that may break at any moment and lose what is on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = [Replay(), Replay()]
        self.wire: list[list[tuple[int, int, bytes]]] = [[], []]  # what travels to each side
        self.has_sent: list[list[bytes]] = [[], []]
        self.has_got: list[list[bytes]] = [[], []]

    @rule(who=st.integers(0, 1))
    def send_one(self, who: int) -> None:
        text = b"%d" % len(self.has_sent[who])
        self.has_sent[who].append(text)
        self.wire[1 - who].append(send(self.sides[who], text))

    @rule(who=st.integers(0, 1))
    def receive_one(self, who: int) -> None:
        if self.wire[who]:
            number, ack, text = self.wire[who].pop(0)
            if self.sides[who].accept(number, ack):
                self.has_got[who].append(text)

    @rule(who=st.integers(0, 1))
    def send_something_again(self, who: int) -> None:
        self.wire[who] += self.wire[who][-1:]

    @rule()
    def break_and_come_back(self) -> None:
        self.wire = [[], []]
        for who in (0, 1):
            side, peer = self.sides[who], self.sides[1 - who]
            side.resume(peer.received)
            again = range(peer.received + 1, side.sent + 1)
            self.wire[1 - who] += [(number, side.received, bytes(side.frame(number)[0])) for number in again]

    @invariant()
    def what_arrives_is_what_was_sent(self) -> None:
        for who in (0, 1):
            assert self.has_got[who] == self.has_sent[1 - who][: len(self.has_got[who])]

    def teardown(self) -> None:
        self.break_and_come_back()
        for who in (0, 1):
            while self.wire[who]:
                self.receive_one(who)
            assert self.has_got[who] == self.has_sent[1 - who]


TestSides = Sides.TestCase
TestSides.settings = hypothesis_settings(examples=60)
