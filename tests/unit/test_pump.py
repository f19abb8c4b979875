"""Checks pump.py: what is put is written in order, by whoever comes along; nobody waits who must not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from crew_executor.framing import LinkClosed
from crew_executor.pump import Pump

LONG = 30.0
"""Seconds after which a wait for an event is given up: it comes at once."""


class Entry(NamedTuple):
    number: int
    may_block: bool = False


class Bench:
    """A pump, what it has written and by which thread, and a moment at which an entry is about to be written."""

    def __init__(self, *, never_blocks: bool = False, lock: threading.Lock | None = None) -> None:
        self.lock = self.send_lock = lock or threading.Lock()
        self.is_full = False
        self.bytes_sent = 0
        self.written: list[int] = []
        self.writers: list[str] = []
        self.on_write: dict[int, Callable[[], None]] = {}
        self.pump: Pump[Entry] = Pump("w1", self, self._write, never_blocks=never_blocks)

    def _write(self, entry: Entry) -> None:
        assert self.lock.locked()
        self.on_write.get(entry.number, lambda: None)()
        self.written.append(entry.number)
        self.writers.append(threading.current_thread().name)

    def has_room(self) -> bool:
        return not self.is_full

    def put(self, *numbers: int, may_block: bool = False) -> None:
        for number in numbers:
            self.pump.put(Entry(number, may_block))

    def signal_at(self, number: int) -> threading.Event:
        """Return what is set when an entry is being written."""
        event = threading.Event()
        self.on_write[number] = event.set
        return event

    def hold_at(self, number: int) -> tuple[threading.Event, threading.Event]:
        """Let the writing of an entry take until the second of these is set; the first is set when it has begun."""
        has_begun, may_end = threading.Event(), threading.Event()

        def hold() -> None:
            has_begun.set()
            assert may_end.wait(LONG)

        self.on_write[number] = hold
        return has_begun, may_end


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.pump.close()


HERE, SENDER = "MainThread", "crew-sender-w1"


# ---------------------------------------------------------------------- by the caller


def test_what_was_put_is_written_by_the_caller_in_order(bench: Bench) -> None:
    bench.put(1, 2, 3)
    before = list(bench.written)
    bench.pump.pump()
    bench.put(4)
    bench.pump.pump()

    assert [] == before
    assert [1, 2, 3, 4] == bench.written
    assert {HERE} == set(bench.writers)
    assert not bench.lock.locked()


def test_without_entries_nothing_is_done_and_the_lock_is_left_alone(bench: Bench) -> None:
    with bench.lock:
        bench.pump.pump(may_block=True)

    assert [] == bench.written


def test_it_is_busy_while_something_waits_or_is_written(bench: Bench) -> None:
    states = [bench.pump.is_busy]
    bench.on_write[1] = lambda: states.append(bench.pump.is_busy)
    bench.put(1)
    states.append(bench.pump.is_busy)
    bench.pump.pump()
    states.append(bench.pump.is_busy)

    assert [False, True, True, False] == states


# ---------------------------------------------------------------------- while somebody else holds the lock


def test_who_finds_the_lock_taken_goes_away(bench: Bench) -> None:
    """The lock is the link's: somebody may hold it who knows nothing of the pump."""
    with bench.lock:
        bench.put(1)
        bench.pump.pump()
        meanwhile = list(bench.written)
    bench.pump.pump()

    assert [] == meanwhile
    assert [1] == bench.written


def test_the_holder_writes_what_others_put_meanwhile(bench: Bench) -> None:
    has_begun, may_end = bench.hold_at(1)
    bench.put(1, 2)
    holder = threading.Thread(target=bench.pump.pump, name="holder")
    holder.start()
    assert has_begun.wait(LONG)
    bench.put(3)
    bench.pump.pump()
    meanwhile = list(bench.written)
    may_end.set()
    holder.join(LONG)

    assert [] == meanwhile
    assert [1, 2, 3] == bench.written
    assert ["holder"] * 3 == bench.writers


