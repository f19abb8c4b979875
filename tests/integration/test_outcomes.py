"""What a future tells: errors with their frames, warnings, timing; and the standard library's tools on it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref
from pathlib import Path

import pytest

from crew_executor import CrewExecutor, CrewFuture, RemoteTaskError, callbacks

from .helpers import (
    FailsToPickle,
    FailsToUnpickle,
    TwoArguments,
    add,
    die,
    fail_with_cause,
    identity,
    make,
    touch_and_wait,
    wait_until,
    warn,
)


class _Unpicklable(Exception):
    def __reduce__(self) -> tuple[object, ...]:
        raise ValueError("this exception does not travel")


def _raise_unpicklable() -> None:
    raise _Unpicklable("the text of the original")


def _exit() -> None:
    raise SystemExit(4)


@pytest.fixture(scope="module")
def executor() -> object:
    with CrewExecutor(2) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_leaks() -> None:
    """The executor of this module outlives each test; the other modules look for leaks."""


def test_an_exception_keeps_type_attributes_cause_and_frames(executor: CrewExecutor) -> None:
    error = executor.submit(fail_with_cause).exception()

    assert type(error) is TwoArguments
    assert (error.left, error.right, str(error)) == ("one", "two", "one and two")
    assert type(error.__cause__) is ZeroDivisionError
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert frames == ["fail_with_cause"]


def test_raising_again_and_again_does_not_pile_up_frames(executor: CrewExecutor) -> None:
    future = executor.submit(fail_with_cause)
    lengths = []
    for _ in range(3):
        with pytest.raises(TwoArguments) as caught:
            future.result()
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))

    assert len(set(lengths)) == 1


def test_an_exception_that_cannot_travel_is_told_as_text(executor: CrewExecutor) -> None:
    error = executor.submit(_raise_unpicklable).exception()

    assert isinstance(error, RemoteTaskError)
    assert error.type_name.endswith("_Unpicklable")
    assert error.text == "the text of the original"
    assert "_raise_unpicklable" in error.traceback_text


def test_what_cannot_be_pickled_fails_its_own_future(executor: CrewExecutor) -> None:
    with pytest.raises(ValueError, match="does not want to be pickled"):
        executor.submit(identity, FailsToPickle()).result()
    with pytest.raises(ValueError, match="does not want to be pickled"):
        executor.submit(make, FailsToPickle).result()
    with pytest.raises(TypeError, match="pickle"):
        executor.submit(identity, threading.Lock()).result()


def test_what_cannot_be_unpickled_fails_its_own_future(executor: CrewExecutor) -> None:
    with pytest.raises(ValueError, match="does not want to be unpickled"):
        executor.submit(identity, FailsToUnpickle()).result()
    with pytest.raises(ValueError, match="does not want to be unpickled"):
        executor.submit(make, FailsToUnpickle).result()


def test_a_future_as_an_argument_is_refused_with_the_cure(executor: CrewExecutor) -> None:
    future = executor.submit(int)
    with pytest.raises(TypeError, match="pass its result"):
        executor.submit(identity, future).result()
    with pytest.raises(TypeError, match="pass its result"):
        executor.submit(identity, value=concurrent.futures.Future()).result()


def test_system_exit_in_a_task_is_raised_by_result(executor: CrewExecutor) -> None:
    with pytest.raises(SystemExit) as caught:
        executor.submit(_exit).result()

    assert caught.value.code == 4


def test_the_same_object_is_returned_each_time(executor: CrewExecutor) -> None:
    future = executor.submit(identity, [1, 2])

    assert future.result() is future.result()


def test_a_record_tells_where_and_how_long(executor: CrewExecutor) -> None:
    future = executor.options(name="nap").submit(time.sleep, 0.05)
    future.result()
    record = future.record()

    assert (record.name, record.command, record.status, record.attempts) == ("nap", "time.sleep", "success", 1)
    assert record.seconds >= 0.05
    assert record.cpu_seconds < record.seconds
    assert record.submitted <= record.started <= record.finished
    assert record.queue_seconds >= 0
    assert record.pid != os.getpid()
    assert record.host
    assert record.worker
    assert record.max_rss > 1_000_000


def test_the_record_of_a_pending_task_has_no_status(executor: CrewExecutor) -> None:
    future = executor.submit(time.sleep, 0.05)

    assert future.record().status is None
    future.result()


def test_warnings_are_in_the_record_and_shown_once(executor: CrewExecutor) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        future = executor.submit(warn, "look out")
        future.result()
        wait_until(lambda: bool(shown), "the warning is shown")

    assert [str(warning.message) for warning in shown] == ["look out"]
    assert [(warning.message, warning.category) for warning in future.record().warnings] == [
        ("look out", "UserWarning")
    ]
    assert future.record().warnings[0].filename.endswith("helpers.py")


def test_a_warning_that_a_filter_turns_into_an_error_hurts_nobody(executor: CrewExecutor) -> None:
    future = executor.submit(warn, "an error here")  # warnings are errors in these tests

    assert future.result() == "an error here"
    assert len(future.record().warnings) == 1


def test_cancel_of_a_queued_task_wakes_every_waiter(tmp_path: Path) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with CrewExecutor(1) as executor:
        running = executor.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the first task runs")
        queued = executor.submit(int)
        waiter = threading.Thread(target=concurrent.futures.wait, args=([queued],))
        waiter.start()

        assert running.running()
        assert not running.cancel()
        assert queued.cancel()
        assert queued.cancelled()
        waiter.join(30)
        assert not waiter.is_alive()
        assert list(concurrent.futures.as_completed([queued])) == [queued]
        assert queued.record().status == "cancel"
        Path(release).touch()


def test_callbacks_run_once_and_their_errors_are_logged_only(executor: CrewExecutor) -> None:
    called: list[object] = []
    future = executor.submit(add, 1, 2)
    future.add_done_callback(called.append)
    future.result()
    wait_until(lambda: bool(called), "the callback ran")

    assert called == [future]


def test_the_callbacks_have_run_when_the_results_are_there(
    executor: CrewExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A progress bar that callbacks move is closed when the last result is there."""
    monkeypatch.setattr(callbacks, "PATIENCE_SECONDS", 30)
    for _ in range(10):
        called: list[object] = []
        futures = [executor.submit(add, number, 1) for number in range(200)]
        for future in futures:
            future.add_done_callback(called.append)

        assert [future.result() for future in futures] == list(range(1, 201))
        assert len(called) == 200


