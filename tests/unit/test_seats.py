"""Checks seats.py: who gets which place, and that nothing is counted twice or forgotten."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

from crew_executor.connection import Connection
from crew_executor.core.worker import Worker
from crew_executor.futures import WorkerFacts
from crew_executor.seats import Seats


def make(name: str) -> Connection:
    """Return what a seat needs of a connection."""
    parts: Any = SimpleNamespace(worker=Worker(name), facts=WorkerFacts(name), is_joined=False, exit=None)
    return cast(Connection, parts)


def test_there_is_a_seat_for_each_worker_before_there_is_one() -> None:
    first, second = Seats(2).stats()

    assert first == (1, "", False, False, 0, 0, 0, 0)
    assert second.number == 2


def test_the_free_seat_with_the_lowest_number_is_taken() -> None:
    seats = Seats(3)
    workers = [make(name) for name in "abc"]
    for worker in workers:
        seats.take(worker)
    seats.leave(workers[1])
    late = make("d")
    seats.take(late)

    assert [worker.facts.seat for worker in (*workers, late)] == [1, 2, 3, 2]
    assert [seat.worker for seat in seats.stats()] == ["a", "d", "c"]
    assert [seat.launches for seat in seats.stats()] == [1, 2, 1]
    assert seats.launches == 4


def test_a_successor_shares_a_seat_with_who_leaves() -> None:
    seats = Seats(1)
    leaving, successor = make("leaving"), make("successor")
    seats.take(leaving)
    seats.take(successor)
    leaving.is_joined = True
    leaving.worker.tasks_done = 3
    (seat,) = seats.stats()
    assert (seat.worker, seat.is_connected, seat.instances, seat.tasks_complete) == ("successor", True, 1, 3)

    seats.leave(leaving)
    (after,) = seats.stats()
    assert (after.is_connected, after.launches, after.instances, after.tasks_complete) == (False, 2, 1, 3)


def test_tasks_that_a_crash_has_cost_were_assigned_and_are_not_complete() -> None:
    seats = Seats(1)
    worker = make("a")
    seats.take(worker)
    worker.worker.tasks_done, worker.worker.tasks_lost, worker.worker.held_items = 5, 1, 2
    (seat,) = seats.stats()

    assert (seat.tasks_assigned, seat.tasks_complete) == (8, 5)


def test_many_that_come_and_go_are_counted_once_and_leave_nothing_behind() -> None:
    dice, seats, there = random.Random(1), Seats(4), [make("first")]
    seats.take(there[0])
    for number in range(5000):
        if there and dice.random() < 0.5:
            gone = there.pop(dice.randrange(len(there)))
            gone.worker.tasks_done = 1
            seats.leave(gone)
        elif len(there) < 6:
            there.append(make(str(number)))
            seats.take(there[-1])
            crowd = [len([one for one in there if one.facts.seat == seat.number]) for seat in seats.stats()]
            assert max(crowd) - min(crowd) <= 2
    stats = seats.stats()

    assert sum(seat.launches for seat in stats) == seats.launches
    assert sum(seat.tasks_complete for seat in stats) == seats.launches - len(there)
    assert len(seats._entries) <= 4 * 7
