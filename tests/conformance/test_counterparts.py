"""What the listed tests of differences.py are about, asked of CrewExecutor by public means alone.

The standard library looks into private parts of ProcessPoolExecutor, or expects a broken pool; the promise behind each
of those tests is kept here, so that a listed difference leaves no hole.
"""

from __future__ import annotations

import gc
import operator
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import psutil
import pytest

from crew_executor import CrewExecutor

pytestmark = pytest.mark.conformance

# How long anything may take before it counts as a hang. Nothing waits that long when all is well.
SECONDS_AT_MOST = 30.0


class UnpickleFails:
    """Pickles well; unpickling it raises."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _raise, (ValueError("cannot be unpickled"),)


class UnpickleExits:
    """Pickles well; unpickling it asks the process to exit."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return sys.exit, (3,)


class PickleFails:
    """Cannot be pickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        raise ValueError("cannot be pickled")


def _raise(error: Exception) -> None:
    raise error


def _fail_with_cause() -> None:
    try:
        raise KeyError("the cause")
    except KeyError as cause:
        raise RuntimeError(123) from cause  # some comment


def _pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def _touch_and_wait(directory: str, gate: str) -> int:
    """Tell that this worker runs a task, and hold the task until the gate exists."""
    Path(directory, str(os.getpid())).touch()
    while not Path(gate).exists():
        time.sleep(0.005)
    return os.getpid()


def _wait_until(fact: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS_AT_MOST
    while not fact():
        if time.monotonic() > deadline:
            pytest.fail(f"after {SECONDS_AT_MOST:g} s still not: {what}")
        time.sleep(0.01)


def _wait_until_gone(pids: Iterable[int]) -> None:
    _wait_until(lambda: not any(map(psutil.pid_exists, pids)), f"the workers {sorted(pids)} have ended")


def _results(futures: list[Future[Any]]) -> list[Any]:
    return [future.result(SECONDS_AT_MOST) for future in futures]


def test_killed_worker_fails_its_own_task_alone(tmp_path: Path) -> None:
    with CrewExecutor(max_workers=2) as executor:
        victim = executor.submit(_touch_and_wait, str(tmp_path), str(tmp_path / "never"))
        others = [executor.submit(operator.add, 1, i) for i in range(20)]
        _wait_until(lambda: any(tmp_path.iterdir()), "the victim runs")
        os.kill(int(next(tmp_path.iterdir()).name), signal.SIGTERM)

        with pytest.raises(BrokenProcessPool) as caught:
            victim.result(SECONDS_AT_MOST)
        assert [1 + i for i in range(20)] == _results(others)
        assert 256 == executor.submit(pow, 2, 8).result(SECONDS_AT_MOST)
        assert "SIGTERM" in str(caught.value)


def test_each_lost_task_has_an_exception_of_its_own(tmp_path: Path) -> None:
    with CrewExecutor(max_workers=2) as executor:
        futures = [executor.submit(_touch_and_wait, str(tmp_path), str(tmp_path / "never")) for _ in range(2)]
        _wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "both run")
        for path in tmp_path.iterdir():
            os.kill(int(path.name), signal.SIGKILL)
        errors = [future.exception(SECONDS_AT_MOST) for future in futures]

        assert all(isinstance(error, BrokenProcessPool) for error in errors)
        assert errors[0] is not errors[1]


def test_lost_task_tells_the_exit_code() -> None:
    with CrewExecutor(max_workers=1) as executor:
        error = executor.submit(os._exit, 99).exception(SECONDS_AT_MOST)

        assert isinstance(error, BrokenProcessPool)
        assert "99" in str(error)


def test_saturated_pool_grows_to_its_limit_and_no_further(tmp_path: Path) -> None:
    directory = tmp_path / "pids"
    directory.mkdir()
    gate = tmp_path / "gate"
    with CrewExecutor(max_workers=3) as executor:
        futures = [executor.submit(_touch_and_wait, str(directory), str(gate)) for _ in range(45)]
        _wait_until(lambda: len(list(directory.iterdir())) == 3, "all three workers run a task")
        gate.touch()

        assert len(set(_results(futures))) == 3
        assert len(executor.stats().workers) == 3


def test_idle_worker_is_reused() -> None:
    with CrewExecutor(max_workers=4) as executor:
        pids = {executor.submit(os.getpid).result(SECONDS_AT_MOST) for _ in range(4)}

        assert len(pids) == 1
        assert len(executor.stats().workers) == 1


def test_no_more_workers_than_tasks() -> None:
    with CrewExecutor(max_workers=5) as executor:
        futures = [executor.submit(operator.mul, i, 2) for i in range(3)]

        assert [0, 2, 4] == _results(futures)
        assert len(executor.stats().workers) <= 3


@pytest.mark.parametrize("mp_context", [None, "spawn"])
def test_worker_is_replaced_after_its_tasks(mp_context: str | None) -> None:
    with CrewExecutor(max_workers=1, mp_context=mp_context, max_tasks_per_child=3) as executor:
        pids = [executor.submit(os.getpid).result(SECONDS_AT_MOST) for _ in range(4)]

        assert len(set(pids[:3])) == 1
        assert pids[3] != pids[0]
        # Its successor may have come while the old one was still leaving.
        assert sum(worker.state != "leaving" for worker in executor.stats().workers) <= 1


def test_workers_end_with_shutdown() -> None:
    with CrewExecutor(max_workers=3) as executor:
        pids = set(_results([executor.submit(_pid_after, 0.05) for _ in range(6)]))

    _wait_until_gone(pids)


def test_forgotten_executor_finishes_its_work() -> None:
    executor = CrewExecutor(max_workers=2)
    futures = [executor.submit(_pid_after, 0.01) for _ in range(10)]
    del executor
    gc.collect()

    _wait_until_gone(set(_results(futures)))


def test_shutdown_without_wait_finishes_the_work() -> None:
    threads_before = set(threading.enumerate())
    executor = CrewExecutor(max_workers=2, max_tasks_per_child=2)
    futures = [executor.submit(_pid_after, 0.01) for _ in range(10)]
    executor.shutdown(wait=False)

    _wait_until_gone(set(_results(futures)))
    _wait_until(lambda: set(threading.enumerate()) <= threads_before, "the threads of the executor have ended")


def test_argument_that_cannot_be_pickled_fails_alone_at_shutdown() -> None:
    with CrewExecutor(max_workers=2) as executor:
        assert 42 == executor.submit(abs, -42).result(SECONDS_AT_MOST)
        future = executor.submit(id, PickleFails())
        executor.shutdown(wait=False)

        with pytest.raises(ValueError, match="cannot be pickled"):
            future.result(SECONDS_AT_MOST)


@pytest.mark.parametrize("culprit", [UnpickleFails, UnpickleExits])
def test_argument_that_cannot_be_unpickled_fails_alone(culprit: type) -> None:
    with CrewExecutor(max_workers=1) as executor:
        future = executor.submit(id, culprit())
        done, _ = wait([future], SECONDS_AT_MOST)

        assert {future} == done
        assert not isinstance(future.exception(), BrokenProcessPool)
        assert 256 == executor.submit(pow, 2, 8).result(SECONDS_AT_MOST)


@pytest.mark.parametrize("culprit", [UnpickleFails, UnpickleExits])
def test_result_that_cannot_be_unpickled_fails_alone(culprit: type) -> None:
    with CrewExecutor(max_workers=1) as executor:
        future = executor.submit(culprit)
        done, _ = wait([future], SECONDS_AT_MOST)

        assert {future} == done
        assert future.exception() is not None
        assert not isinstance(future.exception(), BrokenProcessPool)
        assert 256 == executor.submit(pow, 2, 8).result(SECONDS_AT_MOST)


def test_exception_keeps_its_own_cause_and_its_remote_frames() -> None:
    with CrewExecutor(max_workers=1) as executor:
        error = executor.submit(_fail_with_cause).exception(SECONDS_AT_MOST)

    assert type(error) is RuntimeError
    assert error.args == (123,)
    assert isinstance(error.__cause__, KeyError)
    text = "".join(traceback.format_exception(error))
    assert "raise RuntimeError(123) from cause  # some comment" in text
    assert "_fail_with_cause" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize("end", [CrewExecutor.terminate_workers, CrewExecutor.kill_workers])
def test_ended_workers_run_no_task_to_its_end(end: Callable[[CrewExecutor], None], tmp_path: Path) -> None:
    executor = CrewExecutor(max_workers=1)
    future = executor.submit(_touch_and_wait, str(tmp_path), str(tmp_path / "never"))
    _wait_until(lambda: any(tmp_path.iterdir()), "the task runs")
    end(executor)

    _wait_until_gone([int(path.name) for path in tmp_path.iterdir()])
    with pytest.raises(BrokenProcessPool):
        future.result(SECONDS_AT_MOST)
    with pytest.raises(RuntimeError):
        executor.submit(abs, -1)


@pytest.mark.parametrize("end", [CrewExecutor.terminate_workers, CrewExecutor.kill_workers])
def test_ending_workers_before_they_start_or_after_they_died_is_no_error(end: Callable[[CrewExecutor], None]) -> None:
    with CrewExecutor(max_workers=1) as executor:
        end(executor)
    with CrewExecutor(max_workers=1) as executor:
        assert isinstance(executor.submit(os._exit, 1).exception(SECONDS_AT_MOST), BrokenProcessPool)
        end(executor)


def test_more_than_61_workers_are_allowed() -> None:
    with CrewExecutor(max_workers=62) as executor:
        assert 256 == executor.submit(pow, 2, 8).result(SECONDS_AT_MOST)
