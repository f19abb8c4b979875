"""Checks core/scheduler.py by example: tasks that are stopped wherever they are, their ghosts, workers that retire."""

from __future__ import annotations

import pytest

from crew_executor.core.budget import Budget
from crew_executor.core.scheduler import Scheduler
from crew_executor.core.worker import Worker

from .fakes import Bench

SHORT = 0.0004
"""Two of these ahead are worth a recall."""
LONG_AGO = 1000.0
"""A moment at which every task sent at 0 has outlived any horizon."""
GENEROUS = Budget(timeout=1.0, retries=9, crash_retries=9, is_timeout_retried=True)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.teach("short", SHORT)
    return bench


def counts(scheduler: Scheduler) -> tuple[int, int, int, int]:
    return scheduler.tasks_open, scheduler.tasks_held, len(scheduler.queue), scheduler.tasks_done


def load(bench: Bench, name: str, count: int, *, tasks_max: int | None = None, budget: Budget | None = None) -> Worker:
    """Return a worker that joined when `count` short tasks waited and holds all of them."""
    bench.submit(count, key="short", budget=budget)
    worker = bench.join(name, tasks_max=tasks_max)
    assert count == len(worker.held)
    bench.take()
    return worker


def haunt(bench: Bench, name: str, count: int = 1, *, ghost: int = 1, budget: Budget | None = None) -> Worker:
    """Return a worker that holds `count` tasks, the one with number `ghost` being stopped."""
    worker = load(bench, name, count, budget=budget)
    assert bench.scheduler.stop(bench.tasks[ghost])
    bench.take()
    return worker


# ---------------------------------------------------------------------- stop


def test_a_queued_task_is_stopped_by_dropping_it(bench: Bench) -> None:
    (task,) = bench.submit()

    assert bench.scheduler.stop(task)
    assert [] == bench.take()
    assert (0, 0, 0, 1) == counts(bench.scheduler)
    assert ("done", ()) == (task.state, task.payload)


def test_a_task_at_a_worker_is_held_until_its_run_has_ended(bench: Bench) -> None:
    worker = load(bench, "w1", 3)

    assert bench.scheduler.stop(bench.tasks[2])
    assert [] == bench.take()
    assert ("stopping", True, worker) == (bench.tasks[2].state, bench.tasks[2].is_dropped, bench.tasks[2].worker)
    assert (3, 3, 0, 0) == counts(bench.scheduler)


def test_a_task_is_stopped_once(bench: Bench) -> None:
    (queued,) = bench.submit()
    first = [bench.scheduler.stop(queued), bench.scheduler.stop(queued)]
    worker = load(bench, "w1", 1)
    second = [bench.scheduler.stop(bench.tasks[2]), bench.scheduler.stop(bench.tasks[2])]
    bench.answer(worker, 2)

    assert [True, False, True, False] == [*first, *second]
    assert not bench.scheduler.stop(bench.tasks[2])
    assert [] == bench.take()


def test_a_finished_task_cannot_be_stopped(bench: Bench) -> None:
    worker = load(bench, "w1", 1)
    bench.answer(worker, 1)
    bench.take()

    assert not bench.scheduler.stop(bench.tasks[1])
    assert [] == bench.take()


def test_a_task_that_is_being_stopped_cannot_be_cancelled(bench: Bench) -> None:
    haunt(bench, "w1")

    assert not bench.scheduler.cancel(bench.tasks[1])
    assert [] == bench.scheduler.cancel_all()
    assert (1, 1, 0, 0) == counts(bench.scheduler)


def test_a_task_that_waits_for_another_attempt_can_be_stopped(bench: Bench) -> None:
    worker = load(bench, "w1", 1, budget=GENEROUS)
    bench.scheduler.worker_lost(worker, 1, 0.0)
    retried = bench.take()

    assert [("retry", 1, "w1", "lost", 2)] == retried
    assert bench.scheduler.stop(bench.tasks[1])
    bench.join("w2")
    assert [] == bench.take()