class Gate:
    """A lock; before it is freed for the first time, somebody else puts an entry and finds it taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.locked = self._lock.locked
        self.acquire = self._lock.acquire
        self.before_release: list[Callable[[], None]] = []

    def release(self) -> None:
        while self.before_release:
            self.before_release.pop()()
        self._lock.release()


def test_what_is_put_just_before_the_lock_is_freed_is_not_forgotten() -> None:
    gate = Gate()
    bench = Bench(lock=gate)  # type: ignore[arg-type]  # the tests' own lock

    def come_too_late() -> None:
        assert [1] == bench.written
        bench.put(2)
        bench.pump.pump()
        assert [1] == bench.written

    gate.before_release.append(come_too_late)
    bench.put(1)
    bench.pump.pump()

    assert [1, 2] == bench.written


# ---------------------------------------------------------------------- what may block


def test_what_may_block_is_left_to_a_thread_and_nobody_waits(bench: Bench) -> None:
    has_begun, may_end = bench.hold_at(2)
    last = bench.signal_at(4)
    bench.put(1)
    bench.put(2, may_block=True)
    bench.put(3)
    bench.pump.pump()  # comes back
    assert has_begun.wait(LONG)
    bench.put(4)
    bench.pump.pump()
    meanwhile = list(bench.written)
    may_end.set()
    assert last.wait(LONG)
    bench.pump.close()

    assert [1] == meanwhile
    assert [1, 2, 3, 4] == bench.written, "what came behind it has not overtaken it"
    assert [HERE, SENDER, SENDER, SENDER] == bench.writers


def test_what_has_no_room_is_left_to_a_thread_and_nobody_waits(bench: Bench) -> None:
    """As where a worker stands still between two tasks, and what was taken back from it lies in its socket."""
    bench.is_full = True
    has_begun, may_end = bench.hold_at(1)
    bench.put(1)
    bench.pump.pump()
    assert has_begun.wait(LONG)
    bench.put(2)
    bench.pump.pump()
    may_end.set()
    bench.pump.close()

    assert ([1, 2], {"crew-sender-w1"}) == (bench.written, set(bench.writers))


def test_it_moves_as_long_as_something_waits_and_more_is_taken(bench: Bench) -> None:
    assert not bench.pump.is_moving()
    bench.bytes_sent = 10
    assert not bench.pump.is_moving()  # nothing waits
    bench.put(1)
    assert not bench.pump.is_moving()
    bench.bytes_sent = 20
    assert bench.pump.is_moving()
    assert not bench.pump.is_moving()


def test_one_thread_does_for_all_that_may_block(bench: Bench) -> None:
    for number in range(1, 6):
        is_there = bench.signal_at(number)
        bench.put(number, may_block=True)
        bench.pump.pump()
        assert is_there.wait(LONG)
    bench.pump.close()

    assert [1, 2, 3, 4, 5] == bench.written
    assert [SENDER] * 5 == bench.writers


def test_who_may_wait_writes_it_all(bench: Bench) -> None:
    bench.put(1, 2, may_block=True)
    bench.pump.pump(may_block=True)

    assert [1, 2] == bench.written
    assert {HERE} == set(bench.writers)


def test_where_nothing_blocks_all_is_written_by_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "Thread", None)
    bench = Bench(never_blocks=True)
    bench.put(1)
    bench.put(2, 3, may_block=True)
    bench.pump.pump()
    bench.pump.close()

    assert [1, 2, 3] == bench.written
    assert {HERE} == set(bench.writers)


def test_without_a_thread_it_is_written_by_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    bench = Bench()
    bench.put(1, may_block=True)
    bench.put(2)
    bench.pump.pump()
    bench.pump.close()

    assert [1, 2] == bench.written
    assert {HERE} == set(bench.writers)


# ---------------------------------------------------------------------- the end


def close_link() -> None:
    raise LinkClosed


def test_a_closed_link_empties_it_and_nobody_hears_of_it(bench: Bench) -> None:
    bench.on_write[2] = close_link
    bench.put(1, 2, 3)
    bench.put(4, may_block=True)
    bench.pump.pump()

    assert [1] == bench.written
    assert not bench.pump.is_busy
    bench.pump.pump()
    assert [1] == bench.written


def test_a_link_that_closes_while_its_thread_writes_empties_it_too(bench: Bench) -> None:
    has_begun, may_end = bench.hold_at(1)
    hold = bench.on_write[1]

    def hold_and_fail() -> None:
        hold()
        close_link()

    bench.on_write[1] = hold_and_fail
    bench.put(1, may_block=True)
    bench.put(2)
    bench.pump.pump()
    assert has_begun.wait(LONG)
    may_end.set()
    bench.pump.close()

    assert [] == bench.written
    assert not bench.pump.is_busy


def test_an_error_of_the_writer_is_the_callers_and_frees_the_lock(bench: Bench) -> None:
    def fail() -> None:
        raise OSError

    bench.on_write[1] = fail
    bench.put(1, 2)
    with pytest.raises(OSError):
        bench.pump.pump()
    assert not bench.lock.locked()
    bench.pump.pump()

    assert [2] == bench.written


def test_its_thread_is_over_when_it_is_closed(bench: Bench) -> None:
    is_there = bench.signal_at(1)
    bench.put(1, may_block=True)
    bench.pump.pump()
    assert is_there.wait(LONG)
    sender = bench.pump._sender
    bench.pump.close()

    assert sender is not None
    assert not sender.is_alive()
    bench.pump.close()  # again is no harm
