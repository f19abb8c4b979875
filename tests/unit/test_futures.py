"""Checks futures.py without workers: what a future says of earlier attempts, and when its callbacks run."""

from __future__ import annotations

import contextlib
import gc
import json
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FuturesTimeoutError
from types import FrameType
from typing import Any

import pytest

from crew_executor import futures, serialize, tracebacks
from crew_executor.core.messages import OutcomeFlag
from crew_executor.core.task import Task
from crew_executor.errors import BrokenCrewError
from crew_executor.futures import CrewFuture, WorkerFacts

from .fakes import RETRYABLE, make_outcome

WARNING = {"message": "old", "module": "builtins", "category": "UserWarning", "filename": "f.py", "lineno": 1}


class Noteless(Exception):
    def add_note(self, note: str) -> None:
        raise TypeError("no notes, please")


def failure(error: Exception, *, is_warning: bool = False) -> Any:
    """Return the outcome of an attempt that raised the error."""
    parts = [tracebacks.dumps_error(error), json.dumps(tracebacks.describe(error)).encode()]
    if is_warning:
        parts.insert(1, json.dumps([WARNING]).encode())
    flags = RETRYABLE | (OutcomeFlag.WARNINGS if is_warning else 0)
    return make_outcome(1, flags=flags, parts=tuple(parts))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions keep notes since Python 3.11")
def test_the_last_error_tells_of_the_earlier_attempts() -> None:
    future: CrewFuture[Any] = CrewFuture()
    future._failed_once(failure(ValueError("first")))
    future._failed_once("worker w1 was lost")
    future._finish(failure(KeyError("third")), WorkerFacts("w2"))

    error = future.exception(timeout=0)
    assert isinstance(error, KeyError)
    assert [
        "attempt 1 failed, too: builtins.ValueError: first",
        "attempt 2 failed, too: worker w1 was lost",
    ] == error.__notes__


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions keep notes since Python 3.11")
def test_the_error_of_a_lost_task_tells_of_the_earlier_attempts() -> None:
    future: CrewFuture[Any] = CrewFuture()
    future._failed_once(failure(ValueError("first")))
    future._finish_lost(BrokenCrewError("the pool is broken"))

    assert ["attempt 1 failed, too: builtins.ValueError: first"] == future.exception(timeout=0).__notes__


def test_an_error_that_refuses_notes_is_still_the_result_however_often_it_is_asked_for() -> None:
    future: CrewFuture[Any] = CrewFuture()
    future._failed_once("worker w1 was lost")
    future._finish(failure(Noteless("no")), WorkerFacts("w2"))

    assert [Noteless, Noteless] == [type(future.exception(timeout=0)) for _ in range(2)]


def test_the_warnings_of_all_attempts_are_shown_and_kept() -> None:
    future: CrewFuture[Any] = CrewFuture()
    future._failed_once(failure(ValueError("first"), is_warning=True))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        future._finish(failure(ValueError("second"), is_warning=True), WorkerFacts("w2"))

    assert ["old", "old"] == [str(warning.message) for warning in shown]
    assert 2 == len(future._warnings)
    assert ("second",) == future.exception(timeout=0).args


def test_a_result_after_failed_attempts_is_a_result() -> None:
    future: CrewFuture[Any] = CrewFuture()
    future._failed_once(failure(ValueError("first")))
    future._finish(make_outcome(1, parts=(b"\x80\x05K\x05.",)), WorkerFacts("w2"))

    assert 5 == future.result(timeout=0)


def test_a_future_whose_task_waits_for_another_attempt_is_pending_again() -> None:
    future: CrewFuture[Any] = CrewFuture()
    future._sent()
    future._unsent()

    assert not future.running()
    assert not future.done()


def success(result: Any) -> Any:
    return make_outcome(1, parts=(serialize.dumps(result),))


class Interrupted:
    """Its unpickling is interrupted, the first time."""

    times = 0

    def __reduce__(self) -> Any:
        return _load_interrupted, ()


def _load_interrupted() -> str:
    Interrupted.times += 1
    if Interrupted.times == 1:
        signal.raise_signal(signal.SIGUSR1)
    return "opened"