def test_the_second_attempt_of_a_task_can_be_stopped(bench: Bench) -> None:
    worker = load(bench, "w1", 1, budget=GENEROUS)
    bench.answer(worker, 1, is_retryable=True)
    bench.take()

    assert bench.scheduler.stop(bench.tasks[1])
    assert ("stopping", 2) == (bench.tasks[1].state, bench.tasks[1].ordinal)


# ---------------------------------------------------------------------- ghosts


@pytest.mark.parametrize("is_retryable", [False, True])
def test_nobody_hears_how_a_ghost_ended(bench: Bench, is_retryable: bool) -> None:
    worker = haunt(bench, "w1", budget=GENEROUS)
    bench.answer(worker, 1, is_retryable=is_retryable)

    assert [] == bench.take()
    assert (0, 0, 0, 1) == counts(bench.scheduler)
    assert ("done", ()) == (bench.tasks[1].state, bench.tasks[1].payload)


def test_the_end_of_a_ghost_makes_room_for_the_next_task(bench: Bench) -> None:
    worker = haunt(bench, "w1")
    bench.submit(1, key="never seen")
    before = bench.take()
    bench.answer(worker, 1)

    assert [] == before
    assert [("send", "w1", [2])] == bench.take()


def test_a_frame_of_ghosts_and_others_finishes_the_others(bench: Bench) -> None:
    worker = haunt(bench, "w1", 3, ghost=2)
    bench.answer(worker, 1, 2, 3)

    assert [("finish", 1, "w1"), ("finish", 3, "w1")] == bench.take()
    assert (0, 0, 0, 3) == counts(bench.scheduler)
    assert (0.0, 0) == (worker.held_seconds, worker.held_bytes)


@pytest.mark.parametrize("started", [None, 0, 1, 3])
def test_a_ghost_dies_with_its_worker_whether_it_had_started_or_not(bench: Bench, started: int | None) -> None:
    worker = haunt(bench, "w1", budget=GENEROUS)
    bench.scheduler.worker_lost(worker, started, 0.0)
    bench.join("w2")

    assert [] == bench.take()
    assert (0, 0, 0, 1) == counts(bench.scheduler)


@pytest.mark.parametrize(("timed_out", "is_taken_away"), [(1, False), (None, True), (1, True)])
def test_a_ghost_is_not_run_again_whatever_its_worker_died_of(
    bench: Bench, timed_out: int | None, is_taken_away: bool
) -> None:
    worker = haunt(bench, "w1", budget=GENEROUS)
    bench.scheduler.worker_lost(worker, 1, 0.0, timed_out=timed_out, is_taken_away=is_taken_away)

    assert [] == bench.take()
    assert (0, 0, 0, 1) == counts(bench.scheduler)


def test_a_ghost_that_had_not_started_is_taken_back_in_silence(bench: Bench) -> None:
    worker = haunt(bench, "w1", 3, ghost=2)
    bench.scheduler.recalled(worker, 1, 0.0)

    assert [("unsend", 3)] == bench.take()
    assert "done" == bench.tasks[2].state
    assert (2, 1, 1, 1) == counts(bench.scheduler)


def test_a_ghost_that_was_taken_back_does_not_count_against_a_workers_life(bench: Bench) -> None:
    worker = load(bench, "w1", 3, tasks_max=4)
    bench.scheduler.stop(bench.tasks[3])
    bench.scheduler.recalled(worker, 2, 0.0)

    assert 2 == worker.tasks_left


def test_an_outcome_of_a_ghost_that_was_taken_back_is_dropped(bench: Bench) -> None:
    worker = haunt(bench, "w1", 2, ghost=2)
    bench.scheduler.recalled(worker, 1, 0.0)
    bench.answer(worker, 2)

    assert [] == bench.take()
    assert (1, 1, 0, 1) == counts(bench.scheduler)


def test_a_worker_with_a_ghost_stays_when_it_asks_to_leave(bench: Bench) -> None:
    worker = haunt(bench, "w1")
    during = bench.scheduler.leave_requested(worker)
    bench.answer(worker, 1)

    assert not during
    assert bench.scheduler.leave_requested(worker)


