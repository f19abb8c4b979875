"""Segments handed from one end of a socket pair to the other."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator

import pytest

from crew_executor import segments
from crew_executor.segment_port import SegmentPort, is_number, pack_number, socket_pair, unpack_number
from crew_executor.segments import Segment, SegmentPool

pytestmark = pytest.mark.skipif(not segments.are_available(), reason="this system has no memfd_create()")


@pytest.fixture
def ends() -> Iterator[tuple[SegmentPort, SegmentPort]]:
    one, other = map(SegmentPort, socket_pair())
    yield one, other
    one.close()
    other.close()


@pytest.fixture
def pool() -> Iterator[SegmentPool]:
    made = SegmentPool()
    yield made
    made.close()


def fill(pool: SegmentPool, content: bytes = b"abc") -> Segment:
    segment = pool.fill([memoryview(content)])
    assert segment is not None
    return segment


def test_what_is_lent_is_found_by_its_number(ends: tuple[SegmentPort, SegmentPort], pool: SegmentPool) -> None:
    lender, reader = ends
    numbers = [lender.lend(fill(pool, content)) for content in (b"one", b"two")]

    assert None not in numbers
    for number, content in zip(reversed(numbers), (b"two", b"one"), strict=True):
        arrival = reader.find(number or 0)
        assert arrival is not None
        assert bytes(arrival.view()[:3]) == content
        assert reader.find(number or 0) is arrival, "an outcome may be read twice"
    del arrival
    assert reader.find(numbers[0] or 0) is None, "what was forgotten is gone"
    assert reader.find(77) is None


def test_what_is_kept_is_there_for_who_asks_again(ends: tuple[SegmentPort, SegmentPort], pool: SegmentPool) -> None:
    """An outcome that is read from a cell may be of no use before its frame comes; see Connection.unsent_outcomes()."""
    lender, reader = ends
    number = lender.lend(fill(pool)) or 0
    for _ in range(2):
        assert reader.find(number, is_kept=True) is not None
        gc.collect()

    assert reader.find(number) is not None
    gc.collect()
    assert reader.find(number, is_kept=True) is None


def test_who_takes_gives_up_what_came_before(ends: tuple[SegmentPort, SegmentPort], pool: SegmentPool) -> None:
    lender, reader = ends
    for _ in range(3):
        lender.lend(fill(pool))

    assert reader.take(2) is not None
    assert reader.take(1) is None
    assert reader.take(3) is not None


def test_a_lender_hears_when_its_segment_is_not_read_any_more(
    ends: tuple[SegmentPort, SegmentPort], pool: SegmentPool
) -> None:
    lender, reader = ends
    segment = fill(pool)
    number = lender.lend(segment, is_kept=True)
    assert number is not None
    arrival = reader.find(number)
    assert arrival is not None
    view = arrival.view()
    del arrival
    lender.look()
    assert number in lender._lent
    view.release()
    del view
    gc.collect()
    lender.look()
    assert number not in lender._lent


def test_where_there_is_no_other_end_nothing_can_be_lent(pool: SegmentPool) -> None:
    nowhere = SegmentPort(os.open(os.devnull, os.O_RDONLY))
    one, other = map(SegmentPort, socket_pair())
    other.close()

    assert nowhere.lend(fill(pool)) is None
    assert one.lend(fill(pool)) is None
    assert one.find(1) is None
    nowhere.close()
    one.close()


def test_a_reader_that_reads_nothing_does_not_stop_the_lender(
    ends: tuple[SegmentPort, SegmentPort], pool: SegmentPool
) -> None:
    segment = fill(pool)

    assert any(ends[0].lend(segment) is None for _ in range(10_000))


def test_without_a_free_descriptor_the_reader_says_so(
    ends: tuple[SegmentPort, SegmentPort], pool: SegmentPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lender, reader = ends
    number = lender.lend(fill(pool))
    assert number is not None

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(segments.mmap, "mmap", refuse)
    arrival = reader.find(number)
    assert arrival is not None
    with pytest.raises(OSError, match="Too many open files"):
        arrival.view()


def test_what_is_read_for_long_is_left_to_its_reader(ends: tuple[SegmentPort, SegmentPort], pool: SegmentPool) -> None:
    lender, reader = ends
    numbers = [lender.lend(fill(pool), is_kept=True) for _ in range(2)]
    arrival = reader.find(numbers[0] or 0)
    assert arrival is not None

    assert 0 < (lender.leave(10.0) or 0) <= 10
    assert len(pool._all) == 2
    assert lender.leave(0.0) is None
    assert not pool._all, "it is not filled again"
    assert bytes(arrival.view()[:3]) == b"abc"


def test_numbers_are_known_by_their_size() -> None:
    assert unpack_number(pack_number(2**40)) == 2**40
    assert is_number(pack_number(1))
    assert not is_number(b"longer than that")