def test_what_a_signal_handler_raises_while_a_result_is_opened_is_not_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def alarm(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("too late")

    monkeypatch.setattr(Interrupted, "times", 0)
    future: CrewFuture[Any] = CrewFuture()
    future._finish(success(Interrupted()), WorkerFacts("w1"))
    before = signal.signal(signal.SIGUSR1, alarm)
    try:
        with pytest.raises(TimeoutError, match="too late"):
            future.result(timeout=0)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert "opened" == future.result(timeout=0)


def test_a_callback_needs_no_condition() -> None:
    future: CrewFuture[Any] = CrewFuture()
    results: list[Any] = []
    future.add_done_callback(lambda done: results.append(done.result()))
    future._finish(success(7), WorkerFacts("w1"))
    future.add_done_callback(lambda done: results.append((done.done(), done.cancelled())))

    assert results == [7, (True, False)]


def test_a_callback_that_fails_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    future: CrewFuture[Any] = CrewFuture()
    runs: list[Any] = []
    future.add_done_callback(lambda _done: 1 // 0)
    future.add_done_callback(runs.append)
    future._finish(success(None), WorkerFacts("w1"))

    assert runs == [future]
    assert "exception calling callback" in caplog.text


def test_callbacks_added_before_and_after_somebody_waits_run_in_their_order() -> None:
    future: CrewFuture[Any] = CrewFuture()
    order: list[str] = []
    future.add_done_callback(lambda _done: order.append("before"))
    with pytest.raises(FuturesTimeoutError):
        future.result(timeout=0)
    future.add_done_callback(lambda _done: order.append("after"))
    future._finish(success(None), WorkerFacts("w1"))

    assert order == ["before", "after"]


def test_a_callback_that_is_added_while_the_future_ends_runs_once() -> None:
    for _ in range(200):
        future: CrewFuture[Any] = CrewFuture()
        runs: list[CrewFuture[Any]] = []
        start = threading.Barrier(2)

        def add(future: CrewFuture[Any] = future, start: threading.Barrier = start, runs: list[Any] = runs) -> None:
            start.wait()
            future.add_done_callback(runs.append)

        thread = threading.Thread(target=add)
        thread.start()
        start.wait()
        future._finish(success(None), WorkerFacts("w1"))
        thread.join()

        assert runs == [future]


def test_a_cancelled_future_runs_callbacks_that_were_added_before() -> None:
    future: CrewFuture[Any] = CrewFuture()
    runs: list[Any] = []
    future.add_done_callback(runs.append)
    future._finish_cancelled()

    assert runs == [future]
    assert future.cancelled()
    assert future.done()


ENDS: dict[str, Callable[[CrewFuture[Any]], None]] = {
    "outcome": lambda future: future._finish(make_outcome(1), WorkerFacts("w1")),
    "lost": lambda future: future._finish_lost(BrokenCrewError("gone")),
    "cancelled": lambda future: future._finish_cancelled(),
    "cancelled by its own": lambda future: (future.cancel(), None)[1],
    "set_result": lambda future: future.set_result(1),
    "set_exception": lambda future: future.set_exception(ValueError("no")),
}


@pytest.mark.parametrize("is_condition_made", [False, True])
@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_all_who_wait_for_a_result_are_woken(end: Callable[[CrewFuture[Any]], None], is_condition_made: bool) -> None:
    future: CrewFuture[Any] = CrewFuture()
    if is_condition_made:
        assert future._condition is not None
    woken: list[bool] = []

    def wait() -> None:
        try:
            future.exception()
        except CancelledError:
            pass
        woken.append(future.done())

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(future._bells or ()) < len(threads):
        threading.Event().wait(0.001)
    end(future)
    for thread in threads:
        thread.join()

    assert [True, True, True] == woken
    assert not future._bells


def test_a_future_that_ends_just_before_the_wait_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    future: CrewFuture[Any] = CrewFuture()

    class EndsIt:
        """In place of the lock: when the waiter has hung its bell, the future ends, as by another thread."""

        is_done = False

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_details: object) -> None:
            if not self.is_done:
                self.is_done = True
                future._finish(make_outcome(1, parts=(serialize.dumps(None),)), WorkerFacts("w1"))

    monkeypatch.setattr("crew_executor.futures._making", EndsIt())

    assert future.exception() is None


def test_a_wait_in_vain_leaves_nothing_behind() -> None:
    future: CrewFuture[Any] = CrewFuture()
    for seconds in (0.001, 0, -1):
        with pytest.raises(FuturesTimeoutError):
            future.result(timeout=seconds)

    assert not future._bells


def test_a_ring_that_is_not_the_end_ends_no_wait() -> None:
    future: CrewFuture[Any] = CrewFuture()
    future.set_running_or_notify_cancel()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(future.result()))
    thread.start()
    while not future._bells:
        threading.Event().wait(0.001)
    future._ring()
    is_cancelled = future.cancel()
    future.set_result(7)
    thread.join()

    assert (False, [7]) == (is_cancelled, answers)


@pytest.mark.parametrize("what", ["result", "add_done_callback", "exception", "_condition"])
def test_no_signal_handler_comes_in_while_the_lock_of_all_futures_is_held(what: str) -> None:
    # A handler that waits for another future would wait for ever: who finishes that needs the lock.
    held: list[str] = []

    def look(frame: FrameType, event: str, _argument: object) -> None:
        is_owner = bool(futures._making._is_owned())  # type: ignore[attr-defined]
        if event in ("call", "c_return") and is_owner and frame.f_code.co_filename == futures.__file__:
            held.append(f"{frame.f_code.co_name}:{frame.f_lineno}")

    future: CrewFuture[Any] = CrewFuture()
    try:
        sys.setprofile(look)
        if what == "_condition":
            assert future._condition
        elif what == "add_done_callback":
            future.add_done_callback(print)
        else:
            with contextlib.suppress(FuturesTimeoutError):
                getattr(future, what)(timeout=0)
    finally:
        sys.setprofile(None)

    assert [] == held


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before, CPython keeps all attributes in dictionaries")
def test_no_future_has_a_dictionary_beside_it() -> None:
    """Not even if thousands are made before the first is done: see the end of futures.py."""
    made: list[CrewFuture[Any]] = [CrewFuture(len, 1.0) for _ in range(100)]
    for number, future in enumerate(made):
        future._task = Task(number, "len", (), future)
        future._sent()
        future._finish(make_outcome(number, parts=(serialize.dumps(number),)), WorkerFacts("w"))
        assert future.result() == number
    assert not [future for future in made if any(type(found) is dict for found in gc.get_referents(future))]
