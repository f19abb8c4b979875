"""Checks core/scheduler.py by example: taking back what was sent ahead, and how workers leave."""

from __future__ import annotations

import pytest

from crew_executor.core.horizon import HORIZON_MIN
from crew_executor.core.roster import AHEAD_ONE_SECONDS, RECALL_SECONDS
from crew_executor.core.worker import Worker

from .fakes import Bench

SHORT = 0.0004
"""Two of these ahead are worth a recall."""
LONG_AGO = 1000.0
"""A moment at which every task sent at 0 has outlived any horizon."""


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.teach("short", SHORT)
    return bench


def load(bench: Bench, name: str, count: int, *, tasks_max: int | None = None) -> Worker:
    """Return a worker that joined when `count` short tasks waited and holds all of them."""
    bench.submit(count, key="short")
    worker = bench.join(name, tasks_max=tasks_max)
    assert count == len(worker.held)
    bench.take()
    return worker


# ---------------------------------------------------------------------- for an idle worker


def test_a_worker_that_joins_idle_gets_work_from_the_one_that_has_most_ahead(bench: Bench) -> None:
    load(bench, "w1", 3)
    bench.join("w2")

    assert 2 * SHORT > RECALL_SECONDS
    assert [("recall", "w1")] == bench.take()


def test_a_worker_that_becomes_idle_gets_work_from_the_one_that_has_most_ahead(bench: Bench) -> None:
    some = load(bench, "w1", 3)
    bench.submit(8, key="short")
    most = bench.join("w2")
    bench.scheduler.cancel_all()
    bench.submit(1, key="never seen")
    last = bench.join("w3")
    bench.take()
    assert (3, 4, 1) == (len(some.held), len(most.held), len(last.held))
    bench.answer(last, *last.held)

    assert [("finish", 12, "w3"), ("recall", "w2")] == bench.take()