def test_a_callback_that_exits_hurts_nobody(executor: CrewExecutor, caplog: pytest.LogCaptureFixture) -> None:
    called: list[object] = []
    future = executor.submit(time.sleep, 0.05)
    future.add_done_callback(lambda _future: sys.exit(1))
    future.add_done_callback(called.append)
    future.result()
    wait_until(lambda: bool(called), "the second callback ran")

    assert executor.submit(add, 1, 1).result() == 2
    assert "SystemExit" in caplog.text


def test_a_callback_may_shut_the_executor_down() -> None:
    executor = CrewExecutor(1)
    future = executor.submit(time.sleep, 0.05)
    future.add_done_callback(lambda _future: executor.shutdown(wait=True))
    future.result()
    executor.shutdown()

    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)


def _fork_and_return() -> int:
    os.fork()
    return os.getpid()


def test_a_task_that_forks_and_lets_its_child_return_is_one_task(executor: CrewExecutor) -> None:
    pids = [executor.submit(_fork_and_return).result() for _ in range(5)]

    assert set(pids) <= {worker.pid for worker in executor.stats().workers}
    assert executor.submit(add, 1, 1).result() == 2


def test_a_callback_may_wait_for_another_task() -> None:
    """Whatever worker runs it, also one that must be launched first, after the only one was lost."""
    seen = []
    done = threading.Event()
    with CrewExecutor(1) as executor:

        def wait_for_another(_future: concurrent.futures.Future[object]) -> None:
            seen.append(executor.submit(add, 1, 1).result(timeout=30))
            if len(seen) == 2:
                done.set()

        executor.submit(add, 1, 1).add_done_callback(wait_for_another)
        executor.submit(die).add_done_callback(wait_for_another)
        assert done.wait(30)

    assert seen == [2, 2]


def test_a_future_is_not_kept_by_its_callback(executor: CrewExecutor) -> None:
    called = threading.Event()
    future = executor.submit(identity, [1])
    future.add_done_callback(lambda _future: called.set())
    gone = weakref.ref(future)
    del future

    assert called.wait(30)
    wait_until(lambda: gone() is None, "the future, and so its result, is forgotten")


def test_shutdown_waits_for_callbacks() -> None:
    seen = []

    def be_slow(_future: concurrent.futures.Future[object]) -> None:
        time.sleep(0.2)
        seen.append(1)

    with CrewExecutor(2) as executor:
        for _ in range(3):
            executor.submit(add, 1, 1).add_done_callback(be_slow)

    assert seen == [1, 1, 1]


SUBMITS_IN_HANDLERS = """
import signal, sys, threading
from crew_executor import CrewExecutor
late = []
with CrewExecutor(2) as executor:
    def handler(*_):
        future = executor.submit(pow, 2, 10)
        late.append(future)
        if len(late) % 3 == 0:
            late[-3].cancel()
        executor.stats()
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    futures = []
    while len(late) <= 50:
        futures += [executor.submit(pow, 2, 3) for _ in range(500)]
    results = [future.result() for future in futures]
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    assert results == [8] * len(futures)
    assert {future.result() for future in late if not future.cancelled()} == {1024}, "each has a result"
print("done")
"""


def test_a_signal_handler_may_submit_at_any_moment() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SUBMITS_IN_HANDLERS], capture_output=True, text=True, timeout=50, check=False
    )

    assert (run.stdout, run.stderr) == ("done\n", "")


def test_wait_and_as_completed_know_our_futures(executor: CrewExecutor) -> None:
    futures = [executor.submit(add, number, 0) for number in range(20)]
    done, pending = concurrent.futures.wait(futures, timeout=30)

    assert (len(done), len(pending)) == (20, 0)
    assert {future.result() for future in concurrent.futures.as_completed(futures)} == set(range(20))


def test_a_future_can_be_awaited(executor: CrewExecutor) -> None:
    async def main() -> tuple[int, ...]:
        loop = asyncio.get_running_loop()
        by_loop = loop.run_in_executor(executor, add, 1, 1)
        awaited = await executor.submit(add, 2, 2)
        gathered = await asyncio.gather(*(executor.submit(add, number, 0) for number in range(100)), by_loop)
        return awaited, sum(gathered)

    assert asyncio.run(main()) == (4, sum(range(100)) + 2)


def test_result_times_out_with_the_standard_error(executor: CrewExecutor) -> None:
    future: CrewFuture[None] = executor.submit(time.sleep, 0.3)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.01)
    future.result()
