"""Who has a result finds that the callbacks have run, unless one of them takes its time; nobody waits for ever."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from crew_executor import callbacks
from crew_executor.callbacks import CallbackThread
from crew_executor.errors import BrokenCrewError
from crew_executor.futures import CrewFuture, WorkerFacts

from .fakes import make_outcome

FOR_EVER = 1000.0  # more than the time limit of a test


class Gate:
    """A callback that runs until it is let go."""

    def __init__(self) -> None:
        self.has_ended = False
        self._open = threading.Event()

    def __call__(self, _future: object) -> None:
        assert self._open.wait(30)
        self.has_ended = True

    def open(self) -> None:
        self._open.set()

    def open_when_somebody_waits(self, future: CrewFuture[Any]) -> None:
        """Return at once; open when a thread waits for the future's condition."""

        def watch() -> None:
            while not future._condition._waiters and not self._open.wait(0.001):
                pass
            self.open()

        threading.Thread(target=watch, daemon=True).start()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


@pytest.fixture
def thread(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[CallbackThread]:
    monkeypatch.setattr(callbacks, "PATIENCE_SECONDS", FOR_EVER)
    made = CallbackThread("crew")
    yield made
    gate.open()
    made.close()


def make(*callbacks: Any) -> CrewFuture[int]:
    future = CrewFuture[int](int)
    for callback in callbacks:
        future.add_done_callback(callback)
    return future


def finish(future: CrewFuture[Any], thread: CallbackThread) -> None:
    future._finish(make_outcome(1, parts=(pickle.dumps(42),)), WorkerFacts(), thread)


def fail(future: CrewFuture[Any], thread: CallbackThread) -> None:
    future._finish_lost(BrokenCrewError("the pool is broken"), callbacks=thread)


@pytest.mark.parametrize("end", [finish, fail])
@pytest.mark.parametrize("timeout", [None, 30])
def test_the_callbacks_have_run_when_the_outcome_is_told(
    end: Any, timeout: float | None, thread: CallbackThread, gate: Gate
) -> None:
    future = make(gate)
    end(future, thread)
    gate.open_when_somebody_waits(future)
    future.exception(timeout)

    assert gate.has_ended


def test_so_have_those_of_the_futures_that_were_done_before(thread: CallbackThread, gate: Gate) -> None:
    seen: list[object] = []
    futures = [make(gate), make(seen.append), make(seen.append)]
    for future in futures:
        finish(future, thread)
    gate.open_when_somebody_waits(futures[2])

    assert 42 == futures[2].result()
    assert (True, futures[1:]) == (gate.has_ended, seen)


def test_a_callback_that_takes_its_time_keeps_nobody_for_long(
    thread: CallbackThread, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    futures = [make(gate), make(gate)]
    for future in futures:
        finish(future, thread)

    monkeypatch.setattr(callbacks, "PATIENCE_SECONDS", 0.01)
    assert 42 == futures[0].result()
    monkeypatch.setattr(callbacks, "PATIENCE_SECONDS", FOR_EVER)  # patience is lost once, not for each future
    assert [42, 42] == [future.result() for future in futures]
    assert not gate.has_ended


def test_after_it_the_others_are_waited_for_again(
    thread: CallbackThread, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Gate()
    first, second, third = make(gate), make(slow), make(slow)
    finish(first, thread)
    monkeypatch.setattr(callbacks, "PATIENCE_SECONDS", 0.01)
    first.result()
    monkeypatch.setattr(callbacks, "PATIENCE_SECONDS", FOR_EVER)
    gate.open()
    finish(second, thread)
    finish(third, thread)
    while first._caller is not None:
        threading.Event().wait(0.001)
    slow.open_when_somebody_waits(third)
    third.result()

    assert slow.has_ended


def test_a_timeout_holds_for_the_callbacks_as_well(thread: CallbackThread, gate: Gate) -> None:
    future = make(gate)
    finish(future, thread)

    assert [42, 42] == [future.result(0), future.result(0.01)]
    assert not gate.has_ended


def test_record_does_not_wait(thread: CallbackThread, gate: Gate) -> None:
    future = make(gate)
    fail(future, thread)

    assert "error" == future.record().status
    assert not gate.has_ended


def test_a_callback_does_not_wait_for_callbacks(thread: CallbackThread, gate: Gate) -> None:
    """Neither for its own nor for those behind it."""
    results: list[int] = []
    first = make(gate, lambda _future: results.extend([first.result(), second.result()]))
    second = make(lambda _future: results.append(second.result()))
    finish(first, thread)
    finish(second, thread)
    gate.open()

    assert 42 == second.result()
    assert [42, 42, 42] == results


def test_an_event_loop_does_not_wait(thread: CallbackThread, gate: Gate) -> None:
    future = make(gate)
    finish(future, thread)

    async def ask() -> int:
        return future.result()

    assert 42 == asyncio.run(ask())
    assert not gate.has_ended
