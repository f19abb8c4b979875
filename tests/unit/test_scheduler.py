"""Checks core/scheduler.py by example: who gets what, how much ahead, what is taken back, what becomes of it all."""

from __future__ import annotations

import math

import pytest

from crew_executor.core.horizon import AHEAD_BYTES, AHEAD_TASKS, FRAME_TASKS, HORIZON_MAX, HORIZON_MIN, REACTIONS
from crew_executor.core.roster import AHEAD_ONE_SECONDS, RECALL_SECONDS
from crew_executor.core.scheduler import Scheduler
from crew_executor.core.task import Task
from crew_executor.core.worker import Worker

from .fakes import Bench, make_outcome

SHORT = 0.0002
LONG_AGO = 1000.0
"""A moment at which every task sent at 0 has outlived any horizon."""


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.teach("short", SHORT)
    bench.teach("tiny", 0.0)
    bench.teach("medium", AHEAD_ONE_SECONDS / 2)
    bench.teach("long", 10.0)
    return bench


def counts(scheduler: Scheduler) -> tuple[int, int, int, int]:
    return scheduler.tasks_open, scheduler.tasks_held, len(scheduler.queue), scheduler.tasks_done


def load(bench: Bench, name: str, count: int, *, tasks_max: int | None = None) -> Worker:
    """Return a worker that joined when `count` short tasks waited and holds all of them."""
    bench.submit(count, key="short")
    worker = bench.join(name, tasks_max=tasks_max)
    assert count == len(worker.held)
    bench.take()
    return worker


# ---------------------------------------------------------------------- who gets what


def test_a_waiting_task_goes_to_the_first_worker_that_joins(bench: Bench) -> None:
    (task,) = bench.submit()
    worker = bench.join("w1")

    assert [("send", "w1", [1])] == bench.take()
    assert ("sent", worker, 1) == (task.state, task.worker, task.ordinal)


def test_an_idle_worker_gets_a_new_task_at_once(bench: Bench) -> None:
    bench.join("w1")
    bench.submit()

    assert [("send", "w1", [1])] == bench.take()


def test_the_worker_that_became_idle_last_is_used_first(bench: Bench) -> None:
    """So that the others can leave."""
    bench.join("w1")
    bench.join("w2")
    bench.submit()

    assert [("send", "w2", [1])] == bench.take()


def test_tasks_go_out_by_priority_and_then_in_order(bench: Bench) -> None:
    for priority in (0, 2, -1, 2, 0):
        bench.submit(priority=priority)
    worker = bench.join("w1")
    for task_id in (2, 4, 1, 5):
        bench.answer(worker, task_id, seconds=10.0)

    assert [[2], [4], [1], [5], [3]] == [effect[2] for effect in bench.take() if effect[0] == "send"]


def test_two_workers_of_one_name_are_refused(bench: Bench) -> None:
    bench.join("w1")
    with pytest.raises(ValueError, match="worker w1 is already at work"):
        bench.join("w1")


def test_counters_follow_a_task_through_its_life(bench: Bench) -> None:
    seen = [counts(bench.scheduler)]
    bench.submit(2)
    seen.append(counts(bench.scheduler))
    worker = bench.join("w1")
    seen.append(counts(bench.scheduler))
    bench.answer(worker, 1, seconds=10.0)
    seen.append(counts(bench.scheduler))
    bench.answer(worker, 2)
    seen.append(counts(bench.scheduler))

    assert [(0, 0, 0, 0), (2, 0, 2, 0), (2, 1, 1, 0), (1, 1, 0, 1), (0, 0, 0, 2)] == seen
    assert 2 == worker.tasks_done


def test_a_payload_is_let_go_when_its_task_is_done(bench: Bench) -> None:
    done, cancelled = bench.submit(2)
    worker = bench.join("w1")
    bench.scheduler.cancel(cancelled)
    bench.answer(worker, 1)

    assert ((), ()) == (done.payload, cancelled.payload)


# ---------------------------------------------------------------------- how much ahead


def test_tasks_of_a_function_never_seen_go_one_at_a_time(bench: Bench) -> None:
    bench.submit(3, key="new")
    bench.join("w1")

    assert [("send", "w1", [1])] == bench.take()


def test_short_tasks_go_out_together_with_consecutive_ordinals(bench: Bench) -> None:
    tasks = bench.submit(5, key="short")
    worker = bench.join("w1")

    assert [("send", "w1", [1, 2, 3, 4, 5])] == bench.take()
    assert [1, 2, 3, 4, 5] == [task.ordinal for task in tasks]
    assert 5 == worker.ordinal


