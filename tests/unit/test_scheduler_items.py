"""Checks how core/scheduler.py deals with tasks of several items: each item runs once, and is lost alone."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crew_executor.core.horizon import AHEAD_BYTES, AHEAD_TASKS
from crew_executor.core.messages import Outcome, TaskFlag
from crew_executor.core.scheduler import Scheduler
from crew_executor.core.task import Task
from crew_executor.core.worker import Worker

from .fakes import GuardedQueue, hypothesis_settings

pytestmark = pytest.mark.timeout(300)

FINISHED, CRASHED, CANCELLED = "finished", "crashed", "cancelled"
TROUBLES = ("join", "join", "join_7", "die", "die_unread", "dismiss", "cancel", "drop")
Item = tuple[int, int]
"""A chunk's number and a place in it."""


class Job(NamedTuple):
    """An item on its way to a worker, or at work there."""

    ordinal: int
    task_id: int
    item: Item


class ItemWorker:
    """A worker at the far end of a link, with the cell that it shares with the client."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.waiting: deque[Job] = deque()
        self.running: Job | None = None
        self.outbox: list[Job] = []
        self.link: deque[list[Outcome]] = deque()
        self.started = self.withdrawn = self.kept = 0

    def withdraw(self, last_sent: int) -> int:
        if self.started > self.withdrawn:
            self.kept = self.started
        self.withdrawn = last_sent
        return self.kept

    def outcomes(self) -> list[Outcome]:
        """Return what is in the outbox: one outcome for consecutive items of a task."""
        found: list[Outcome] = []
        for job in self.outbox:
            last = found[-1] if found else None
            if last is not None and last.task_id == job.task_id and last.first + last.items == job.item[1]:
                found[-1] = last._replace(items=last.items + 1)
            else:
                found.append(Outcome(job.task_id, 1, 0, (b"",), 0.0, 0.001, 0.0, 0, job.item[1], 1))
        return found

    def flush(self) -> None:
        if self.outbox:
            self.link.append(self.outcomes())
            self.outbox = []


class ItemWorld:
    """The port of the scheduler under test, and the truth: which item waits, runs, or is done."""

    def __init__(self, slots: int = 1000) -> None:
        self.scheduler = Scheduler(self, slots)
        self.scheduler.queue = GuardedQueue()
        self.now = 100.0
        self.task_ids = self.chunks = 0
        self.workers: dict[str, ItemWorker] = {}
        self.graves: list[ItemWorker] = []
        self.waiting: list[Item] = []
        self.held: dict[Item, str] = {}
        self.done: dict[Item, str] = {}
        self.starts: Counter[Item] = Counter()
        self.recalls: list[Worker] = []
        self.dropped: set[int] = set()  # chunks

    # ------------------------------------------------------------------ the port

    def send(self, worker: Worker, tasks: list[Task]) -> None:
        fake = self.workers[worker.name]
        assert worker not in self.recalls, "a worker that owes an answer is sent nothing"
        ordinal = worker.ordinal - sum(task.items for task in tasks)
        assert len(worker.held) <= AHEAD_TASKS
        for task in tasks:
            for number in range(task.items):
                ordinal += 1
                item = (task.handle, task.first + number)
                assert task.ordinal + number == ordinal, "each item has an ordinal, and they are consecutive"
                assert item == self.waiting.pop(0), "first in, first out"
                assert item not in self.done
                self.held[item] = worker.name
                fake.waiting.append(Job(ordinal, task.task_id, item))

    def dismiss(self, worker: Worker) -> None: ...

    def recall(self, worker: Worker) -> None:
        assert worker not in self.recalls, "one recall at a time"
        assert worker.held_items > 1, "there is something to take back"
        self.recalls.append(worker)

    def finish(self, worker: Worker, finished: list[tuple[Task, Outcome]]) -> None:
        for task, outcome in finished:
            assert outcome.items > 0
            for place in range(outcome.first, outcome.first + outcome.items):
                assert self.held.pop((task.handle, place)) == worker.name
                self.end((task.handle, place), FINISHED)

    def crash(self, task: Task, worker: Worker) -> None:
        for item in self.items_of(task):
            assert self.held.pop(item) == worker.name
            assert self.starts[item] == 1, "what had not started does not crash"
            self.end(item, CRASHED)

    def retry(self, task: Task, worker: Worker, outcome: Outcome | None) -> None:
        raise AssertionError("items have no budget")

    def unsend(self, task: Task) -> bool:
        items = self.items_of(task)
        for item in items:
            assert not self.starts[item], "what has started is not given back"
            del self.held[item]
        if task.handle in self.dropped:
            for item in items:
                self.end(item, CANCELLED)
            return False
        self.waiting[:0] = items
        return True

    def cut(self, task: Task, number: int) -> Task:
        assert 0 < number < task.items, "both get something"
        return self.make(task.key, task.handle, 0)

    # ------------------------------------------------------------------ what happens

    def make(self, key: Any, chunk: int, items: int, size: int | None = None) -> Task:
        self.task_ids += 1
        return Task(self.task_ids, key, (), chunk, flags=TaskFlag.ITEMS, items=items, payload_bytes=size)

    def items_of(self, task: Task) -> list[Item]:
        return [(task.handle, task.first + number) for number in range(task.items)]

    def end(self, item: Item, how: str) -> None:
        assert item not in self.done, "an item is done once"
        self.done[item] = how

    def submit(self, items: int, key: str = "f", size: int = 100) -> Task:
        self.chunks += 1
        task = self.make(key, self.chunks, items, size)
        self.waiting += self.items_of(task)
        self.scheduler.submit([task], self.now)
        return task

    def cancel(self, task: Task) -> None:
        assert self.scheduler.cancel(task)
        for item in self.items_of(task):
            self.waiting.remove(item)
            self.done[item] = CANCELLED

    def drop(self, chunk: int) -> None:
        """Cancel what is queued of a chunk, and want nothing back that is at workers."""
        self.dropped.add(chunk)
        for task in [task for task in self.scheduler.queue if task.handle == chunk]:
            self.cancel(task)

    def join(self, tasks_max: int | None = None) -> ItemWorker:
        worker = Worker(f"w{len(self.workers) + len(self.graves) + 1}", tasks_max=tasks_max)
        fake = self.workers[worker.name] = ItemWorker(worker)
        self.scheduler.worker_ready(worker, self.now)
        return fake

    def work(self, fake: ItemWorker, items: int) -> None:
        """Let the worker run items, at most so many; the last one is still running then."""
        for _ in range(items):
            if fake.running is not None:
                fake.outbox.append(fake.running)
                fake.running = None
            if not fake.waiting:
                return
            while fake.waiting and fake.running is None:
                job = fake.waiting.popleft()
                fake.started = job.ordinal
                if job.ordinal > fake.withdrawn:
                    self.starts[job.item] += 1
                    assert self.starts[job.item] == 1, "an item runs once"
                    assert self.done.get(job.item) != CANCELLED, "what was cancelled is not started"
                    fake.running = job

    def read(self, fake: ItemWorker, *, is_twice: bool = False) -> None:
        if fake.link:
            outcomes = fake.link.popleft()
            for _ in range(1 + is_twice):
                self.scheduler.outcomes(fake.worker, outcomes, self.now)

    def carry_out(self) -> None:
        """Take back as the shell does: withdraw, judge, and read the outbox, which is sent once more."""
        if self.recalls:
            worker = self.recalls.pop(0)
            fake = self.workers[worker.name]
            kept = fake.withdraw(worker.ordinal)
            self.scheduler.recalled(worker, kept, self.now)
            self.scheduler.outcomes(worker, fake.outcomes(), self.now)

    def lose(self, fake: ItemWorker, *, is_outbox_read: bool) -> None:
        worker = fake.worker
        if is_outbox_read:
            while fake.link:
                self.read(fake)
            self.scheduler.outcomes(worker, fake.outcomes(), self.now)
        known = {job.item for job in fake.outbox} if is_outbox_read else set()
        del self.workers[worker.name]
        self.graves.append(fake)
        if worker in self.recalls:
            self.recalls.remove(worker)
        self.scheduler.worker_lost(worker, fake.started, self.now)
        assert all(self.done[item] == FINISHED for item in known), "what was in the outbox is not lost"

    def check(self) -> None:
        scheduler = self.scheduler
        assert len(scheduler.queue) == len(self.waiting)
        assert [item for task in scheduler.queue for item in self.items_of(task)] == self.waiting
        assert scheduler.tasks_held == len(self.held) == sum(fake.worker.held_items for fake in self.workers.values())
        assert scheduler.tasks_done == len(self.done)
        for fake in self.workers.values():
            assert fake.worker.held_seconds >= -1e-6
            assert fake.worker.held_bytes >= 0

    def drain(self) -> None:
        """Let everybody work until all is done."""
        self.join()
        for _ in range(len(self.waiting) + len(self.held) + 10):
            if not self.waiting and not self.held:
                break
            for fake in list(self.workers.values()):
                self.work(fake, 10_000)
                fake.flush()
                while fake.link:
                    self.read(fake)
            self.now += 1.0
            self.scheduler.tick(self.now)
            while self.recalls:
                self.carry_out()
        assert not self.waiting
        assert not self.held
        self.check()


def teach(world: ItemWorld, seconds: float, key: str = "f") -> None:
    for _ in range(60):
        world.scheduler.estimates.observe(key, seconds)


# ---------------------------------------------------------------------- cutting


def test_of_an_unknown_function_one_item_goes_out() -> None:
    world = ItemWorld()
    fake = world.join()
    world.submit(1000)
    assert len(fake.waiting) == 1
    world.check()


def test_known_items_go_out_as_far_as_the_horizon() -> None:
    world = ItemWorld()
    teach(world, 100e-6)
    fake = world.join()
    world.submit(1000)
    assert 150 <= len(fake.waiting) <= 300, "30 ms of them"


def test_idle_workers_share_what_there_is() -> None:
    world = ItemWorld()
    teach(world, 1e-6)
    fakes = [world.join() for _ in range(4)]
    world.submit(100)
    shares = [len(fake.waiting) for fake in fakes]
    assert max(shares) == 25
    assert min(shares) > 10, "the first takes no more than its share of what waits"


def test_no_more_bytes_go_ahead_than_wait_in_a_socket() -> None:
    world = ItemWorld()
    teach(world, 1e-6)
    fake = world.join()
    world.submit(100, size=100 * AHEAD_BYTES // 10)
    assert len(fake.waiting) == 10


def test_a_worker_gets_no_more_items_than_it_may_still_run() -> None:
    world = ItemWorld()
    teach(world, 1e-6)
    fake = world.join(tasks_max=7)
    world.submit(100)
    assert len(fake.waiting) == 7
    assert fake.worker.is_leaving


# ---------------------------------------------------------------------- taking back, and losing


def run_some(world: ItemWorld, items: int) -> ItemWorker:
    """Let a worker have ten items; the last of so many is running."""
    teach(world, 1e-6)
    fake = world.join()
    world.submit(10)
    world.work(fake, items)
    return fake


def test_what_a_worker_has_not_started_goes_to_another_in_the_middle_of_a_task() -> None:
    world = ItemWorld()
    run_some(world, 4)
    other = world.join()
    assert world.recalls == [], "a few microseconds are not worth it"
    world.now += 1.0
    world.scheduler.tick(world.now)
    world.carry_out()
    assert [job.item[1] for job in other.waiting] == [4, 5, 6]
    world.check()
    world.drain()


def test_an_item_that_ends_its_worker_is_lost_alone() -> None:
    world = ItemWorld()
    fake = run_some(world, 4)
    world.lose(fake, is_outbox_read=True)
    assert world.done == {(1, 0): FINISHED, (1, 1): FINISHED, (1, 2): FINISHED, (1, 3): CRASHED}
    assert len(world.waiting) == 6
    world.check()


def test_what_comes_back_and_is_wanted_no_more_is_done() -> None:
    world = ItemWorld()
    fake = run_some(world, 4)
    world.drop(1)
    world.now += 1.0
    world.scheduler.tick(world.now)
    world.carry_out()
    assert not len(world.scheduler.queue)
    assert [world.done[1, place] for place in range(4, 7)] == [CANCELLED] * 3
    world.check()
    world.lose(fake, is_outbox_read=True)
    assert len(world.done) == 10
    world.check()


def test_what_comes_after_it_was_read_from_the_outbox_is_dropped() -> None:
    world = ItemWorld()
    fake = run_some(world, 4)
    fake.link.append(fake.outcomes())
    world.scheduler.outcomes(fake.worker, fake.outcomes()[:1], world.now)
    world.read(fake, is_twice=True)
    assert len(world.done) == 3
    world.check()


def test_an_outcome_of_items_that_were_not_next_is_dropped() -> None:
    world = ItemWorld()
    fake = run_some(world, 1)
    strange = Outcome(1, 1, 0, (b"",), 0.0, 0.0, 0.0, 0, first=5, items=2)
    world.scheduler.outcomes(fake.worker, [strange], world.now)
    assert not world.done
    world.check()


# ---------------------------------------------------------------------- a nasty world


class NastyItems(RuleBasedStateMachine):
    """What users, workers and links do; the checks are in ItemWorld."""

    @initialize(slots=st.sampled_from([1000, 2]))
    def begin(self, slots: int) -> None:
        self.world = ItemWorld(slots)
        teach(self.world, 1e-6, "tiny")
        teach(self.world, 3e-4, "short")
        self.world.join()

    def some(self, number: int) -> ItemWorker | None:
        fakes = list(self.world.workers.values())
        return fakes[number % len(fakes)] if fakes else None

    @rule(items=st.sampled_from([1, 2, 7, 40, 90]), key=st.sampled_from(["tiny", "short", "new"]), big=st.booleans())
    def submit(self, items: int, key: str, big: bool) -> None:
        self.world.submit(items, key, 60_000 if big else 10 * items)

    @rule(deeds=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(1, 30)), min_size=4, max_size=20))
    def work(self, deeds: list[tuple[int, int, int]]) -> None:
        for deed, who, number in deeds:
            fake = self.some(who)
            if fake is None:
                self.world.join()
            elif deed < 4:
                self.world.work(fake, number)
            elif deed < 6:
                fake.flush()
            elif deed < 8:
                self.world.read(fake, is_twice=number % 5 == 0)
            elif deed == 8:
                self.world.carry_out()
            else:
                self.world.now += (0.0001, 0.003, 0.1)[number % 3]
                self.world.scheduler.tick(self.world.now)

    @rule(kind=st.sampled_from(TROUBLES), who=st.integers(0, 99))
    def trouble(self, kind: str, who: int) -> None:
        fake = self.some(who)
        if kind.startswith("join") or fake is None:
            if len(self.world.workers) < 4:
                self.world.join(7 if kind == "join_7" else None)
        elif kind == "dismiss":
            self.world.scheduler.dismiss(fake.worker)
        elif kind == "cancel":
            for task in list(self.world.scheduler.queue)[who % 3 : who % 3 + 1]:
                self.world.cancel(task)
        elif kind == "drop":
            if self.world.chunks:
                self.world.drop(1 + who % self.world.chunks)
        else:
            self.world.lose(fake, is_outbox_read=kind == "die")

    @invariant()
    def the_scheduler_agrees_with_the_truth(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


NastyItems.TestCase.settings = hypothesis_settings(examples=40, steps=25)
TestNastyItems = NastyItems.TestCase
