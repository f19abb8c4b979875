"""Checks core/scheduler.py by example: which runs that came to nothing are repeated, and what that costs."""

from __future__ import annotations

import pytest

from crew_executor.core.budget import LOSSES_MAX, Budget
from crew_executor.core.scheduler import Scheduler
from crew_executor.core.worker import Worker

from .fakes import RETRYABLE, Bench, make_outcome


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.teach("short", 0.0002)
    return bench


def counts(scheduler: Scheduler) -> tuple[int, int, int, int]:
    return scheduler.tasks_open, scheduler.tasks_held, len(scheduler.queue), scheduler.tasks_done


def load(bench: Bench, name: str, budget: Budget | None, count: int = 1) -> Worker:
    """Return a worker that joined when `count` short tasks waited and holds all of them."""
    bench.submit(count, key="short", budget=budget)
    worker = bench.join(name)
    assert count == len(worker.held)
    bench.take()
    return worker


def lose(bench: Bench, *, timed_out: bool = False, is_taken_away: bool = False) -> str:
    """Let a new worker take task 1 and be lost with it; return what becomes of the task."""
    worker = bench.join(f"w{len(bench.port.effects)}-{bench.tasks[1].attempt}")
    assert bench.tasks[1].worker is worker
    bench.take()
    ordinal = worker.ordinal
    bench.scheduler.worker_lost(
        worker, ordinal, 0.0, timed_out=ordinal if timed_out else None, is_taken_away=is_taken_away
    )
    return str(bench.take()[0][0])


# ---------------------------------------------------------------------- failures


def test_a_failed_task_is_run_again_as_another_attempt(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(retries=1))
    bench.answer(worker, 1, is_retryable=True)

    assert [("retry", 1, "w1", "failed", 2), ("send", "w1", [1])] == bench.take()
    assert ("sent", 2, 2) == (bench.tasks[1].state, bench.tasks[1].attempt, bench.tasks[1].ordinal)
    assert bench.tasks[1].payload
    assert (1, 1, 0, 0) == counts(bench.scheduler)


def test_when_the_retries_are_spent_the_failure_is_the_result(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(retries=2))
    for attempt in (1, 2, 3):
        bench.answer(worker, 1, attempt=attempt, is_retryable=True)

    assert ["retry", "send", "retry", "send", "finish"] == [effect[0] for effect in bench.take()]
    assert (0, 0, 0, 1) == counts(bench.scheduler)


@pytest.mark.parametrize("budget", [None, Budget(timeout=1.0), Budget(crash_retries=5)])
def test_a_failure_is_not_repeated_without_retries(bench: Bench, budget: Budget | None) -> None:
    worker = load(bench, "w1", budget)
    bench.answer(worker, 1, is_retryable=True)

    assert [("finish", 1, "w1")] == bench.take()


def test_an_outcome_that_is_not_retryable_is_the_result_and_costs_nothing(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(retries=3))
    bench.answer(worker, 1)

    assert [("finish", 1, "w1")] == bench.take()
    assert Budget(retries=3) == bench.tasks[1].budget


def test_a_task_that_is_run_again_waits_behind_the_others(bench: Bench) -> None:
    bench.submit(1, key="never seen", budget=Budget(retries=1))
    worker = bench.join("w1")
    bench.submit(2, key="never seen, too")
    bench.take()
    bench.answer(worker, 1, seconds=10.0, is_retryable=True)

    assert [("retry", 1, "w1", "failed", 2), ("send", "w1", [2])] == bench.take()
    assert [3, 1] == [task.task_id for task in bench.scheduler.queue]


def test_a_task_that_is_run_again_keeps_its_priority(bench: Bench) -> None:
    bench.submit(1, key="never seen", priority=1, budget=Budget(retries=1))
    worker = bench.join("w1")
    bench.submit(1, key="never seen, too")
    bench.take()
    bench.answer(worker, 1, seconds=10.0, is_retryable=True)

    assert [("retry", 1, "w1", "failed", 2), ("send", "w1", [1])] == bench.take()


def test_the_outcome_of_the_former_attempt_is_dropped(bench: Bench) -> None:
    """The outbox of a worker is read while its frame with the same outcome is on its way."""
    worker = load(bench, "w1", Budget(retries=5))
    bench.answer(worker, 1, is_retryable=True)
    bench.take()
    bench.answer(worker, 1, is_retryable=True)
    bench.answer(worker, 1)
    dropped = bench.take()
    bench.answer(worker, 1, attempt=2)

    assert [] == dropped
    assert [("finish", 1, "w1")] == bench.take()


def test_an_outcome_that_comes_twice_in_a_frame_costs_one_retry(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(retries=5))
    bench.answer(worker, 1, 1, is_retryable=True)

    assert (Budget(retries=4), 2) == (bench.tasks[1].budget, bench.tasks[1].attempt)


def test_a_frame_of_failures_and_results_repeats_the_ones_and_finishes_the_others(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(retries=1), 3)
    bench.scheduler.outcomes(worker, [make_outcome(1), make_outcome(2, flags=RETRYABLE), make_outcome(3)], 0.0)

    assert [
        ("retry", 2, "w1", "failed", 2),
        ("finish", 1, "w1"),
        ("finish", 3, "w1"),
        ("send", "w1", [2]),
    ] == bench.take()


def test_a_task_that_failed_at_a_worker_on_its_last_tasks_goes_to_an_idle_one_at_once(bench: Bench) -> None:
    bench.submit(1, budget=Budget(retries=1))
    worker = bench.join("w1", tasks_max=1)
    bench.join("w2")
    bench.take()
    bench.answer(worker, 1, is_retryable=True)

    assert [("retry", 1, "w1", "failed", 2), ("send", "w2", [1])] == bench.take()