def test_a_worker_holds_no_more_work_than_the_horizon(bench: Bench) -> None:
    bench.submit(300, key="short")
    worker = bench.join("w1")

    assert 60 < len(worker.held) < 150
    assert worker.held_seconds <= HORIZON_MIN


def test_a_wider_horizon_lets_more_be_sent_ahead(bench: Bench) -> None:
    bench.scheduler.horizon.observe(1.0)
    bench.submit(300, key="short")
    worker = bench.join("w1")

    assert 150 < len(worker.held)
    assert worker.held_seconds <= HORIZON_MAX


def test_a_worker_holds_at_most_so_many_tasks_however_short(bench: Bench) -> None:
    bench.scheduler.horizon.observe(1.0)
    bench.submit(2 * AHEAD_TASKS, key="tiny")
    worker = bench.join("w1")

    assert AHEAD_TASKS == len(worker.held)


def test_a_worker_that_has_done_one_frame_gets_another_while_it_works_on_the_next(bench: Bench) -> None:
    bench.scheduler.horizon.observe(1.0)
    bench.submit(3 * AHEAD_TASKS, key="tiny")
    worker = bench.join("w1")
    bench.answer(worker, *range(1, FRAME_TASKS))
    bench.take()
    assert FRAME_TASKS + 1 == len(worker.held)  # too many yet
    bench.answer(worker, FRAME_TASKS)

    assert AHEAD_TASKS == len(worker.held)