def test_what_is_taken_back_goes_to_the_idle_worker(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.join("w2")
    bench.take()
    bench.scheduler.recalled(worker, 1, 0.0)

    assert [("unsend", 3), ("unsend", 2), ("send", "w2", [2])] == bench.take()
    assert [3] == [task.task_id for task in bench.scheduler.queue]


def test_a_worker_is_recalled_once_until_it_answers(bench: Bench) -> None:
    load(bench, "w1", 3)
    bench.join("w2")
    bench.join("w3")
    bench.scheduler.tick(LONG_AGO)

    assert [("recall", "w1")] == bench.take()
    assert bench.scheduler.next_tick() is None


def test_nothing_is_sent_to_a_worker_that_owes_an_answer(bench: Bench) -> None:
    """A task that crossed with the answer could be taken back by it though it had arrived after."""
    worker = load(bench, "w1", 3)
    bench.scheduler.tick(LONG_AGO)
    bench.answer(worker, 1, 2)
    bench.submit(1, key="short")
    bench.answer(worker, 3)
    before = bench.take()
    bench.scheduler.recalled(worker, 3, LONG_AGO)

    assert "send" not in {effect[0] for effect in before}
    assert [("send", "w1", [4])] == bench.take()


def test_an_idle_worker_is_not_passed_over_for_one_that_owes_an_answer(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.join("w2")  # recalls from w1
    bench.answer(worker, 1, 2, 3)  # w1 is empty-handed too, but may get nothing before it has answered
    bench.take()
    bench.submit(1, key="short")

    assert [("send", "w2", [4])] == bench.take()


def test_a_loss_while_an_empty_worker_owes_an_answer_comes_to_an_end(bench: Bench) -> None:
    """Steps: 1 w1 is recalled; 2 its outcomes arrive before the answer; 3 w2 dies and its task looks for a worker."""
    owing = load(bench, "w1", 3)
    dying = bench.join("w2")
    bench.answer(owing, 1, 2, 3)
    bench.submit(1, key="short")
    bench.take()
    bench.scheduler.worker_lost(dying, 0, 0.0)
    lost = bench.take()
    bench.scheduler.recalled(owing, 3, 0.0)

    assert [("unsend", 4)] == lost
    assert [("send", "w1", [4])] == bench.take()


def test_an_answer_that_gives_nothing_back_changes_nothing(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.scheduler.tick(LONG_AGO)
    bench.take()
    bench.scheduler.recalled(worker, 3, LONG_AGO)

    assert [] == bench.take()
    assert 3 == len(worker.held)


def test_an_answer_may_give_back_everything(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.scheduler.tick(LONG_AGO)
    bench.take()
    bench.scheduler.recalled(worker, 0, LONG_AGO)

    assert [("unsend", 3), ("unsend", 2), ("unsend", 1), ("send", "w1", [1, 2, 3])] == bench.take()
    assert [4, 5, 6] == [task.ordinal for task in worker.held.values()]


def test_the_answer_of_a_dead_worker_gives_nothing_back(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.scheduler.tick(LONG_AGO)
    bench.scheduler.worker_lost(worker, 1, LONG_AGO)
    bench.take()
    bench.scheduler.recalled(worker, 1, LONG_AGO)

    assert [] == bench.take()
    assert [2, 3] == [task.task_id for task in bench.scheduler.queue]


def test_a_task_given_back_by_one_worker_is_not_finished_by_it(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.join("w2")
    bench.scheduler.recalled(worker, 1, 0.0)
    bench.take()
    bench.answer(worker, 2)

    assert "finish" not in {effect[0] for effect in bench.take()}
    assert "sent" == bench.tasks[2].state


# ---------------------------------------------------------------------- because a task takes long


def test_a_worker_whose_task_outlives_the_horizon_is_recalled(bench: Bench) -> None:
    load(bench, "w1", 3)
    due = bench.scheduler.next_tick()
    assert due is not None
    bench.scheduler.tick(due * 0.99)
    before = bench.take()
    bench.scheduler.tick(due)

    assert [] == before
    assert [("recall", "w1")] == bench.take()
    assert 2 * HORIZON_MIN < due < 2 * HORIZON_MIN + AHEAD_ONE_SECONDS


def test_a_worker_that_makes_progress_is_not_recalled(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    due = bench.scheduler.next_tick()
    assert due is not None
    bench.answer(worker, 1, now=due)
    bench.scheduler.tick(due)

    assert [("finish", 1, "w1")] == bench.take()


def test_there_is_nothing_to_tick_without_work_ahead(bench: Bench) -> None:
    bench.join("w1")
    bench.submit(1, key="short")
    bench.scheduler.tick(LONG_AGO)

    assert not bench.scheduler.has_work_ahead
    assert bench.scheduler.next_tick() is None
    assert [("send", "w1", [1])] == bench.take()


def test_the_shell_is_told_when_ticks_are_needed(bench: Bench) -> None:
    worker = load(bench, "w1", 2)
    with_two = bench.scheduler.has_work_ahead
    bench.answer(worker, 1)

    assert with_two
    assert not bench.scheduler.has_work_ahead


# ---------------------------------------------------------------------- leaving


def test_an_idle_worker_may_leave_and_gets_nothing_more(bench: Bench) -> None:
    worker = bench.join("w1")
    may_leave = bench.scheduler.leave_requested(worker)
    bench.submit()

    assert may_leave
    assert [("dismiss", "w1")] == bench.take()
    assert 0 == bench.scheduler.workers_ready


def test_a_worker_stays_when_a_task_crossed_its_request_to_leave(bench: Bench) -> None:
    worker = bench.join("w1")
    bench.submit()
    bench.take()

    assert not bench.scheduler.leave_requested(worker)
    assert [] == bench.take()


def test_a_worker_that_was_told_to_leave_is_not_told_again(bench: Bench) -> None:
    worker = bench.join("w1")
    bench.scheduler.dismiss(worker)
    bench.scheduler.dismiss(worker)

    assert not bench.scheduler.leave_requested(worker)
    assert [("dismiss", "w1")] == bench.take()


def test_a_stranger_may_not_leave(bench: Bench) -> None:
    assert not bench.scheduler.leave_requested(Worker("never seen"))
    assert [] == bench.take()


def test_a_dismissed_worker_keeps_what_it_has_started_and_hands_over_the_rest(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.scheduler.dismiss(worker)
    bench.scheduler.recalled(worker, 1, 0.0)
    bench.answer(worker, 1)

    assert [("dismiss", "w1"), ("recall", "w1"), ("unsend", 3), ("unsend", 2), ("finish", 1, "w1")] == bench.take()
    assert [2, 3] == [task.task_id for task in bench.scheduler.queue]


def test_a_worker_dismissed_while_it_owes_an_answer_is_not_recalled_twice(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.scheduler.tick(LONG_AGO)
    bench.scheduler.dismiss(worker)
    bench.scheduler.recalled(worker, 1, LONG_AGO)

    assert [("recall", "w1"), ("dismiss", "w1"), ("unsend", 3), ("unsend", 2)] == bench.take()


def test_a_worker_that_dies_while_it_leaves_is_judged_like_any_other(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.scheduler.dismiss(worker)
    bench.take()
    bench.scheduler.worker_lost(worker, 1, 0.0)

    assert [("unsend", 3), ("unsend", 2), ("crash", 1, "w1")] == bench.take()


# ---------------------------------------------------------------------- max_tasks_per_child


def test_a_worker_gets_no_more_tasks_than_its_life_has_and_leaves_after_the_last(bench: Bench) -> None:
    bench.submit(4, key="short")
    worker = bench.join("w1", tasks_max=2)

    assert [("send", "w1", [1, 2]), ("dismiss", "w1")] == bench.take()
    assert 0 == worker.tasks_left
    bench.answer(worker, 1, 2)
    assert [("finish", 1, "w1"), ("finish", 2, "w1")] == bench.take()
    assert (2, 0) == (len(bench.scheduler.queue), bench.scheduler.workers_ready)


def test_tasks_that_were_taken_back_do_not_count_against_a_workers_life(bench: Bench) -> None:
    worker = load(bench, "w1", 3, tasks_max=4)
    bench.scheduler.tick(LONG_AGO)
    bench.scheduler.recalled(worker, 1, LONG_AGO)

    assert 3 == worker.tasks_left


def test_short_tasks_are_taken_back_from_behind_a_long_one_though_the_worker_is_on_its_last_tasks(bench: Bench) -> None:
    worker = load(bench, "w1", 3, tasks_max=3)
    assert worker.is_leaving
    assert bench.scheduler.has_work_ahead
    due = bench.scheduler.next_tick()
    assert due is not None
    bench.scheduler.tick(due)
    recalled = bench.take()
    bench.scheduler.recalled(worker, 1, due)

    assert [("recall", "w1")] == recalled
    assert [2, 3] == [task.task_id for task in bench.scheduler.queue]
    assert bench.scheduler.next_tick() is None


def test_an_idle_worker_gets_work_from_one_that_is_on_its_last_tasks(bench: Bench) -> None:
    load(bench, "w1", 3, tasks_max=3)
    bench.join("w2")

    assert [("recall", "w1")] == bench.take()


def test_a_worker_on_its_last_tasks_is_not_counted_as_ready(bench: Bench) -> None:
    load(bench, "w1", 3, tasks_max=3)

    assert 0 == bench.scheduler.workers_ready