def test_tasks_that_failed_together_are_shared_with_idle_workers(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(retries=1), 2)
    bench.join("w2")
    bench.take()
    bench.answer(worker, 1, 2, is_retryable=True)

    assert [("send", "w1", [1]), ("send", "w2", [2])] == bench.take()[2:]


def test_each_task_has_a_purse_of_its_own(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(retries=1), 2)
    bench.answer(worker, 1, 2, is_retryable=True)
    first = [effect[:2] for effect in bench.take() if effect[0] != "send"]
    bench.answer(worker, 1, 2, attempt=2, is_retryable=True)

    assert [("retry", 1), ("retry", 2)] == first
    assert [("finish", 1, "w1"), ("finish", 2, "w1")] == bench.take()


def test_a_failed_attempt_teaches_how_long_the_function_takes(bench: Bench) -> None:
    bench.submit(1, key="new", budget=Budget(retries=1))
    worker = bench.join("w1")
    bench.answer(worker, 1, seconds=3.0, is_retryable=True)

    assert bench.scheduler.estimates.seconds("new") is not None


def test_a_task_that_waits_for_another_attempt_can_be_cancelled(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(crash_retries=1))
    bench.scheduler.worker_lost(worker, 1, 0.0)
    bench.take()

    assert bench.scheduler.cancel(bench.tasks[1])
    bench.join("w2")
    assert [] == bench.take()
    assert (0, 0, 0, 1) == counts(bench.scheduler)


# ---------------------------------------------------------------------- lost workers


def test_a_task_whose_worker_died_is_run_again_elsewhere(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(crash_retries=1))
    bench.join("w2")
    bench.take()
    bench.scheduler.worker_lost(worker, 1, 0.0)

    assert [("retry", 1, "w1", "lost", 2), ("send", "w2", [1])] == bench.take()


def test_the_culprit_waits_behind_the_tasks_that_died_unstarted_and_those_cost_nothing(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(crash_retries=1), 3)
    bench.scheduler.worker_lost(worker, 1, 0.0)

    assert [("unsend", 3), ("unsend", 2), ("retry", 1, "w1", "lost", 2)] == bench.take()
    assert [(2, 1), (3, 1), (1, 2)] == [(task.task_id, task.attempt) for task in bench.scheduler.queue]
    assert [0, 1, 1] == [task.budget.crash_retries for task in bench.tasks.values() if task.budget is not None]


def test_when_nobody_knows_what_had_started_every_task_pays(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(crash_retries=1), 2)
    bench.scheduler.worker_lost(worker, None, 0.0)

    assert [("retry", number, "w1", "lost", 2) for number in (1, 2)] == bench.take()


@pytest.mark.parametrize(
    ("budget", "runs"),
    [
        (None, 1),
        (Budget(timeout=1.0), 1),
        (Budget(retries=5), 1),
        (Budget(crash_retries=2), 3),
        (Budget(retries=5, crash_retries=2), 3),
    ],
)
def test_a_task_is_run_again_after_crashes_as_often_as_crash_retries_says(
    bench: Bench, budget: Budget | None, runs: int
) -> None:
    bench.submit(1, budget=budget)

    assert ["retry"] * (runs - 1) + ["crash"] == [lose(bench) for _ in range(runs)]
    assert (0, 0, 0, 1) == counts(bench.scheduler)


@pytest.mark.parametrize(
    ("budget", "runs"),
    [
        (None, 1),
        (Budget(timeout=1.0), 1),
        (Budget(retries=1), 1 + LOSSES_MAX),
        (Budget(crash_retries=2), 1 + LOSSES_MAX + 2),
    ],
)
def test_workers_that_are_taken_away_cost_free_runs_first_and_crash_retries_then(
    bench: Bench, budget: Budget | None, runs: int
) -> None:
    bench.submit(1, budget=budget)

    assert ["retry"] * (runs - 1) + ["crash"] == [lose(bench, is_taken_away=True) for _ in range(runs)]


@pytest.mark.parametrize(
    ("budget", "runs"),
    [
        (Budget(timeout=1.0), 1),
        (Budget(timeout=1.0, retries=2), 1),
        (Budget(timeout=1.0, crash_retries=9), 1),
        (Budget(timeout=1.0, retries=2, crash_retries=9, is_timeout_retried=True), 3),
    ],
)
def test_a_worker_killed_for_a_timeout_costs_retries_and_only_if_the_timeout_is_one_to_retry_on(
    bench: Bench, budget: Budget, runs: int
) -> None:
    bench.submit(1, budget=budget)

    assert ["retry"] * (runs - 1) + ["crash"] == [lose(bench, timed_out=True) for _ in range(runs)]


def test_a_task_that_timed_out_has_timed_out_also_if_its_worker_was_taken_away(bench: Bench) -> None:
    """The supervisor is lost just after it killed the worker: the cell still says what for."""
    bench.submit(1, budget=Budget(timeout=1.0, crash_retries=9))

    assert "crash" == lose(bench, timed_out=True, is_taken_away=True)


def test_a_timeout_of_another_task_is_not_this_ones(bench: Bench) -> None:
    worker = load(bench, "w1", Budget(timeout=1.0, crash_retries=1), 2)
    bench.answer(worker, 1)
    bench.take()
    bench.scheduler.worker_lost(worker, 2, 0.0, timed_out=1)

    assert [("retry", 2, "w1", "lost", 2)] == bench.take()


def test_nothing_is_run_again_when_the_pool_is_being_ended(bench: Bench) -> None:
    worker = bench.join("w1")
    bench.submit(budget=Budget(crash_retries=3))
    bench.take()
    bench.scheduler.worker_lost(worker, 1, 0.0, is_last=True)

    assert [("crash", 1, "w1")] == bench.take()