def test_large_payloads_are_not_sent_ahead(bench: Bench) -> None:
    bench.submit(3, key="tiny", size=AHEAD_BYTES // 2 + 1)
    bench.join("w1")

    assert [("send", "w1", [1])] == bench.take()


def test_a_task_larger_than_all_that_may_wait_still_runs(bench: Bench) -> None:
    bench.submit(1, key="tiny", size=10 * AHEAD_BYTES)
    bench.join("w1")

    assert [("send", "w1", [1])] == bench.take()


def test_nothing_waits_behind_an_unknown_task(bench: Bench) -> None:
    bench.submit(1, key="new")
    bench.submit(1, key="tiny")
    bench.join("w1")

    assert [("send", "w1", [1])] == bench.take()


def test_an_unknown_task_waits_behind_nothing(bench: Bench) -> None:
    bench.submit(1, key="tiny")
    bench.submit(1, key="new")
    bench.join("w1")

    assert [("send", "w1", [1])] == bench.take()


def test_one_medium_task_may_wait_at_a_busy_worker_but_not_two(bench: Bench) -> None:
    bench.submit(3, key="medium")
    bench.join("w1")

    assert [("send", "w1", [1, 2])] == bench.take()


def test_a_long_task_waits_in_the_queue(bench: Bench) -> None:
    bench.submit(2, key="long")
    bench.join("w1")

    assert [("send", "w1", [1])] == bench.take()


def test_a_new_task_is_sent_behind_the_only_short_one(bench: Bench) -> None:
    bench.join("w1")
    bench.submit(2, key="short")

    assert [("send", "w1", [1]), ("send", "w1", [2])] == bench.take()


def test_nothing_is_sent_behind_a_task_that_has_outlived_the_horizon(bench: Bench) -> None:
    """It would have to be recalled at once, and could not be from a task that never lets go of the interpreter."""
    bench.join("w1")
    bench.submit(1, key="short")
    bench.submit(1, key="short", now=LONG_AGO)

    assert [("send", "w1", [1])] == bench.take()
    assert 1 == len(bench.scheduler.queue)


def test_a_worker_that_answers_first_takes_an_equal_share(bench: Bench) -> None:
    first, second = bench.join("w1"), bench.join("w2")
    bench.submit(2, key="long")
    bench.submit(4, key="tiny")
    bench.take()
    bench.answer(first, 2, seconds=10.0)  # held by w1 or by w2: the other call is dropped
    bench.answer(second, 1, seconds=10.0)
    bench.answer(first, 1, seconds=10.0)
    bench.answer(second, 2, seconds=10.0)

    assert 2 == len([effect for effect in bench.take() if effect[0] == "finish"])
    assert len(first.held) == 2 == len(second.held)


# ---------------------------------------------------------------------- the horizon


def test_the_horizon_rises_at_once_and_comes_down_slowly(bench: Bench) -> None:
    scheduler = bench.scheduler
    scheduler.horizon.observe(0.010)
    risen = scheduler.horizon.seconds
    scheduler.horizon.observe(0.0)
    soon = scheduler.horizon.seconds
    for _ in range(200):
        scheduler.horizon.observe(0.0)

    assert REACTIONS * 0.010 == risen
    assert HORIZON_MIN < soon < risen
    assert soon > 0.9 * risen
    assert pytest.approx(HORIZON_MIN, rel=1e-3) == scheduler.horizon.seconds


@pytest.mark.parametrize("seconds", [-1e300, -1.0, 0.0, 1e300, math.inf, -math.inf, math.nan])
def test_the_horizon_keeps_its_bounds_whatever_clock_a_worker_claims(bench: Bench, seconds: float) -> None:
    bench.scheduler.horizon.observe(seconds)

    assert HORIZON_MIN <= bench.scheduler.horizon.seconds <= HORIZON_MAX


# ---------------------------------------------------------------------- cancel


def test_a_queued_task_can_be_cancelled_once(bench: Bench) -> None:
    (task,) = bench.submit()

    assert bench.scheduler.cancel(task)
    assert not bench.scheduler.cancel(task)
    assert (0, 0, 0, 1) == counts(bench.scheduler)


def test_a_cancelled_task_is_never_sent(bench: Bench) -> None:
    first, _ = bench.submit(2)
    bench.scheduler.cancel(first)
    bench.join("w1")

    assert [("send", "w1", [2])] == bench.take()


def test_a_task_that_was_sent_or_is_done_cannot_be_cancelled(bench: Bench) -> None:
    worker = bench.join("w1")
    (task,) = bench.submit()
    when_sent = bench.scheduler.cancel(task)
    bench.answer(worker, 1)

    assert not when_sent
    assert not bench.scheduler.cancel(task)


def test_a_task_that_was_taken_back_can_be_cancelled(bench: Bench) -> None:
    worker = load(bench, "w1", 2)
    bench.scheduler.tick(LONG_AGO)
    bench.scheduler.recalled(worker, 1, LONG_AGO)

    assert bench.scheduler.cancel(bench.tasks[2])
    assert (1, 1, 0, 1) == counts(bench.scheduler)


def test_cancel_all_drops_what_is_queued_and_nothing_else(bench: Bench) -> None:
    bench.join("w1")
    sent, *queued = bench.submit(4)

    assert queued == bench.scheduler.cancel_all()
    assert "sent" == sent.state
    assert (1, 1, 0, 3) == counts(bench.scheduler)
    assert [] == bench.scheduler.cancel_all()


def test_abandon_drops_what_is_queued_and_what_is_held(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.submit(2, key="new")
    abandoned = bench.scheduler.abandon()
    bench.answer(worker, 1, 2, 3)
    bench.scheduler.worker_lost(worker, None, 0.0)

    assert {1, 2, 3, 4, 5} == {task.task_id for task in abandoned}
    assert {"done"} == {task.state for task in abandoned}
    assert [] == bench.take()
    assert (0, 0, 0, 5) == counts(bench.scheduler)


# ---------------------------------------------------------------------- outcomes


def test_an_outcome_finishes_its_task_and_brings_the_next(bench: Bench) -> None:
    bench.submit(2, key="new")
    worker = bench.join("w1")
    bench.take()
    bench.answer(worker, 1, seconds=10.0)

    assert [("finish", 1, "w1"), ("send", "w1", [2])] == bench.take()


def test_a_repeated_outcome_is_dropped(bench: Bench) -> None:
    bench.submit()
    worker = bench.join("w1")
    bench.answer(worker, 1, 1)
    bench.answer(worker, 1)

    assert [("send", "w1", [1]), ("finish", 1, "w1")] == bench.take()
    assert (0, 0, 0, 1) == counts(bench.scheduler)


@pytest.mark.parametrize("attempt", [0, 2, 65535])
def test_an_outcome_of_another_attempt_is_dropped(bench: Bench, attempt: int) -> None:
    bench.submit()
    worker = bench.join("w1")
    bench.answer(worker, 1, attempt=attempt)

    assert [("send", "w1", [1])] == bench.take()
    assert 1 == len(worker.held)


def test_an_outcome_of_a_task_that_the_worker_does_not_hold_is_dropped(bench: Bench) -> None:
    holder, other = bench.join("w1"), bench.join("w2")
    bench.submit(1)
    bench.take()
    bench.answer(holder, 1)  # w2 became idle last and got it

    assert [] == bench.take()
    assert [1] == list(other.held)


def test_a_late_outcome_is_dropped(bench: Bench) -> None:
    bench.submit()
    worker = bench.join("w1")
    bench.scheduler.worker_lost(worker, None, 0.0)
    bench.answer(worker, 1)

    assert [("send", "w1", [1]), ("crash", 1, "w1")] == bench.take()
    assert (0, 0, 0, 1) == counts(bench.scheduler)


def test_a_dropped_outcome_teaches_nothing(bench: Bench) -> None:
    bench.submit(1, key="new")
    worker = bench.join("w1")
    bench.answer(worker, 1, attempt=7, seconds=3.0)
    bench.answer(worker, 99, seconds=3.0)
    before = bench.scheduler.estimates.seconds("new")
    bench.answer(worker, 1, seconds=3.0)

    assert before is None
    assert bench.scheduler.estimates.seconds("new") is not None


def test_outcomes_may_arrive_in_any_order(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.answer(worker, 3, 1)
    bench.answer(worker, 2)

    assert [("finish", number, "w1") for number in (3, 1, 2)] == bench.take()
    assert (0.0, 0) == (worker.held_seconds, worker.held_bytes)


def test_frames_without_news_do_not_hide_that_a_task_takes_long(bench: Bench) -> None:
    """The clock of the running task starts anew only when a task before it has ended."""
    worker = load(bench, "w1", 3)
    expected = bench.scheduler.next_tick()
    bench.scheduler.outcomes(worker, [], 0.5)
    bench.answer(worker, 99, now=0.5)
    bench.answer(worker, 1, attempt=9, now=0.5)

    assert expected == bench.scheduler.next_tick()


# ---------------------------------------------------------------------- a worker dies


@pytest.mark.parametrize("started", [1, 2, 3])
def test_what_a_dead_worker_had_not_started_goes_back_in_order(bench: Bench, started: int) -> None:
    worker = load(bench, "w1", 3)
    bench.scheduler.worker_lost(worker, started, 0.0)
    effects = bench.take()

    assert [("unsend", number) for number in (3, 2, 1) if number > started] == [e for e in effects if e[0] == "unsend"]
    assert [("crash", number, "w1") for number in range(1, started + 1)] == [e for e in effects if e[0] == "crash"]
    assert list(range(started + 1, 4)) == [task.task_id for task in bench.scheduler.queue]
    assert (3 - started, 0, 3 - started, started) == counts(bench.scheduler)


def test_a_worker_that_had_started_nothing_takes_no_task_with_it(bench: Bench) -> None:
    worker = load(bench, "w1", 2)
    bench.scheduler.worker_lost(worker, 0, 0.0)

    assert (2, 0, 2, 0) == counts(bench.scheduler)


def test_when_nobody_knows_what_had_started_everything_may_have_run(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    bench.scheduler.worker_lost(worker, None, 0.0)

    assert [("crash", number, "w1") for number in (1, 2, 3)] == bench.take()
    assert (0, 0, 0, 3) == counts(bench.scheduler)


def test_tasks_of_a_dead_worker_come_before_younger_ones_and_go_to_idle_workers_at_once(bench: Bench) -> None:
    worker = load(bench, "w1", 3)
    other = bench.join("w2")
    bench.take()
    bench.scheduler.worker_lost(worker, 1, 0.0)

    assert [("unsend", 3), ("unsend", 2), ("crash", 1, "w1"), ("send", "w2", [2, 3])] == bench.take()
    assert [1, 2] == [task.ordinal for task in other.held.values()]


def test_a_worker_is_lost_only_once(bench: Bench) -> None:
    worker = load(bench, "w1", 2)
    bench.scheduler.worker_lost(worker, None, 0.0)
    bench.take()
    bench.scheduler.worker_lost(worker, None, 0.0)
    bench.scheduler.worker_lost(Worker("never seen"), None, 0.0)

    assert [] == bench.take()


def test_a_second_report_of_a_loss_leaves_the_successor_of_the_same_name_alone(bench: Bench) -> None:
    first = bench.join("w1")
    bench.scheduler.worker_lost(first, None, 0.0)
    successor = bench.join("w1")
    bench.scheduler.worker_lost(first, None, 0.0)
    bench.submit()

    assert [("send", "w1", [1])] == bench.take()
    assert [successor] == list(bench.scheduler.workers.values())


def test_a_dead_worker_is_never_sent_anything(bench: Bench) -> None:
    worker = bench.join("w1")
    bench.scheduler.worker_lost(worker, None, 0.0)
    bench.submit()
    bench.scheduler.dismiss(worker)
    bench.scheduler.outcomes(worker, [make_outcome(1)], 0.0)
    bench.scheduler.recalled(worker, 0, 0.0)
    bench.scheduler.tick(LONG_AGO)

    assert [] == bench.take()
    assert not bench.scheduler.leave_requested(worker)


# ---------------------------------------------------------------------- words and numbers


def test_a_worker_with_a_call_to_answer_gets_no_task_before(bench: Bench) -> None:
    caller, other = bench.join("w1"), bench.join("w2")
    bench.scheduler.call_begun(caller)
    bench.submit(3, key="short")
    assert (len(caller.held), caller.state) == (0, "busy")
    assert other.held

    bench.scheduler.call_begun(caller)
    bench.scheduler.call_ended(caller, 0.0)
    assert not caller.held, "another call is open"
    bench.scheduler.call_ended(caller, 0.0)
    assert len(caller.held) + len(other.held) == 3, "what waits is its own again"
    assert caller.held


def test_a_call_of_a_worker_that_is_gone_is_nobodys_matter(bench: Bench) -> None:
    worker = bench.join("w1")
    bench.scheduler.call_begun(worker)
    bench.scheduler.worker_lost(worker, 0, 0.0)
    bench.submit()
    bench.scheduler.call_ended(worker, 0.0)
    assert not worker.held


def test_a_worker_says_its_state_in_a_word(bench: Bench) -> None:
    worker = Worker("w1")
    words = [repr(worker)]
    bench.scheduler.worker_ready(worker, 0.0)
    words.append(repr(worker))
    bench.submit()
    words.append(repr(worker))
    bench.scheduler.dismiss(worker)
    words.append(repr(worker))

    assert [
        "<Worker w1 starting held=0>",
        "<Worker w1 idle held=0>",
        "<Worker w1 busy held=1>",
        "<Worker w1 leaving held=1>",
    ] == words


def test_a_task_says_its_state_in_a_word(bench: Bench) -> None:
    (task,) = bench.submit()
    queued = repr(task)
    worker = bench.join("w1")
    sent = repr(task)
    bench.answer(worker, 1)

    assert ("<Task 1 queued attempt=1>", "<Task 1 sent attempt=1>") == (queued, sent)
    assert "<Task 1 done attempt=1>" == repr(task)


@pytest.mark.parametrize(("payload", "size"), [(b"abc", 3), ((b"abc",), 3), ((b"abc", b"de"), 5), (b"", 0)])
def test_the_payload_of_a_task_is_the_sum_of_its_parts(payload: bytes | tuple[bytes, ...], size: int) -> None:
    assert size == Task(1, "f", payload).payload_bytes


def test_a_recall_for_less_than_it_gains_is_not_sent(bench: Bench) -> None:
    bench.submit(3, key="tiny")
    worker = bench.join("w1")
    ahead = worker.held_seconds - bench.tasks[1].estimate
    bench.take()
    bench.join("w2")

    assert 0 < ahead < RECALL_SECONDS
    assert [] == bench.take()


def test_a_worker_that_holds_half_the_bytes_it_may_is_not_filled_up_by_each_outcome() -> None:
    """Else each frame would carry the few tasks whose bytes the last outcomes had made room for."""
    bench = Bench()
    bench.teach("f", 1e-6)
    worker = bench.join("w1")
    bench.submit(400, size=AHEAD_BYTES // 50)
    bench.answer(worker, *worker.held)
    held = len(worker.held)
    assert held == 50
    bench.take()
    bench.answer(worker, *list(worker.held)[:5])
    assert [effect for effect in bench.take() if effect[0] == "send"] == []
    bench.answer(worker, *list(worker.held)[:25])
    assert [effect[0] for effect in bench.take() if effect[0] == "send"] == ["send"]
    assert len(worker.held) == held


def test_the_next_task_takes_what_those_of_its_function_took_as_far_as_they_were_seen(bench: Bench) -> None:
    assert bench.scheduler.next_seconds() == 0

    bench.submit(key="unknown")
    assert bench.scheduler.next_seconds() == 0
    (long,) = bench.submit(key="long", priority=1)
    assert bench.scheduler.next_seconds() >= 10
    bench.scheduler.cancel(long)
    assert bench.scheduler.next_seconds() == 0


@pytest.mark.parametrize(("round_trip", "is_busy"), [(0.0, True), (0.002, False)])
def test_a_leaving_worker_that_runs_a_task_is_busy_unless_its_host_is_another(
    bench: Bench, round_trip: float, is_busy: bool
) -> None:
    bench.scheduler._slots = 1
    first = bench.join("w1", tasks_max=1)
    first.round_trip = round_trip
    bench.submit(2, key="long")
    bench.take()  # the first was sent, and with it the word to leave
    bench.join("w2")

    assert bench.take() == ([] if is_busy else [("send", "w2", [2])])
    bench.answer(first, 1)
    assert ("send", "w2", [2]) in bench.take() or not is_busy
