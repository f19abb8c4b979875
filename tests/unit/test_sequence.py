"""Checks core/sequence.py: frames are numbered 1, 2, 3 and a stream with a gap is refused."""

from __future__ import annotations

import pytest

from crew_executor.core.sequence import SequenceCounter
from crew_executor.errors import ProtocolError


def state(counter: SequenceCounter) -> tuple[int, int, int]:
    return counter.sent, counter.received, counter.acknowledged


def test_frames_are_numbered_from_one() -> None:
    counter = SequenceCounter()

    assert [1, 2, 3] == [counter.next() for _ in range(3)]
    assert (3, 0, 0) == state(counter)


def test_received_frames_move_the_count_and_the_ack() -> None:
    counter = SequenceCounter()
    counter.next()
    counter.next()
    counter.accept(1, 0)
    counter.accept(2, 2)

    assert (2, 2, 2) == state(counter)


def test_an_older_ack_does_not_take_back_a_newer_one() -> None:
    counter = SequenceCounter()
    counter.next()
    counter.next()
    counter.accept(1, 2)
    counter.accept(2, 1)

    assert 2 == counter.acknowledged


@pytest.mark.parametrize("sequence", [0, 1, 3, 2**64 - 1])
def test_a_repeated_or_missing_frame_is_refused_and_changes_nothing(sequence: int) -> None:
    counter = SequenceCounter()
    counter.accept(1, 0)
    with pytest.raises(ProtocolError, match=f"frame {sequence} arrived after frame 1"):
        counter.accept(sequence, 0)

    assert (0, 1, 0) == state(counter)


def test_an_ack_of_a_frame_never_sent_is_refused_and_changes_nothing() -> None:
    counter = SequenceCounter()
    counter.next()
    with pytest.raises(ProtocolError, match="acknowledges frame 2, but only 1 were sent"):
        counter.accept(1, 2)

    assert (1, 0, 0) == state(counter)


def test_two_ends_of_a_link_agree() -> None:
    here, there = SequenceCounter(), SequenceCounter()
    for _ in range(5):
        there.accept(here.next(), here.received)
        here.accept(there.next(), there.received)

    assert (5, 5, 5) == state(here)
    assert (5, 5, 4) == state(there)
