"""Segments: filled, lent, filled again, and never filled while somebody may still read."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator

import pytest

from crew_executor import segments
from crew_executor.segments import FREE_SECONDS, MAPPINGS_MAX, SEGMENTS_MAX, Arrival, LostArrival, SegmentPool

pytestmark = pytest.mark.skipif(not segments.are_available(), reason="this system has no memfd_create()")

SIZE = 10_000


@pytest.fixture
def pool() -> Iterator[SegmentPool]:
    made = SegmentPool()
    yield made
    made.close()
    assert not made._all


def fill(pool: SegmentPool, byte: int = 1, size: int = SIZE) -> segments.Segment:
    segment = pool.fill([memoryview(bytes([byte]) * size)])
    assert segment is not None
    return segment


def arrive(segment: segments.Segment, **options: bool) -> Arrival:
    return Arrival(os.dup(segment.fileno()), segment.size, **options)


def test_a_segment_has_a_copy_of_the_buffers(pool: SegmentPool) -> None:
    memory = bytearray(b"a" * SIZE)
    segment = pool.fill([memoryview(memory), memoryview(b"bc")])
    assert segment is not None
    memory[0] = 0

    assert bytes(segment.view())[:SIZE] == b"a" * SIZE
    assert b"bc" in bytes(segment.view())[SIZE:]
    del segment


def test_its_memory_is_used_again_when_nobody_refers_to_it(pool: SegmentPool) -> None:
    first = fill(pool, 1)
    number = os.fstat(first.fileno()).st_ino
    del first
    again = fill(pool, 2)

    assert os.fstat(again.fileno()).st_ino == number
    assert bytes(again.view())[:SIZE] == b"\2" * SIZE
    del again


def test_not_while_somebody_refers_to_it_or_may_read_it(pool: SegmentPool) -> None:
    held, lent = fill(pool), fill(pool)
    inodes = {os.fstat(segment.fileno()).st_ino for segment in (held, lent)}
    lent.borrowers += 1
    reader = arrive(lent)
    del lent
    other = fill(pool, 2)

    assert os.fstat(other.fileno()).st_ino not in inodes
    assert bytes(reader.view())[:SIZE] == b"\1" * SIZE, "what was lent stays what it was"
    assert len(pool._all) == 2, "and is given up here"
    del held, other


def test_much_too_large_a_segment_is_not_used_for_little(pool: SegmentPool) -> None:
    large = fill(pool, size=100 * SIZE)
    del large
    small = fill(pool)

    assert len(small.view()) < 2 * SIZE
    assert len(pool._all) == 2
    del small


def test_there_are_only_so_many(pool: SegmentPool) -> None:
    held = [fill(pool) for _ in range(SEGMENTS_MAX)]

    assert pool.fill([memoryview(bytes(SIZE))]) is None
    held.pop()
    held.append(fill(pool))
    held.pop()
    held.append(fill(pool, size=5 * SIZE))  # in place of one that is free and too small
    held.clear()


def test_what_is_not_used_is_given_up_after_a_while(pool: SegmentPool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(segments.time, "monotonic", lambda: now)
    segment = fill(pool)
    del segment

    assert pool.trim() == FREE_SECONDS
    assert len(pool._all) == 1
    now += FREE_SECONDS
    assert pool.trim() is None
    assert not pool._all


def test_no_more_is_kept_than_the_limit(pool: SegmentPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "FREE_BYTES_MAX", 3 * SIZE)
    held = [fill(pool) for _ in range(5)]
    held.clear()

    assert sum(memory.size for memory in pool._all) <= 3 * SIZE
    single = fill(pool, size=10 * SIZE)
    del single
    assert len(pool._all) == 1, "the last one stays, whatever its size"


def test_a_closed_pool_has_none_and_keeps_none() -> None:
    pool = SegmentPool()
    held = fill(pool)
    pool.close()

    assert pool.fill([memoryview(bytes(SIZE))]) is None
    del held
    assert not pool._all


def test_without_memory_there_is_none(pool: SegmentPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "posix_fallocate", refuse)

    assert pool.fill([memoryview(bytes(SIZE))]) is None
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_the_environment_can_say_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREW_EXECUTOR_NO_MEMFD", "1")

    assert SegmentPool().fill([memoryview(bytes(SIZE))]) is None


# ---------------------------------------------------------------------- arrivals


def test_what_a_reader_writes_is_its_own(pool: SegmentPool) -> None:
    segment = fill(pool)
    first = arrive(segment)
    first.view()[0] = 99

    assert segment.view()[0] == 1
    assert arrive(segment).view()[0] == 1
    del segment


def test_a_constant_cannot_be_written(pool: SegmentPool) -> None:
    segment = fill(pool)

    assert arrive(segment, is_constant=True).view().readonly
    del segment


def test_a_reader_that_keeps_nothing_lets_go(pool: SegmentPool) -> None:
    segment = fill(pool)
    ended: list[int] = []
    arrival = Arrival(os.dup(segment.fileno()), SIZE, lambda: ended.append(1))
    kept = arrival.view()[5:6]

    assert not arrival.let_go()
    assert not ended
    del kept
    gc.collect()
    assert arrival.let_go()
    assert ended == [1]
    del segment


def test_a_reader_that_has_forked_never_lets_go(pool: SegmentPool) -> None:
    segment = fill(pool)
    ended: list[int] = []
    arrival = Arrival(os.dup(segment.fileno()), SIZE, lambda: ended.append(1))
    segments._before_fork()

    assert not arrival.let_go()
    assert not ended
    del segment


def test_too_many_mappings_are_copies(pool: SegmentPool) -> None:
    segment = fill(pool)
    arrivals = [arrive(segment) for _ in range(MAPPINGS_MAX + 5)]

    assert {bytes(arrival.view()) for arrival in arrivals} == {bytes(segment.view())}
    assert len(segments._mappings) <= MAPPINGS_MAX
    del segment


def test_what_could_not_be_mapped_says_why_to_whoever_reads() -> None:
    lost = LostArrival(OSError(errno.EMFILE, "Too many open files"))
    with pytest.raises(OSError, match="could not be mapped: Too many open files"):
        lost.view()
    assert lost.let_go()