def test_what_waits_behind_a_ghost_is_taken_back_when_it_takes_long(bench: Bench) -> None:
    haunt(bench, "w1", 3)
    bench.scheduler.tick(LONG_AGO)

    assert [("recall", "w1")] == bench.take()


def test_nobody_is_told_of_ghosts_when_the_pool_is_given_up(bench: Bench) -> None:
    haunt(bench, "w1", 3, ghost=2)
    abandoned = bench.scheduler.abandon()

    assert [1, 3] == [task.task_id for task in abandoned]
    assert (0, 0, 0, 3) == counts(bench.scheduler)


# ---------------------------------------------------------------------- workers that retire


def test_a_retired_worker_gets_nothing_more_and_what_it_will_not_start_goes_elsewhere(bench: Bench) -> None:
    worker = load(bench, "w1", 4)
    bench.submit(1, key="never seen")
    other = bench.join("w2")
    bench.take()
    bench.answer(worker, 1, 2)
    bench.take()
    bench.scheduler.retired(worker, 2, 0.0)
    retired = bench.take()
    bench.answer(other, 5, seconds=10.0)

    assert [("dismiss", "w1"), ("unsend", 4), ("unsend", 3)] == retired
    assert [("finish", 5, "w2"), ("send", "w2", [3, 4])] == bench.take()
    assert "leaving" == worker.state


def test_what_a_retired_worker_gives_back_goes_to_idle_workers_at_once(bench: Bench) -> None:
    worker = load(bench, "w1", 2)
    bench.join("w2")
    bench.take()
    bench.scheduler.retired(worker, 0, 0.0)

    assert [("dismiss", "w1"), ("unsend", 2), ("unsend", 1), ("send", "w2", [1, 2])] == bench.take()


def test_a_worker_that_retires_with_empty_hands_is_let_go(bench: Bench) -> None:
    worker = load(bench, "w1", 1)
    bench.answer(worker, 1)
    bench.take()
    bench.scheduler.retired(worker, 1, 0.0)
    bench.submit()

    assert [("dismiss", "w1")] == bench.take()
    assert (1, 0, 1, 1) == counts(bench.scheduler)
    assert 0 == bench.scheduler.workers_ready


def test_a_worker_that_was_told_to_leave_and_retires_is_not_told_again(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.scheduler.dismiss(worker)
    bench.scheduler.retired(worker, 1, 0.0)
    bench.scheduler.retired(worker, 1, 0.0)

    assert [("dismiss", "w1"), ("recall", "w1"), ("unsend", 3), ("unsend", 2)] == bench.take()


def test_a_recall_that_a_retirement_overtakes_gives_nothing_back_twice(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.scheduler.tick(LONG_AGO)
    bench.scheduler.retired(worker, 1, LONG_AGO)
    bench.take()
    bench.scheduler.recalled(worker, 1, LONG_AGO)

    assert [] == bench.take()
    assert [2, 3] == [task.task_id for task in bench.scheduler.queue]


def test_a_ghost_at_a_worker_that_retires_is_over(bench: Bench) -> None:
    worker = haunt(bench, "w1", 3, ghost=3)
    bench.scheduler.retired(worker, 1, 0.0)

    assert [("dismiss", "w1"), ("unsend", 2)] == bench.take()
    assert (2, 1, 1, 1) == counts(bench.scheduler)


def test_a_retired_worker_that_dies_is_judged_like_any_other(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.scheduler.retired(worker, 1, 0.0)
    bench.take()
    bench.scheduler.worker_lost(worker, 1, 0.0)

    assert [("crash", 1, "w1")] == bench.take()
    assert (2, 0, 2, 1) == counts(bench.scheduler)


def test_a_dead_or_unknown_worker_does_not_retire(bench: Bench) -> None:
    worker = load(bench, "w1", 2)
    bench.scheduler.worker_lost(worker, 1, 0.0)
    bench.take()
    bench.scheduler.retired(worker, 1, 0.0)
    bench.scheduler.retired(Worker("never seen"), 0, 0.0)

    assert [] == bench.take()
    assert (1, 0, 1, 1) == counts(bench.scheduler)
