"""run_on_all(): once on every worker, those that come later included; futures of those that are there."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from crew_executor import BrokenCrewError, CrewExecutor, WorkerCrashError
from crew_executor.launchers import LocalLauncher

from .helpers import append_line, die, identity, touch_and_wait, wait_until

seen: list[Any] = []  # in a worker: what it was told to remember


def remember(value: Any) -> int:
    seen.append(value)
    return os.getpid()


def recall(_number: int = 0) -> tuple[int, list[Any]]:
    time.sleep(0.02)  # or one worker would answer for all
    return os.getpid(), list(seen)


def fail(text: str) -> None:
    raise ValueError(text)


def warn_and_wait(started: str, release: str) -> int:
    warnings.warn("from a call", UserWarning, stacklevel=1)
    return touch_and_wait(started, release)


def submit_in(executor: CrewExecutor) -> Any:
    return executor.submit(identity, 1).result()


def is_ready(executor: CrewExecutor, number: int) -> None:
    executor.launch_workers(number)
    wait_until(lambda: [w.state for w in executor.stats().workers] == ["idle"] * number, "they are ready")


def test_each_worker_that_is_there_runs_it_once() -> None:
    with CrewExecutor(3) as executor:
        is_ready(executor, 3)
        futures = executor.run_on_all(remember, "x")

        pids = [future.result() for future in futures]
        assert sorted(pids) == sorted(worker.pid for worker in executor.stats().workers)
        assert [future.record().worker for future in futures] == [w.name for w in executor.stats().workers]
        assert all(str(future.record().command).endswith("remember") for future in futures)
        answers = [executor.submit(recall) for _ in range(30)]
        assert all(kept == ["x"] for _pid, kept in (future.result() for future in answers))


def test_late_joiners_run_every_call_in_order_before_their_first_task() -> None:
    with CrewExecutor(2, max_tasks_per_child=2, initializer=remember, initargs=("initializer",)) as executor:
        assert executor.run_on_all(remember, 1) == []  # there is no worker yet
        assert executor.run_on_all(remember, 2) == []
        answers = list(executor.map(recall, range(12)))

        assert len({pid for pid, _kept in answers}) >= 6
        assert all(kept == ["initializer", 1, 2] for _pid, kept in answers)


def test_nobody_runs_a_call_twice_or_never_however_many_join_meanwhile() -> None:
    with CrewExecutor(4, max_tasks_per_child=3) as executor:
        answers = [executor.submit(recall) for _ in range(60)]
        calls = range(10)
        for number in calls:
            executor.run_on_all(remember, number)
        answers += [executor.submit(recall) for _ in range(30)]
        kept = [future.result()[1] for future in answers]

        assert all(some == list(calls[: len(some)]) for some in kept)
        assert all(some == list(calls) for some in kept[60:])


def test_it_runs_behind_the_task_that_runs_and_before_those_submitted_after_it(tmp_path: Path) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with CrewExecutor(1) as executor:
        first = executor.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the task runs")
        (future,) = executor.run_on_all(remember, "x")
        after = executor.submit(recall)
        assert not future.done()
        assert future.running()
        assert not future.cancel()
        Path(release).touch()

        assert first.result() == future.result()
        assert after.result()[1] == ["x"]


def test_what_a_call_raises_is_in_its_future_alone() -> None:
    with CrewExecutor(2) as executor:
        is_ready(executor, 2)
        for future in executor.run_on_all(fail, "broken"):
            with pytest.raises(ValueError, match="broken"):
                future.result()
            assert future.record().status == "error"
            assert "in fail" in str(future.record().traceback)
        assert executor.submit(identity, 1).result() == 1


def test_a_failure_in_a_late_joiner_breaks_the_pool_and_says_where() -> None:
    with CrewExecutor(1) as executor:
        executor.run_on_all(fail, "broken")
        with pytest.raises(BrokenCrewError, match=r"the call of run_on_all\(\) failed in worker") as caught:
            executor.submit(identity, 1).result()

        assert "broken" in str(caught.value.__cause__)
        with pytest.raises(BrokenCrewError):
            executor.run_on_all(identity, 1)


def test_a_worker_that_dies_of_it_fails_its_future_and_is_replaced() -> None:
    with CrewExecutor(2) as executor:
        is_ready(executor, 2)
        pid = executor.stats().workers[0].pid
        first, second = executor.run_on_all(_die_if, pid)

        with pytest.raises(WorkerCrashError, match="SIGKILL") as caught:
            first.result()
        assert caught.value.pid == pid
        assert first.record().status == "crash"
        assert second.result() is None
        assert [executor.submit(identity, number).result() for number in range(5)] == list(range(5))


def _die_if(pid: int) -> None:
    if os.getpid() == pid:
        die()


def test_tasks_behind_a_call_that_kills_its_worker_run_elsewhere(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with CrewExecutor(1) as executor:
        first = executor.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the task runs")
        (call,) = executor.run_on_all(_die_if, int(Path(started).read_text()))
        tasks = [executor.submit(append_line, str(log), str(number)) for number in range(50)]
        Path(release).touch()

        assert isinstance(call.exception(), WorkerCrashError)
        assert first.result()
        assert [task.result() for task in tasks] == [str(number) for number in range(50)]
    assert log.read_text().split() == [str(number) for number in range(50)]


def test_shutdown_waits_for_it_however_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crew_executor.workforce.EXIT_GRACE", 0.2)
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    executor = CrewExecutor(1)
    is_ready(executor, 1)
    (future,) = executor.run_on_all(warn_and_wait, started, release)
    wait_until(Path(started).exists, "the call runs")
    executor.shutdown(wait=False)
    threading.Event().wait(0.6)  # longer than the grace of a worker that was told to go
    assert not future.done()
    Path(release).touch()
    with pytest.warns(UserWarning, match="from a call"):
        executor.shutdown()
    assert future.result() > 0
    assert [warning.message for warning in future.record().warnings] == ["from a call"]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.run_on_all(identity, 1)


def test_shutdown_waits_for_the_call_of_a_worker_that_initializes(tmp_path: Path) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    executor = CrewExecutor(1, initializer=touch_and_wait, initargs=(started, release))
    executor.launch_workers(1)
    wait_until(Path(started).exists, "the initializer runs")
    (future,) = executor.run_on_all(identity, 1)
    executor.shutdown(wait=False)
    threading.Event().wait(0.2)  # the dispatcher would have killed a worker of no use by now
    Path(release).touch()

    assert future.result(30) == 1
    executor.shutdown()


def test_a_worker_at_its_walltime_finishes_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crew_executor.workforce.EXIT_GRACE", 0.1)
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with CrewExecutor(1, launcher=LocalLauncher(walltime=2)) as executor:
        is_ready(executor, 1)
        (future,) = executor.run_on_all(touch_and_wait, started, release)
        wait_until(lambda: executor.stats().workers[0].state == "leaving", "its time is over")
        threading.Event().wait(0.4)  # the grace of one that was told to go
        Path(release).touch()

        assert future.result(30) > 0


def test_a_call_that_takes_long_is_not_taken_for_a_frozen_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crew_executor.workforce.START_SECONDS", 0.2)
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with CrewExecutor(1) as executor:
        is_ready(executor, 1)
        (future,) = executor.run_on_all(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the call runs")
        task = executor.submit(identity, 1)
        threading.Event().wait(2.5)  # two looks at the workers' clocks
        Path(release).touch()

        assert future.result() > 0
        assert task.result() == 1
        assert executor.stats().launched == 1


def test_killing_the_workers_ends_it(tmp_path: Path) -> None:
    executor = CrewExecutor(1)
    is_ready(executor, 1)
    (future,) = executor.run_on_all(touch_and_wait, str(tmp_path / "started"), str(tmp_path / "release"))
    wait_until((tmp_path / "started").exists, "the call runs")
    executor.kill_workers()

    assert isinstance(future.exception(30), WorkerCrashError)
    executor.shutdown()


def test_it_may_be_big_both_ways() -> None:
    with CrewExecutor(2) as executor:
        is_ready(executor, 2)
        data = bytearray(20_000_000)
        assert [future.result() == data for future in executor.run_on_all(identity, data)] == [True, True]


def test_lambdas_and_what_they_refer_to_travel_along() -> None:
    word = "closure"
    with CrewExecutor(1) as executor:
        is_ready(executor, 1)
        assert [future.result() for future in executor.run_on_all(lambda: word)] == ["closure"]
        with pytest.raises(TypeError, match="pickle"):
            executor.run_on_all(identity, threading.Lock())
        with pytest.raises(TypeError, match="needs a function"):
            executor.run_on_all(5)  # type: ignore[arg-type]


def test_refusals_that_would_otherwise_be_deadlocks() -> None:
    refused: Future[BaseException | None] = Future()

    def in_a_callback(_future: Any) -> None:
        try:
            executor.run_on_all(identity, 1)
        except RuntimeError as error:
            refused.set_result(error)

    with CrewExecutor(1) as executor:
        executor.submit(identity, 1).add_done_callback(in_a_callback)
        assert "in a thread of your own" in str(refused.result(30))
        (future,) = executor.run_on_all(submit_in, executor)
        with pytest.raises(RuntimeError, match="cannot submit tasks"):
            future.result(30)


def test_exit_of_the_interpreter_is_an_error_like_any_other() -> None:
    with CrewExecutor(1) as executor:
        is_ready(executor, 1)
        (future,) = executor.run_on_all(sys.exit, 3)
        with pytest.raises(SystemExit):
            future.result()
        assert executor.submit(identity, 1).result() == 1
        assert executor.stats().launched == 1


def test_no_task_is_trapped_behind_a_call_that_takes_long(tmp_path: Path) -> None:
    begun, release = str(tmp_path / "begun"), str(tmp_path / "release")
    with CrewExecutor(2) as executor:
        is_ready(executor, 2)
        slow = executor.stats().workers[0].pid
        futures = executor.run_on_all(wait_in, slow, begun, release)
        wait_until((tmp_path / "begun").exists, "one worker is in the call")

        assert [future.result(30) for future in [executor.submit(identity, n) for n in range(20)]] == list(range(20))
        assert sorted(worker.state for worker in executor.stats().workers) == ["busy", "idle"]
        Path(release).touch()
        assert {future.result() for future in futures} == {worker.pid for worker in executor.stats().workers}


def wait_in(pid: int, begun: str, release: str) -> int:
    return touch_and_wait(begun, release) if os.getpid() == pid else os.getpid()


def test_a_shutdown_that_cancels_does_not_wait_for_the_call_of_a_worker_that_never_initializes(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    executor = CrewExecutor(1, initializer=touch_and_wait, initargs=(str(begun), "never"))
    executor.launch_workers(1)
    wait_until(begun.exists, "it initializes")
    (future,) = executor.run_on_all(identity, 1)
    executor.shutdown(cancel_futures=True)
    assert future.cancelled()


def test_a_task_is_told_that_it_cannot_call_all_workers() -> None:
    with CrewExecutor(1) as executor:
        with pytest.raises(RuntimeError, match="in its client only"):
            executor.submit(run_on_all_in, executor).result()


def run_on_all_in(executor: CrewExecutor) -> None:
    executor.run_on_all(identity, 1)
