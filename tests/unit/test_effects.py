"""What the scheduler has decided is noted, in its order, and futures are told only what is still true."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest

from crew_executor.announcer import Announcer
from crew_executor.connection import Connection
from crew_executor.core.messages import Outcome
from crew_executor.core.task import Task
from crew_executor.core.worker import Worker
from crew_executor.effects import Effects
from crew_executor.futures import CrewFuture

from .fakes import make_outcome


class FakeConnection:
    """Note what is queued."""

    def __init__(self) -> None:
        self.queued: list[Any] = []

    def put_tasks(self, tasks: list[Task]) -> None:
        self.queued.append((tasks[0].ordinal, [task.task_id for task in tasks]))

    def put_go(self, ordinal: int) -> None:
        self.queued.append(("go", ordinal))

    def pump(self) -> None: ...


class FakeAnnouncer:
    def finished(self, connection: Connection, finished: list[tuple[Task, Outcome]]) -> None: ...

    def lost(self, task: Task, connection: Connection) -> None: ...

    def dropped(self, tasks: list[Task]) -> None: ...


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def announcer() -> FakeAnnouncer:
    return FakeAnnouncer()


@pytest.fixture
def effects(connection: FakeConnection, announcer: FakeAnnouncer) -> Effects:
    return Effects(
        {"w1": cast(Connection, connection)}, cast(Announcer, announcer), itertools.count(1), print, lambda: None
    )


def make(future: CrewFuture[Any], ordinal: int = 3) -> Task:
    task = Task(1, "f", (b"payload",), future)
    task.ordinal = ordinal
    return task


def test_a_future_runs_when_its_task_is_sent(effects: Effects, connection: FakeConnection) -> None:
    future: CrewFuture[Any] = CrewFuture()
    effects.send(Worker("w1"), [make(future)])

    assert future.running()
    assert [(3, [1])] == connection.queued
    assert [(connection.pump, ())] == effects.take()


def test_a_future_that_was_cancelled_before_its_sending_was_noted_stays_so(effects: Effects) -> None:
    future: CrewFuture[Any] = CrewFuture()
    task = make(future)
    task.is_dropped = True  # then its user's thread finishes it, at any moment
    future.cancel()
    effects.send(Worker("w1"), [task])

    assert future.cancelled()


def test_what_is_noted_is_taken_once_and_in_its_order(effects: Effects, connection: FakeConnection) -> None:
    effects.note(print, 1)
    effects.dismiss(Worker("w1"))
    first = effects.take()

    assert [(print, (1,)), (connection.pump, ())] == first
    assert [] == effects.take()


def test_losses_are_forgotten_and_nothing_else(effects: Effects, announcer: FakeAnnouncer) -> None:
    effects.note(print, 1)
    effects.crash(make(CrewFuture()), Worker("w1"))
    effects.note(print, 2)
    effects.forget_losses()

    assert [(print, (1,)), (print, (2,))] == effects.take()


def test_workers_get_their_tasks_before_futures_are_finished(effects: Effects, connection: FakeConnection) -> None:
    effects.finish(Worker("w1"), [(make(CrewFuture()), make_outcome(1))])
    effects.send(Worker("w1"), [make(CrewFuture())])

    assert connection.pump == effects.take()[0][0]


def test_what_a_worker_has_finished_in_a_row_is_told_at_once(
    effects: Effects, connection: FakeConnection, announcer: FakeAnnouncer
) -> None:
    finished = [(make(CrewFuture()), make_outcome(number)) for number in range(3)]
    for each in finished:
        effects.finish(Worker("w1"), [each])

    assert [(announcer.finished, (connection, finished))] == effects.take()
