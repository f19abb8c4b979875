"""Checks core/horizon.py, as far as it concerns workers on other hosts; test_scheduler.py has the rest."""

from __future__ import annotations

import math

import pytest

from crew_executor.core.estimates import item_seconds
from crew_executor.core.horizon import (
    AHEAD_BYTES,
    AHEAD_ROUND_TRIPS,
    ENOUGH,
    HORIZON_MAX,
    HORIZON_MIN,
    ROUND_TRIPS,
    Horizon,
)
from crew_executor.core.roster import AHEAD_ONE_SECONDS
from crew_executor.core.task import UNKNOWN_SECONDS, Task
from crew_executor.core.worker import Worker

ROUND_TRIP = 0.02
LONGEST = AHEAD_ROUND_TRIPS * ROUND_TRIP
"""The longest task that is sent ahead to a worker which is so far away."""


@pytest.fixture
def horizon() -> Horizon:
    horizon = Horizon()
    horizon.observe(1.0)
    return horizon


def make_worker(round_trip: float, *, items: int = 1, seconds: float = 0.001, size: int = 10) -> Worker:
    """Return a worker that holds one task of so many items, or none."""
    worker = Worker("w", tasks_max=None)
    worker.round_trip = round_trip
    if items:
        worker.held[1] = make_task(items)
        worker.held_items, worker.held_seconds, worker.held_bytes = items, seconds, size
    return worker


def make_task(items: int = 1, size: int = 10) -> Task:
    return Task(1, "f", (bytes(size),), items=items)


def above(seconds: float) -> float:
    return math.nextafter(seconds, math.inf)


def estimate_of(items_seconds: float) -> float:
    """Return the estimate of tasks whose every item adds so much."""
    return items_seconds - item_seconds(0.0)


# ---------------------------------------------------------------------- how long it is


@pytest.mark.parametrize("round_trip", [0.0001, ROUND_TRIP, 3.0])
def test_the_horizon_of_a_far_worker_is_longer_by_some_round_trips(horizon: Horizon, round_trip: float) -> None:
    assert pytest.approx(HORIZON_MAX + ROUND_TRIPS * round_trip) == horizon.of(make_worker(round_trip))
    assert HORIZON_MAX == horizon.of(make_worker(0.0))
    assert HORIZON_MIN + ROUND_TRIPS * round_trip == Horizon().of(make_worker(round_trip))


def test_a_far_worker_is_full_when_it_holds_the_part_of_its_own_horizon(horizon: Horizon) -> None:
    enough = ENOUGH * (HORIZON_MAX + ROUND_TRIPS * ROUND_TRIP)
    held = [0.9 * ENOUGH * HORIZON_MAX, 1.1 * ENOUGH * HORIZON_MAX, 0.99 * enough, 1.01 * enough]

    assert [False, False, False, True] == [
        horizon.is_full(make_worker(ROUND_TRIP, items=2, seconds=seconds), 2) for seconds in held
    ]
    assert [False, True, True, True] == [
        horizon.is_full(make_worker(0.0, items=2, seconds=seconds), 2) for seconds in held
    ]


# ---------------------------------------------------------------------- tasks


def test_what_fills_the_longer_horizon_fits_and_no_more(horizon: Horizon) -> None:
    estimate, whole = 0.01, HORIZON_MAX + ROUND_TRIPS * ROUND_TRIP
    rooms = [0.9 * (HORIZON_MAX - estimate), 1.1 * (HORIZON_MAX - estimate), 0.99 * (whole - estimate), whole]

    def fits(round_trip: float) -> list[bool]:
        workers = [make_worker(round_trip, items=2, seconds=seconds) for seconds in rooms]
        return [horizon.fits(worker, make_task(), estimate) for worker in workers]

    assert [True, True, True, False] == fits(ROUND_TRIP)
    assert [True, False, False, False] == fits(0.0)


@pytest.mark.parametrize("items", [1, 2])
def test_a_task_of_many_round_trips_is_not_sent_ahead_to_a_far_worker(horizon: Horizon, items: int) -> None:
    round_trip = 0.002  # so that the task would fit into the horizon
    longest = AHEAD_ROUND_TRIPS * round_trip
    worker = make_worker(round_trip, items=items)

    assert longest < HORIZON_MAX
    assert horizon.fits(worker, make_task(), longest)
    assert not horizon.fits(worker, make_task(), above(longest))
    assert horizon.fits(make_worker(0.0, items=items), make_task(), above(longest)), "to one here it is"


def test_a_single_task_waits_at_a_far_worker_if_it_is_short_in_round_trips_too(horizon: Horizon) -> None:
    assert LONGEST > AHEAD_ONE_SECONDS > HORIZON_MAX
    busy = [make_worker(round_trip, seconds=1.0) for round_trip in (0.0, ROUND_TRIP, AHEAD_ONE_SECONDS / 20)]

    assert [True, True, False] == [horizon.fits(worker, make_task(), AHEAD_ONE_SECONDS) for worker in busy]
    assert [False] * 3 == [horizon.fits(worker, make_task(), above(AHEAD_ONE_SECONDS)) for worker in busy]


@pytest.mark.parametrize("round_trip", [0.0, ROUND_TRIP, 1e6])
def test_nothing_unknown_or_large_is_sent_ahead_wherever_the_worker_is(horizon: Horizon, round_trip: float) -> None:
    worker, unknown = make_worker(round_trip), make_worker(round_trip, seconds=UNKNOWN_SECONDS)

    assert horizon.fits(worker, make_task(), 0.001)
    assert not horizon.fits(worker, make_task(), None)
    assert not horizon.fits(worker, make_task(size=AHEAD_BYTES), 0.001)
    assert not horizon.fits(unknown, make_task(), 0.001)
    assert (0, 0) == (
        horizon.items_that_fit(worker, make_task(9), None),
        horizon.items_that_fit(unknown, make_task(9), 0.001),
    )


# ---------------------------------------------------------------------- items


def test_items_fill_the_longer_horizon(horizon: Horizon) -> None:
    task, estimate = make_task(10_000, size=10_000), estimate_of(0.001)
    idle = [make_worker(round_trip, items=0) for round_trip in (0.0, ROUND_TRIP)]
    busy = [make_worker(round_trip, items=2, seconds=0.0105) for round_trip in (0.0, ROUND_TRIP)]
    whole = int(1000 * (HORIZON_MAX + ROUND_TRIPS * ROUND_TRIP) + 0.5)

    assert pytest.approx([60, whole], abs=1) == [horizon.items_that_fit(worker, task, estimate) for worker in idle]
    assert [49, whole - 11] == [horizon.items_that_fit(worker, task, estimate) for worker in busy]


def test_items_of_many_round_trips_go_to_an_idle_far_worker_one_at_a_time(horizon: Horizon) -> None:
    round_trip, task = 0.002, make_task(100)
    longest = AHEAD_ROUND_TRIPS * round_trip
    workers = [make_worker(where, items=items) for where in (0.0, round_trip) for items in (0, 1)]

    def items(seconds: float) -> list[int]:
        return [horizon.items_that_fit(worker, task, estimate_of(seconds)) for worker in workers]

    assert [3, 2, 3, 3] == items(0.999 * longest)
    assert [2, 2, 1, 0] == items(1.001 * longest)
