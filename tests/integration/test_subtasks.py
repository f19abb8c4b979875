"""Tasks that submit tasks to the pool that runs them, and wait for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from crew_executor import CrewExecutor, TaskTimeoutError, WorkerCrashError, workforce

from .helpers import DEADLINE, TwoArguments, append_line, die, wait_until, warn


def pool(workers: int = 1, **options: Any) -> CrewExecutor:
    return CrewExecutor(workers, **options)


def in_a_task(function: Callable[..., Any], *args: Any, workers: int = 1) -> Any:
    """Return what a function returns that runs as a task and has the executor as its first argument."""
    with pool(workers) as executor:
        return executor.submit(function, executor, *args).result(timeout=DEADLINE)


def fibonacci(executor: Executor, number: int) -> int:
    if number < 2:
        return number
    left, right = (executor.submit(fibonacci, executor, number - step) for step in (1, 2))
    return left.result() + right.result()


def sum_of_squares(executor: Executor, count: int) -> int:
    return sum(executor.map(pow, range(count), [2] * count))


def gather(executor: Executor) -> tuple[list[int], int, list[int]]:
    futures = [executor.submit(pow, 2, number) for number in range(5)]
    done, _pending = concurrent.futures.wait(futures)
    called: list[int] = []
    is_called = threading.Event()

    def note(future: concurrent.futures.Future[int]) -> None:
        called.append(future.result())
        is_called.set()

    executor.submit(pow, 3, 3).add_done_callback(note)
    is_called.wait(DEADLINE)
    return sorted(future.result() for future in concurrent.futures.as_completed(futures)), len(done), called


def await_subtasks(executor: Executor) -> list[int]:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, pow, 2, number) for number in range(5)))

    return asyncio.run(main())


def chunks(executor: Executor) -> list[int]:
    return list(executor.map(pow, range(100), [2] * 100, chunksize=7))


@pytest.mark.parametrize("workers", [1, 2])
def test_waiting_for_tasks_of_its_own_pool_works_at_any_depth(workers: int) -> None:
    assert in_a_task(fibonacci, 7, workers=workers) == 13


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (lambda executor: sum_of_squares(executor, 20), 2470),
        (gather, ([1, 2, 4, 8, 16], 5, [27])),
        (await_subtasks, [1, 2, 4, 8, 16]),
        (chunks, [number**2 for number in range(100)]),
    ],
    ids=["map", "wait and as_completed", "asyncio", "map in chunks"],
)
def test_each_way_of_waiting_works(function: Callable[..., Any], result: Any) -> None:
    assert in_a_task(function) == result


def test_many_tasks_that_all_wait_need_few_workers() -> None:
    with pool(2) as executor:
        results = list(executor.map(sum_of_squares, [executor] * 30, [5] * 30))
        launched = executor.stats().launched

    assert results == [30] * 30
    assert launched <= 6


def describe(executor: Any) -> tuple[Any, ...]:
    future = executor.options(name="inner").submit(warn, "look out")
    future.result()
    record = future.record()
    return record.name, record.status, record.attempts, record.worker, record.pid, len(record.warnings)


def test_a_subtask_has_a_record_and_its_warnings_are_its_parents_too() -> None:
    with pool() as executor, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        future = executor.submit(describe, executor)
        name, status, attempts, worker, pid, count = future.result(timeout=DEADLINE)
        record = future.record()

    assert (name, status, attempts, count) == ("inner", "success", 1, 1)
    assert worker.startswith(record.worker.rpartition("-")[0])
    assert (worker, pid) != (record.worker, record.pid)
    assert [warning.message for warning in record.warnings] == ["look out"]


def fail(*args: object) -> None:
    raise TwoArguments(*args)


def test_an_error_of_a_subtask_is_raised_in_its_parent_and_passes_through() -> None:
    with pool() as executor:
        error = executor.submit(submit_and_wait, executor, fail, "left", "right").exception(timeout=DEADLINE)

    assert isinstance(error, TwoArguments)
    frames = [frame.name for frame in _frames(error)]
    assert frames.index("submit_and_wait") < frames.index("fail")


def _frames(error: BaseException) -> Any:
    import traceback

    return traceback.extract_tb(error.__traceback__)


def submit_and_wait(executor: Executor, function: Callable[..., Any], *args: Any) -> Any:
    return executor.submit(function, *args).result()


def name_of_error(executor: Any, options: dict[str, Any], function: Callable[..., Any], *args: Any) -> str:
    future = executor.options(**options).submit(function, *args)
    error = future.exception()
    return f"{type(error).__name__} after {future.record().attempts}"


@pytest.mark.parametrize(
    ("options", "function", "args", "name"),
    [
        ({}, die, (signal.SIGKILL,), f"{WorkerCrashError.__name__} after 1"),
        ({"crash_retries": 1}, die, (signal.SIGKILL,), f"{WorkerCrashError.__name__} after 2"),
        ({"timeout": 0.1}, time.sleep, (60,), f"{TaskTimeoutError.__name__} after 1"),
        ({"retries": 2, "retry_on": TwoArguments}, fail, (1, 2), "TwoArguments after 3"),
        ({}, threading.Lock, (), "TypeError after 1"),
        ({"capture_output": True}, print, ("x",), "NoneType after 1"),
    ],
    ids=["crash", "crash_retries", "timeout", "retries", "unpicklable result", "none"],
)
def test_options_hold_for_subtasks(options: Any, function: Any, args: Any, name: str) -> None:
    assert in_a_task(name_of_error, options, function, *args) == name


def test_a_call_that_cannot_be_pickled_makes_a_future_with_the_error() -> None:
    assert in_a_task(submit_lock) == "cannot pickle '_thread.lock' object"


def submit_lock(executor: Executor) -> str:
    return str(executor.submit(print, threading.Lock()).exception())


def cancel_some(executor: Any, path: str) -> tuple[bool, bool, bool]:
    running = executor.submit(hang, f"{path} runs")
    wait_until(Path(f"{path} runs").exists, "the first subtask runs")
    queued = executor.submit(append_line, path, "ran")
    return queued.cancel(), running.cancel(), running.kill()


def hang(path: str) -> None:
    Path(path).touch()
    threading.Event().wait(60)


def test_queued_subtasks_can_be_cancelled_and_running_ones_killed(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with pool() as executor:
        assert executor.submit(cancel_some, executor, str(path)).result(timeout=DEADLINE) == (True, False, True)
        assert executor.submit(int).result(timeout=DEADLINE) == 0

    assert not path.exists()


def test_large_arguments_and_results_travel() -> None:
    assert in_a_task(submit_and_measure, 5_000_000) == 10_000_000


def submit_and_measure(executor: Executor, size: int) -> int:
    return len(executor.submit(double, bytes(size)).result())


def double(data: bytes) -> bytes:
    return data + data


def test_a_parent_that_is_told_to_stop_while_it_waits_leaves_its_worker_in_order(tmp_path: Path) -> None:
    with pool() as executor:
        pid = executor.submit(os.getpid).result(timeout=DEADLINE)
        future = executor.options(timeout=0.3).submit(submit_and_wait, executor, hang, str(tmp_path / "runs"))
        assert isinstance(future.exception(timeout=DEADLINE), TaskTimeoutError)
        executor.kill_workers()

    assert future.record().pid == pid


def test_queued_subtasks_of_a_parent_whose_worker_died_do_not_run(tmp_path: Path) -> None:
    path = str(tmp_path / "lines")
    with pool() as executor:
        future = executor.submit(submit_and_die, executor, path)
        assert isinstance(future.exception(timeout=DEADLINE), WorkerCrashError)
        Path(f"{path} release").touch()
        executor.submit(int).result(timeout=DEADLINE)

    assert not Path(path).exists()


def submit_and_die(executor: Executor, path: str) -> None:
    for _ in range(2):  # this worker's slot and no other: one runs
        executor.submit(wait_for, f"{path} release")
    for number in range(5):
        executor.submit(append_line, path, f"{number}")
    concurrent.futures.wait([executor.submit(int)], timeout=0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(path: str) -> None:
    wait_until(Path(path).exists, f"{path} appears")


def test_a_closing_executor_still_takes_the_subtasks_of_its_tasks() -> None:
    with pool() as executor:
        future = executor.submit(submit_late, executor)
    assert future.result(timeout=0) == 8


def submit_late(executor: Executor) -> int:
    threading.Event().wait(0.2)  # by now the client waits in shutdown()
    return executor.submit(pow, 2, 3).result()


def test_threads_of_a_task_may_submit() -> None:
    assert sorted(in_a_task(submit_from_threads)) == [0, 1, 4, 9]


def submit_from_threads(executor: Executor) -> list[int]:
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda number: executor.submit(pow, number, 2).result(), range(4)))


def submit_in_a_fork(executor: Executor) -> str:
    executor.submit(int).result()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            executor.submit(int)
        except RuntimeError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with os.fdopen(reading) as file:
        return file.read()


def test_a_process_that_a_task_forked_is_refused() -> None:
    assert "was forked by a task of worker" in in_a_task(submit_in_a_fork)


def test_what_ends_or_describes_a_pool_is_refused_in_a_task() -> None:
    with pool() as executor:
        for method in ("shutdown", "stats", "__enter__"):
            error = executor.submit(call_method, executor, method).exception(timeout=DEADLINE)
            assert isinstance(error, RuntimeError)
            assert "in its client" in str(error) or "belongs to its client" in str(error)


def call_method(executor: Any, name: str) -> Any:
    return getattr(executor, name)()


def test_in_its_own_process_a_pickled_executor_is_itself() -> None:
    with pool() as executor:
        assert pickle.loads(pickle.dumps(executor)) is executor
        assert copy.copy(executor) is executor
        view = pickle.loads(pickle.dumps(executor.options(name="view")))
        assert view.submit(pow, 2, 2).result(timeout=DEADLINE) == 4


def test_the_executor_of_another_pool_is_refused_with_the_cure() -> None:
    with pool() as executor, pool() as other:
        error = executor.submit(submit_and_wait, other, int).exception(timeout=DEADLINE)

    assert isinstance(error, RuntimeError)
    assert "a task can submit to the pool that runs it" in str(error)


def test_workers_that_stood_in_leave_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workforce, "SPARE_SECONDS", 0.1)
    with pool() as executor:
        assert executor.submit(fibonacci, executor, 5).result(timeout=DEADLINE) == 5
        assert executor.stats().launched > 1
        wait_until(lambda: len(executor.stats().workers) == 1, "one worker is left")


def test_a_waiting_task_is_shown_as_such(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with pool() as executor:
        future = executor.submit(submit_and_wait, executor, wait_for, str(path))
        wait_until(lambda: sorted(w.state for w in executor.stats().workers) == ["busy", "waiting"], "one waits")
        path.touch()
        future.result(timeout=DEADLINE)


def test_subtasks_count_as_tasks_of_a_worker_and_work_where_workers_are_replaced() -> None:
    with pool(2, max_tasks_per_child=2) as executor:
        assert executor.submit(fibonacci, executor, 6).result(timeout=DEADLINE) == 8


SCRIPT = """
import os
from crew_executor import CrewExecutor

