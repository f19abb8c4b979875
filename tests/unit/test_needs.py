"""Checks core/needs.py, and by example what the scheduler does with tasks that only some workers can run."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crew_executor.core.needs import check_resources, first_queue, in_words, is_met, needs_of
from crew_executor.core.task import QUEUED, Task
from crew_executor.core.taskqueue import TaskQueue
from crew_executor.core.worker import Worker

from .fakes import Bench

GPU = (("gpus", 1),)
GPUS = (("gpus", 2),)


def test_needs_are_sorted_and_without_what_is_none() -> None:
    assert (("a", 1), ("b", 0.5)) == needs_of({"b": 0.5, "c": 0, "a": 1})
    assert needs_of(needs_of({"b": 1})) == needs_of({"b": 1})
    assert needs_of({}) == ()


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("gpus", TypeError), (["gpus"], TypeError), ({1: 1}, TypeError), ({"gpus": "1"}, TypeError),
        ({"gpus": True}, TypeError), ({"gpus": -1}, ValueError), ({"gpus": math.inf}, ValueError),
        ({"gpus": math.nan}, ValueError), ({"gpus": 10**400}, ValueError), ({"": 1}, ValueError), ((1,), TypeError),
    ],
)  # fmt: skip
def test_what_is_no_amount_is_refused(given: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"launcher's resources must"):
        check_resources("launcher's resources", given)


def test_who_has_as_much_of_each_can_run_it() -> None:
    needs = needs_of({"gpus": 1, "licences": 2})

    assert is_met(needs, {"gpus": 1, "licences": 2})
    assert is_met(needs, {"gpus": 4, "licences": 2.5, "other": 1})
    assert not is_met(needs, {"gpus": 1, "licences": 1})
    assert not is_met(needs, {"gpus": 1})
    assert is_met((), {})


def test_amounts_in_words() -> None:
    assert in_words({"licences": 1, "gpus": 0.5}) == "gpus=0.5, licences=1"
    assert in_words({}) == "nothing"


def queue_of(*tasks: Task) -> TaskQueue:
    queue = TaskQueue()
    for task in tasks:
        task.state = QUEUED
        queue.append(task)
    return queue


def test_the_first_queue_is_that_of_the_highest_rank_then_of_the_oldest() -> None:
    one, two = queue_of(Task(3, "f", ())), queue_of(Task(2, "f", ()))
    queues = {GPU: one, GPUS: two}

    assert first_queue(queues, {"gpus": 2}) is two
    assert first_queue(queues, {"gpus": 1}) is one
    assert first_queue(queues, {}) is None
    one.append(Task(9, "f", (), priority=1))
    next(iter(one._by_rank.values()))  # the new one is not queued yet: a stone
    assert first_queue(queues, {"gpus": 2}) is two


def join(bench: Bench, name: str, gpus: int) -> Worker:
    worker = Worker(name)
    worker.resources = {"gpus": gpus} if gpus else {}
    bench.scheduler.worker_ready(worker, 0.0)
    return worker


def submit(bench: Bench, needs: Any = None, key: str = "f") -> Task:
    task = Task(len(bench.tasks) + 1, key, (b"call",), needs=needs)
    bench.tasks[task.task_id] = task
    bench.scheduler.submit([task], 0.0)
    return task


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.teach("short", 0.0002)
    made.teach("long", 10.0)
    return made


def test_a_task_waits_for_a_worker_that_has_what_it_needs(bench: Bench) -> None:
    join(bench, "plain", 0)
    submit(bench, GPU)

    assert bench.take() == []
    assert bench.scheduler.tasks_queued == bench.scheduler.tasks_open == 1
    join(bench, "able", 1)
    assert bench.take() == [("send", "able", [1])]


def test_others_go_past_it(bench: Bench) -> None:
    submit(bench, GPU)
    join(bench, "plain", 0)
    submit(bench)

    assert bench.take() == [("send", "plain", [2])]


def test_who_has_nothing_special_is_given_ordinary_tasks_first(bench: Bench) -> None:
    join(bench, "plain", 0)
    join(bench, "able", 1)

    submit(bench)
    assert bench.take() == [("send", "plain", [1])]
    submit(bench, GPU)
    assert bench.take() == [("send", "able", [2])]


def test_ordinary_tasks_do_not_follow_one_another_while_a_special_one_waits(bench: Bench) -> None:
    able = join(bench, "able", 1)
    for _ in range(3):
        submit(bench, key="long")  # one at a time
    submit(bench, GPU)
    assert bench.take() == [("send", "able", [1])]

    bench.answer(able, 1, seconds=10.0)
    assert bench.take() == [("finish", 1, "able"), ("send", "able", [4])]
    bench.answer(able, 4)
    assert bench.take() == [("finish", 4, "able"), ("send", "able", [2])]


def test_special_tasks_go_one_at_a_time_even_if_they_are_short(bench: Bench) -> None:
    able = join(bench, "able", 1)
    for _ in range(3):
        submit(bench, GPU, key="short")

    assert bench.take() == [("send", "able", [1])]
    bench.answer(able, 1)
    assert bench.take() == [("finish", 1, "able"), ("send", "able", [2])]


def test_a_cancelled_one_is_gone_and_counted(bench: Bench) -> None:
    task = submit(bench, GPU)

    assert bench.scheduler.cancel(task)
    assert bench.scheduler.tasks_open == 0
    join(bench, "able", 1)
    assert bench.take() == []


def test_it_comes_back_when_its_worker_dies_before_it_starts(bench: Bench) -> None:
    able = join(bench, "able", 1)
    join(bench, "plain", 0)
    submit(bench, GPU)
    bench.take()

    bench.scheduler.worker_lost(able, 0, 0.0)
    assert bench.take() == [("unsend", 1)]
    assert bench.scheduler.tasks_queued == 1
    join(bench, "other", 2)
    assert bench.take() == [("send", "other", [1])]


def test_all_are_cancelled_with_the_others(bench: Bench) -> None:
    tasks = [submit(bench, GPU), submit(bench), submit(bench, GPUS)]

    assert set(tasks) == set(bench.scheduler.cancel_all())
    assert bench.scheduler.tasks_open == 0
