"""Futures hear once what became of their tasks, and are let go."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from crew_executor.announcer import Announcer
from crew_executor.core.task import Task
from crew_executor.errors import BrokenCrewError
from crew_executor.events import EventStream
from crew_executor.futures import CrewFuture, WorkerFacts

from .fakes import make_outcome


@pytest.fixture
def announcer() -> Iterator[Announcer]:
    made = Announcer("crew", EventStream(threading.RLock(), {}))
    yield made
    made.close()


def make() -> tuple[Task, CrewFuture[Any]]:
    """Return a task and its future, which refer to each other."""
    future: CrewFuture[Any] = CrewFuture(int)
    future._task = Task(1, "f", (b"payload",), future)
    return future._task, future


def test_a_finished_task_gives_its_future_the_outcome(announcer: Announcer) -> None:
    task, future = make()
    connection: Any = SimpleNamespace(busy_seconds=1.0, facts=WorkerFacts("w1"))
    announcer.finished(connection, [(task, make_outcome(1, seconds=0.5, parts=(pickle.dumps(42),)))])

    assert 42 == future.result(0)
    assert ("w1", 1.5) == (future.record().worker, connection.busy_seconds)
    assert task.handle is None


def test_a_dropped_task_cancels_its_future(announcer: Announcer) -> None:
    task, future = make()
    announcer.dropped([task])

    assert future.cancelled()
    assert task.handle is None


def test_a_broken_pool_gives_each_future_an_error_of_its_own(announcer: Announcer) -> None:
    broken = BrokenCrewError("the initializer failed")
    broken.__cause__ = ValueError("no such file")
    (task, future), (other_task, other) = make(), make()
    announcer.dropped([task, other_task], broken)
    errors = [future.exception(0), other.exception(0)]

    assert ["the initializer failed"] * 2 == [str(error) for error in errors]
    assert errors[0] is not errors[1]
    assert errors[0] is not None
    assert errors[0].__cause__ is broken.__cause__


def test_a_future_that_its_user_has_cancelled_already_is_left_alone(announcer: Announcer) -> None:
    task, future = make()
    task.handle = None
    announcer.dropped([task], BrokenCrewError("broken"))

    assert not future.done()
