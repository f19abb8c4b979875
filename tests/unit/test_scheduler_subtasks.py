"""Tasks that submit tasks: their workers lend their slots, and nobody waits for ever."""

from __future__ import annotations

import pytest

from crew_executor.core.scheduler import Scheduler
from crew_executor.core.task import Task
from crew_executor.core.worker import Worker

from .fakes import FakePort, make_outcome


class Pool:
    """A scheduler with some slots and workers."""

    def __init__(self, slots: int, workers: int) -> None:
        self.port = FakePort()
        self.scheduler = Scheduler(self.port, slots)
        self.tasks: list[Task] = []
        self.workers = [self.join() for _ in range(workers)]

    def join(self) -> Worker:
        worker = Worker(f"w{len(self.scheduler.workers) + 1}")
        self.scheduler.worker_ready(worker, 0.0)
        return worker

    def submit(self, parent: Task | None = None, priority: int = 0) -> Task:
        task = Task(len(self.tasks) + 1, "f", (b"",), parent=parent, priority=priority)
        self.tasks.append(task)
        self.scheduler.submit([task], 0.0)
        return task

    def finish(self, task: Task) -> None:
        assert task.worker is not None
        self.scheduler.outcomes(task.worker, [make_outcome(task.task_id, task.attempt, seconds=1.0)], 0.0)

    def running(self) -> list[int]:
        return sorted(task.task_id for worker in self.workers for task in worker.held.values())


def test_a_waiting_task_lends_its_slot_and_has_it_back() -> None:
    pool = Pool(slots=1, workers=2)
    (first, spare), parent = pool.workers, pool.submit()
    holder, other = (first, spare) if first.held else (spare, first)
    pool.submit()
    assert not other.held, "the slot is taken"

    child = pool.submit(parent)
    assert (holder.state, child.worker) == ("waiting", other)
    assert (pool.scheduler.workers_ready, pool.scheduler.workers_lending) == (1, 1)

    pool.finish(child)
    assert (holder.state, other.held) == ("busy", {}), "the slot is the parent's again"
    assert pool.scheduler.workers_spare == 1
    pool.finish(parent)
    assert pool.running() == [2]


def test_subtasks_go_first_the_deepest_before_all() -> None:
    pool = Pool(slots=1, workers=1)
    parent = pool.submit()
    pool.submit()
    child = pool.submit(parent)
    pool.workers.append(pool.join())
    assert child.worker is pool.workers[1]
    grandchild, sibling = pool.submit(child), pool.submit(parent)
    pool.workers.append(pool.join())

    assert (grandchild.worker, sibling.worker) == (pool.workers[2], None)
    pool.finish(grandchild)
    pool.finish(child)
    assert sibling.worker is not None
    assert pool.tasks[1].worker is None


def test_a_higher_priority_goes_before_depth() -> None:
    pool = Pool(slots=1, workers=1)
    child = pool.submit(pool.submit())
    urgent = pool.submit(priority=1)
    pool.workers.append(pool.join())

    assert (child.worker, urgent.worker) == (None, pool.workers[1])


def test_what_was_sent_ahead_of_a_waiting_task_is_taken_back() -> None:
    pool = Pool(slots=2, workers=1)
    for _ in range(60):
        pool.scheduler.estimates.observe("f", 1e-4)
    parent, ahead = pool.submit(), pool.submit()
    assert ahead.worker is parent.worker is not None
    child = pool.submit(parent)
    assert ("recall", parent.worker.name) in pool.port.effects
    pool.scheduler.recalled(parent.worker, parent.ordinal, 0.0)

    assert (ahead.worker, child.worker) == (None, None)
    pool.workers.append(pool.join())
    assert pool.workers[1].held


@pytest.mark.parametrize("end", ["cancel", "outcome", "parent"])
def test_the_slot_is_given_back_however_the_waiting_ends(end: str) -> None:
    pool = Pool(slots=1, workers=1)
    parent = pool.submit()
    child = pool.submit(parent)
    assert pool.workers[0].is_lending
    if end == "cancel":
        assert pool.scheduler.cancel(child)
    elif end == "outcome":
        pool.workers.append(pool.join())
        pool.finish(child)
    else:
        pool.finish(parent)

    assert not pool.workers[0].is_lending
    assert pool.scheduler.workers_lending == 0


def test_a_parent_that_is_run_again_does_not_wait_for_the_tasks_of_its_former_run() -> None:
    pool = Pool(slots=2, workers=1)
    parent = pool.submit()
    old = pool.submit(parent)
    parent.attempt += 1  # as a retry does
    parent.subtasks_open = 0
    pool.workers.append(pool.join())
    assert old.worker is pool.workers[1]
    new = pool.submit(parent)
    pool.finish(old)

    assert parent.subtasks_open == 1
    assert pool.workers[0].is_lending
    pool.finish(new) if new.worker else pool.scheduler.cancel(new)
    assert not pool.workers[0].is_lending


def test_a_tree_of_tasks_drains_with_few_waiting() -> None:
    """Each task submits three and waits, five levels deep: 364 tasks, with two slots."""
    pool, waiting_most = Pool(slots=2, workers=0), 0
    root = pool.submit()
    expanded: set[int] = set()
    for _ in range(10_000):
        scheduler = pool.scheduler
        if not scheduler.tasks_open:
            break
        if scheduler.workers_ready < min(2, scheduler.tasks_open - scheduler.workers_lending):
            pool.workers.append(pool.join())
        held = [task for worker in pool.workers for task in worker.held.values()]
        waiting_most = max(waiting_most, scheduler.workers_lending)
        for task in held:
            if task.task_id not in expanded and task.depth < 5:
                expanded.add(task.task_id)
                for _ in range(3):
                    pool.submit(task)
            elif not task.subtasks_open and task.worker is not None:
                pool.finish(task)

    assert (len(pool.tasks), scheduler.tasks_done, root.state) == (364, 364, "done")
    assert waiting_most <= 10, "two branches at most, each of five levels"


def test_who_stands_in_with_the_same_gpu_leaves_when_the_waiting_task_goes_on() -> None:
    pool = Pool(slots=1, workers=1)
    (holder,), parent = pool.workers, pool.submit()
    child = pool.submit(parent)
    stand_in = pool.join()
    holder.stand_ins.append(stand_in)
    assert child.worker is stand_in
    assert not stand_in.is_leaving

    pool.finish(child)
    assert stand_in.is_leaving
    assert ("dismiss", stand_in.name) in pool.port.effects