cache = {}
calls = 0

class Refused(Exception):
    pass

def load(key):
    global calls
    calls += 1
    return cache.setdefault(key, os.getpid()), len(cache), calls

def loads(key):
    load(key)
    future = executor.submit(load, key)
    future.result()
    inner = future.result()
    return load(key)[2], inner[0] != os.getpid()

def refuse(number):
    raise Refused(number)

def catch():
    try:
        executor.options(retries=1, retry_on=Refused).submit(refuse, 5).result()
    except Refused as error:
        return repr(error)

def depth(number):
    return 0 if not number else 1 + executor.submit(lambda: depth(number - 1)).result()

executor = CrewExecutor(1)
print(executor.submit(loads, "a").result())
print(executor.submit(loads, "b").result())
print(executor.submit(catch).result())
print(executor.submit(depth, 6).result())
print(cache, calls)
LAST
"""


@pytest.mark.parametrize("last", ["executor.shutdown()", ""])
def test_functions_of_a_script_find_the_executor_and_keep_their_own_globals(last: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace("LAST", last))
    done = subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        capture_output=True, text=True, cwd=tmp_path, timeout=50, check=False,
    )  # fmt: skip

    lines = ["(2, True)", "(4, True)", "Refused(5)", "6", "{} 0"]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, lines, "")


AT_THE_END = """
import time
from crew_executor import CrewExecutor
def wait_for_another():
    time.sleep(0.3)  # the main thread has come to its end
    return executor.submit(int).result()
executor = CrewExecutor(1)
future = executor.submit(wait_for_another)
future.add_done_callback(lambda future: print(future.exception() or future.result(), flush=True))
"""


def test_at_the_end_of_a_script_a_subtask_runs_or_is_refused(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(AT_THE_END)
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path, timeout=50, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0\n" or "interpreter is ending" in done.stdout
