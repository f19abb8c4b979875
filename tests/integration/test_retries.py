"""Tasks that are run again: only when the user said so, and no more often."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crew_executor import CrewExecutor, TaskTimeoutError, WorkerCrashError
from crew_executor.launchers import LocalLauncher, supervisor_handle
from crew_executor.launchers.base import Invitation, WorkerExit

from .helpers import append_line, wait_until


def _fail_until(path: str, runs: int) -> int:
    """Fail, with a warning, until the given run."""
    append_line(path, "run")
    number = len(Path(path).read_text().split())
    if number < runs:
        warnings.warn(f"run {number}", UserWarning, stacklevel=1)
        raise ValueError(f"run {number}")
    return number


def _die_until(path: str, runs: int) -> int:
    append_line(path, "run")
    number = len(Path(path).read_text().split())
    if number < runs:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _hang_until(path: str, runs: int) -> int:
    append_line(path, "run")
    number = len(Path(path).read_text().split())
    if number < runs:
        time.sleep(600)
    return number


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "runs")


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(2) as executor:
        yield executor


def _runs(path: str) -> int:
    return len(Path(path).read_text().split())


def test_nothing_runs_twice_unless_the_user_says_so(executor: CrewExecutor, path: str, tmp_path: Path) -> None:
    assert isinstance(executor.submit(_fail_until, path, 2).exception(timeout=30), ValueError)
    assert isinstance(executor.options(timeout=9).submit(_die_until, path + "2", 2).exception(30), WorkerCrashError)
    assert isinstance(executor.options(retries=9).submit(_die_until, path + "3", 2).exception(30), WorkerCrashError)
    assert isinstance(executor.options(crash_retries=9).submit(_fail_until, path + "4", 2).exception(30), ValueError)
    assert [_runs(str(file)) for file in tmp_path.iterdir()] == [1, 1, 1, 1]


@pytest.mark.filterwarnings("ignore:run 1")
@pytest.mark.filterwarnings("ignore:run 2")
def test_a_failing_task_is_run_again_and_its_record_counts(executor: CrewExecutor, path: str) -> None:
    future = executor.options(retries=5).submit(_fail_until, path, 3)

    assert future.result(timeout=30) == 3
    record = future.record()
    assert (record.attempts, record.status) == (3, "success")
    assert [warning.message for warning in record.warnings] == ["run 1", "run 2"]
    assert _runs(path) == 3


@pytest.mark.filterwarnings("ignore:run")
def test_the_last_error_tells_of_the_attempts_before(executor: CrewExecutor, path: str) -> None:
    future = executor.options(retries=2).submit(_fail_until, path, 9)
    with pytest.raises(ValueError, match="run 3") as caught:
        future.result(timeout=30)

    notes = caught.value.__dict__["__notes__"]
    assert ["run 1" in notes[0], "run 2" in notes[1], len(notes)] == [True, True, 2]
    assert (future.record().attempts, _runs(path)) == (3, 3)


@pytest.mark.filterwarnings("ignore:run")
@pytest.mark.parametrize(("classes", "runs"), [(KeyError, 1), ((KeyError, ValueError), 2), (LookupError, 1)])
def test_only_the_named_exceptions_are_retried(
    executor: CrewExecutor, path: str, classes: type[BaseException], runs: int
) -> None:
    future = executor.options(retries=1, retry_on=classes).submit(_fail_until, path, 9)

    assert isinstance(future.exception(timeout=30), ValueError)
    assert _runs(path) == runs


def test_an_exception_class_of_the_script_itself_can_be_named(executor: CrewExecutor) -> None:
    class Mine(Exception):
        pass

    def fail() -> None:
        raise Mine

    future = executor.options(retries=2, retry_on=Mine).submit(fail)

    assert type(future.exception(timeout=30)).__name__ == "Mine"
    assert future.record().attempts == 3


def test_a_task_whose_worker_dies_is_run_again_within_its_budget(executor: CrewExecutor, path: str) -> None:
    future = executor.options(crash_retries=2).submit(_die_until, path, 3)

    assert future.result(timeout=30) == 3
    assert future.record().attempts == 3


def test_a_task_that_always_kills_its_worker_is_given_up(executor: CrewExecutor, path: str) -> None:
    future = executor.options(crash_retries=2).submit(_die_until, path, 99)
    error = future.exception(timeout=30)

    assert isinstance(error, WorkerCrashError)
    assert "attempt 3" in str(error)
    assert error.__dict__["__notes__"][0].startswith("attempt 1 failed, too: worker crew-")
    assert (future.record().attempts, _runs(path)) == (3, 3)
    assert executor.submit(int).result(timeout=30) == 0


def test_a_timeout_is_retried_if_it_is_named_and_each_attempt_has_its_own(executor: CrewExecutor, path: str) -> None:
    assert executor.options(timeout=0.3, retries=2).submit(_hang_until, path, 3).result(timeout=30) == 3

    future = executor.options(timeout=0.3, retries=2, retry_on=ValueError).submit(_hang_until, path + "2", 3)
    assert isinstance(future.exception(timeout=30), TaskTimeoutError)
    assert _runs(path + "2") == 1


def test_a_timeout_that_costs_the_worker_is_retried_as_well(executor: CrewExecutor, path: str) -> None:
    assert executor.options(timeout=0.3, retries=2).submit(_hold_until, path, 2).result(timeout=30) == 2


def _hold_until(path: str, runs: int) -> int:
    append_line(path, "run")
    number = len(Path(path).read_text().split())
    if number < runs:
        sum(range(10**12))
    return number


@pytest.mark.parametrize(("retries", "crash_retries", "runs"), [(3, 0, 1), (0, 1, 2)])
def test_a_worker_lost_with_its_supervisor_is_a_crash(
    executor: CrewExecutor, path: str, retries: int, crash_retries: int, runs: int
) -> None:
    future = executor.options(retries=retries, crash_retries=crash_retries).submit(_hang_until, path, 99)
    for number in range(1, runs + 1):
        wait_until(lambda number=number: Path(path).exists() and _runs(path) == number, f"run {number} has begun")  # type: ignore[misc]
        handle = supervisor_handle.running()
        assert handle is not None
        os.kill(handle.pid, signal.SIGKILL)

    assert isinstance(future.exception(timeout=30), WorkerCrashError)
    assert (future.record().attempts, _runs(path)) == (runs, runs)


class _Scheduler(LocalLauncher):
    """Takes back whatever worker ends."""

    def launch(self, invitation: Invitation, on_exit: Callable[[WorkerExit], None]) -> None:
        super().launch(invitation, lambda end: on_exit(end._replace(is_taken_away=True)))


def test_a_worker_that_was_taken_away_costs_no_retry(path: str) -> None:
    with CrewExecutor(1, launcher=_Scheduler()) as executor:
        future = executor.options(crash_retries=1).submit(_hang_until, path, 4)
        for number in (1, 2, 3):  # more often than crash_retries
            wait_until(lambda number=number: Path(path).exists() and _runs(path) == number, f"run {number} has begun")  # type: ignore[misc]
            os.kill(executor.stats().workers[0].pid or 0, signal.SIGKILL)

        assert future.result(timeout=30) == 4
        assert future.record().attempts == 4


def test_a_task_that_waits_for_its_retry_can_be_cancelled(path: str) -> None:
    with CrewExecutor(1) as executor:
        future = executor.options(retries=30_000, cancel_running=True).submit(_fail_slowly, path)
        wait_until(lambda: Path(path).exists() and _runs(path) >= 3, "the task was retried")

        assert future.cancel()
        assert executor.submit(int).result(timeout=30) == 0
        runs = _runs(path)
        assert executor.submit(time.sleep, 0.3).result(timeout=30) is None
        assert _runs(path) == runs


def _fail_slowly(path: str) -> None:
    append_line(path, "run")
    time.sleep(0.01)
    raise ValueError


@pytest.mark.filterwarnings("ignore:run")
def test_map_retries_each_item(executor: CrewExecutor, tmp_path: Path) -> None:
    paths = [str(tmp_path / str(number)) for number in range(4)]

    assert list(executor.options(retries=2).map(_fail_until, paths, [3] * 4, chunksize=4)) == [3, 3, 3, 3]
