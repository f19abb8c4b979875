"""Running tasks that are stopped: by their timeout, by kill(), by cancel() of a view that allows it."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import Any

import psutil
import pytest

from crew_executor import CrewExecutor, RemoteTaskError, TaskTimeoutError, WorkerCrashError

from .helpers import add, append_line, identity, is_alive, touch_and_wait, wait_until


def _do_nothing() -> None:
    pass


def _sleep() -> None:
    time.sleep(600)


def _compute() -> None:
    while True:
        pass


def _hold_the_interpreter_lock() -> None:
    sum(range(10**12))


def _catch_everything() -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until:
        try:
            time.sleep(600)
        except BaseException:  # the worst of tasks
            continue


def _wait_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _wait_for_a_child() -> None:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"], check=False)


HOWS = [_sleep, _compute, _hold_the_interpreter_lock, _catch_everything, _wait_for_a_lock, _wait_for_a_child]


def _spoil(how: Callable[[], None], path: str) -> None:
    """Have a side effect before what must be stopped, and one that must not happen after it."""
    append_line(path, "begun")
    how()
    append_line(path, "ended")


def _has_begun(path: Path) -> bool:
    return path.exists() and path.read_text() == "begun\n"


class _SlowToUnpickle:
    def __reduce__(self) -> tuple[object, ...]:
        return (_sleep, ())


class _SlowToPickle:
    def __reduce__(self) -> tuple[object, ...]:
        _sleep()
        return (int, ())


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(2) as executor:
        yield executor


# ---------------------------------------------------------------------- timeouts


@pytest.mark.parametrize("how", HOWS)
def test_a_timeout_ends_the_task_and_frees_its_slot(how: Callable[[], None], tmp_path: Path) -> None:
    path = str(tmp_path / "effects")
    with CrewExecutor(1) as executor:
        future = executor.options(timeout=0.2).submit(_spoil, how, path)
        behind = executor.submit(add, 1, 1)

        assert isinstance(future.exception(timeout=30), TaskTimeoutError)
        assert behind.result(timeout=30) == 2
        assert future.record().status == "timeout"
        assert future.record().seconds is not None
        assert "timeout=0.2" in str(future.exception())

    assert Path(path).read_text() == "begun\n"


def test_neighbours_of_a_timeout_are_not_disturbed(executor: CrewExecutor, tmp_path: Path) -> None:
    release = tmp_path / "release"
    neighbour = executor.submit(touch_and_wait, str(tmp_path / "started"), str(release))
    wait_until((tmp_path / "started").exists, "the neighbour runs")
    doomed = executor.options(timeout=0.1).submit(_hold_the_interpreter_lock)
    behind = [executor.submit(identity, number) for number in range(100)]

    assert isinstance(doomed.exception(timeout=30), TaskTimeoutError)
    assert [future.result(timeout=30) for future in behind] == list(range(100))
    assert not neighbour.done()
    release.touch()
    assert neighbour.result(timeout=30) not in (None, os.getpid())


def test_a_heeded_interrupt_keeps_the_worker_and_tells_where_the_task_was(tmp_path: Path) -> None:
    with CrewExecutor(1) as executor:
        pid = executor.submit(os.getpid).result(timeout=30)
        error = executor.options(timeout=0.2).submit(_compute).exception(timeout=30)

        assert executor.submit(os.getpid).result(timeout=30) == pid
    assert error is not None
    assert "_compute" in traceback.extract_tb(error.__traceback__)[-1].name


def test_a_timeout_holds_for_pickling_the_result(executor: CrewExecutor) -> None:
    future = executor.options(timeout=0.2).submit(_SlowToPickle)

    assert isinstance(future.exception(timeout=30), TaskTimeoutError)


def test_the_imports_of_a_call_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(1)\ndef one(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from slow_to_import import one  # type: ignore[import-not-found]

    with CrewExecutor(1) as executor:
        assert executor.options(timeout=0.5).submit(one).result(timeout=30) == 1


def test_a_task_that_is_being_unpickled_can_be_killed(executor: CrewExecutor) -> None:
    future = executor.submit(identity, _SlowToUnpickle())
    wait_until(future.running, "the task was sent")

    assert future.kill()
    assert [item.result(timeout=30) for item in [executor.submit(add, 1, 1) for _ in range(2)]] == [2, 2]


def _use_signals_with_asyncio() -> None:
    async def use() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, _do_nothing)
        loop.remove_signal_handler(signal.SIGINT)  # which leaves Python's own handler behind

    asyncio.run(use())


def test_a_signal_handler_left_behind_by_a_task_does_not_spoil_the_next() -> None:
    with CrewExecutor(1) as executor:
        pid = executor.submit(os.getpid).result(timeout=30)
        executor.submit(_use_signals_with_asyncio).result(timeout=30)
        future = executor.options(timeout=0.2, retries=1).submit(_sleep)

        assert isinstance(future.exception(timeout=30), TaskTimeoutError)
        assert (future.record().status, future.record().attempts) == ("timeout", 2)
        assert executor.submit(os.getpid).result(timeout=30) == pid


def _take_the_handler(how: str) -> None:
    signal.signal(signal.SIGINT, {"python's": signal.default_int_handler, "kernel's": signal.SIG_DFL}[how])
    _sleep()


@pytest.mark.parametrize("how", ["python's", "kernel's"])
def test_a_task_that_takes_the_interrupts_handler_away_has_timed_out_all_the_same(how: str) -> None:
    with CrewExecutor(1) as executor:
        future = executor.options(timeout=0.2, retries=1).submit(_take_the_handler, how)

        assert isinstance(future.exception(timeout=30), TaskTimeoutError)
        assert (future.record().status, future.record().attempts) == ("timeout", 2)
        assert executor.submit(add, 1, 1).result(timeout=30) == 2


class _CannotTravel(Exception):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def _clean_up_badly() -> None:
    try:
        _sleep()
    finally:
        raise _CannotTravel


def test_a_timeout_stays_one_whatever_the_task_raises_then(executor: CrewExecutor) -> None:
    error = executor.options(timeout=0.2).submit(_clean_up_badly).exception(timeout=30)

    assert isinstance(error, TaskTimeoutError)
    assert isinstance(error.__cause__, RemoteTaskError)
    assert "cannot be pickled" in str(error.__cause__)


def test_a_timeout_that_is_not_reached_does_nothing(executor: CrewExecutor) -> None:
    with executor.options(timeout=30) as view:
        assert list(view.map(add, range(500), range(500))) == list(range(0, 1000, 2))
    assert executor.options(timeout=float("inf")).submit(add, 1, 1).result(timeout=30) == 2


def test_the_clock_of_a_timeout_starts_with_the_task() -> None:
    with CrewExecutor(1) as executor:
        view = executor.options(timeout=0.4)
        futures = [view.submit(time.sleep, 0.1) for _ in range(10)]  # together much longer than one may take

        assert [future.result(timeout=30) for future in futures] == [None] * 10


def test_a_timeout_of_map_is_that_of_each_item(executor: CrewExecutor) -> None:
    results = executor.options(timeout=0.3).map(time.sleep, [0.1, 0.1, 0.1, 0.1, 0.1, 600], chunksize=6)

    assert [next(results) for _ in range(5)] == [None] * 5
    with pytest.raises(TaskTimeoutError):
        next(results)


def test_an_interrupt_meant_for_one_task_never_hits_the_next() -> None:
    """Tasks end just when their time is over, in front of tasks that must not notice."""
    chance = random.Random(7)
    with CrewExecutor(2) as executor:
        view = executor.options(timeout=0.01)
        pairs = []
        for number in range(300):
            pairs.append((view.submit(time.sleep, chance.uniform(0.008, 0.012)), executor.submit(_count_up, number)))
        outcomes = [first.exception(timeout=60) for first, _second in pairs]

        assert [second.result(timeout=60) for _first, second in pairs] == list(range(300))
    assert {type(outcome) for outcome in outcomes} <= {type(None), TaskTimeoutError}
    assert any(outcomes)


def _count_up(number: int) -> int:
    for _ in range(20_000):  # bytecodes, so that a stray interrupt has where to strike
        pass
    return number


def test_a_frozen_worker_does_not_outlive_its_timeout(tmp_path: Path) -> None:
    path = tmp_path / "effects"
    with CrewExecutor(1) as executor:
        pid = executor.submit(os.getpid).result(timeout=30)
        future = executor.options(timeout=0.5).submit(_spoil, _compute, str(path))
        wait_until(lambda: _has_begun(path), "the task runs")
        os.kill(pid, signal.SIGSTOP)

        assert isinstance(future.exception(timeout=30), TaskTimeoutError)
        assert executor.submit(add, 1, 1).result(timeout=30) == 2
    assert not is_alive(pid)


STOPPED_CLIENT = """
import os, sys, time
from crew_executor import CrewExecutor
def work(path):
    with open(path, "a") as file:
        file.write("begun\\n")
    time.sleep(1)
    with open(path, "a") as file:
        file.write("ended\\n")
with CrewExecutor(1) as executor:
    future = executor.options(timeout=0.5).submit(work, sys.argv[1])
    print(type(future.exception()).__name__)
"""


def test_a_timeout_holds_while_the_client_is_stopped(tmp_path: Path) -> None:
    path, check = tmp_path / "effects", tmp_path / "check"
    client = subprocess.Popen([sys.executable, "-c", STOPPED_CLIENT, str(path)], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: _has_begun(path), "the task runs")
    client.send_signal(signal.SIGSTOP)
    # Another pool's task of twice the length tells when the first must have been over.
    with CrewExecutor(1) as executor:
        executor.submit(time.sleep, 2).result(timeout=30)
    check.write_text(path.read_text())
    client.send_signal(signal.SIGCONT)
    output, _ = client.communicate(timeout=60)

    assert check.read_text() == "begun\n"
    assert path.read_text() == "begun\n"
    assert output.split() == ["TaskTimeoutError"]


# ---------------------------------------------------------------------- cancel and kill


@pytest.mark.parametrize("how", HOWS)
def test_cancel_of_a_running_task_really_stops_it(how: Callable[[], None], tmp_path: Path) -> None:
    path = tmp_path / "effects"
    with CrewExecutor(1) as executor:
        future = executor.options(cancel_running=True).submit(_spoil, how, str(path))
        wait_until(lambda: _has_begun(path), "the task runs")

        assert future.cancel()
        assert future.cancelled()
        assert executor.submit(add, 1, 1).result(timeout=30) == 2  # the only slot is free again
    with pytest.raises(CancelledError):
        future.result()
    assert path.read_text() == "begun\n"
    record = future.record()
    assert (record.status, record.attempts) == ("cancel", 1)
    assert None not in (record.pid, record.started, record.seconds)


def test_cancel_of_a_running_task_is_refused_without_the_option(executor: CrewExecutor, tmp_path: Path) -> None:
    future = executor.submit(touch_and_wait, str(tmp_path / "started"), str(tmp_path / "release"))
    wait_until((tmp_path / "started").exists, "the task runs")

    assert not future.cancel()
    assert future.kill()
    assert future.cancelled()


def test_kill_works_in_every_state(tmp_path: Path) -> None:
    with CrewExecutor(1) as executor:
        done = executor.submit(add, 1, 1)
        done.result(timeout=30)
        running = executor.submit(_spoil, _sleep, str(tmp_path / "running"))
        wait_until((tmp_path / "running").exists, "the task runs")
        queued = executor.submit(_spoil, _sleep, str(tmp_path / "queued"))

        assert (done.kill(), queued.kill(), running.kill(), running.kill()) == (False, True, True, True)
        assert executor.submit(add, 1, 1).result(timeout=30) == 2
    assert not (tmp_path / "queued").exists()


def test_kills_at_random_moments_hit_nobody_else(tmp_path: Path) -> None:
    """Short tasks, many sent ahead, every seventh killed while it waits, travels, runs or is done."""
    path = tmp_path / "runs"
    chance = random.Random(3)
    with CrewExecutor(2) as executor:
        futures = []
        killed: dict[int, bool] = {}
        for number in range(2000):
            futures.append(executor.submit(append_line, str(path), str(number)))
            if number % 7 == 6:
                victim = number - chance.randrange(60) % (number + 1)
                if victim not in killed:
                    killed[victim] = futures[victim].kill()
            if number % 50 == 49:  # let the workers come along
                (next(future for future in futures[number - 25 :] if not future.cancelled())).result(timeout=60)
        for number, future in enumerate(futures):
            if not killed.get(number):
                assert future.result(timeout=60) == str(number)
    runs = path.read_text().split()

    assert any(killed.values())
    assert not all(killed.values())
    assert len(runs) == len(set(runs))
    assert {str(number) for number in range(2000) if not killed.get(number)} <= set(runs)


def test_asyncio_wait_for_frees_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "effects"

    async def give_up(view: Any) -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(view, _spoil, _hold_the_interpreter_lock, str(path)), 1)

    with CrewExecutor(1) as executor:
        asyncio.run(give_up(executor.options(cancel_running=True)))

        assert executor.submit(add, 1, 1).result(timeout=30) == 2
    assert path.read_text() == "begun\n"


def _start_children(folder: str) -> None:
    """Be interrupted in the midst of starting a process, most likely."""
    while True:
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        (Path(folder) / str(child.pid)).touch()
        if len(list(Path(folder).iterdir())) > 20:
            _sleep()


def test_a_heeded_interrupt_leaves_no_process_of_the_task(tmp_path: Path) -> None:
    with CrewExecutor(1) as executor:
        before = executor.submit(_spawn_a_sleeper).result(timeout=30)
        pid = executor.submit(os.getpid).result(timeout=30)
        future = executor.submit(_start_children, str(tmp_path))
        wait_until(lambda: len(list(tmp_path.iterdir())) > 2, "the task has started processes")

        assert future.kill()
        assert executor.submit(os.getpid).result(timeout=30) == pid
        started = psutil.Process(pid).children(recursive=True)
        assert [child.pid for child in started] == [before]  # that of an earlier task is none of its business
        os.kill(before, signal.SIGKILL)


def _spawn_a_sleeper() -> int:
    return subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]).pid


def _start_helper(path: str) -> None:
    append_line(path, str(_spawn_a_sleeper()))


def test_a_stop_leaves_what_the_initializer_and_earlier_tasks_have_started(tmp_path: Path) -> None:
    path = tmp_path / "helpers"
    with CrewExecutor(1, initializer=_start_helper, initargs=(str(path),)) as executor:
        limited = executor.options(timeout=0.3)
        futures = [limited.submit(_sleep), limited.submit(_start_helper, str(path)), limited.submit(_sleep)]

        assert [future.record().status for future in wait(futures, timeout=30).done].count("timeout") == 2
        helpers = [int(line) for line in path.read_text().split()]
        assert [is_alive(pid) for pid in helpers] == [True, True]
        assert executor.submit(os.getpid).result(timeout=30) == psutil.Process(helpers[0]).ppid()
        for pid in helpers:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("how", [_sleep, _catch_everything])
def test_a_stop_leaves_what_the_task_has_detached(tmp_path: Path, how: Callable[[], None]) -> None:
    path = tmp_path / "pids"
    with CrewExecutor(1) as executor:
        future = executor.submit(_start_and_detach, str(path), how)
        wait_until(lambda: path.exists() and path.read_text().count("\n") == 2, "both were started")
        child, detached = map(int, path.read_text().split())

        assert future.kill()
        wait_until(lambda: not is_alive(child), "its child is gone")
        assert executor.submit(add, 1, 1).result(timeout=30) == 2
        assert is_alive(detached)
        os.kill(detached, signal.SIGKILL)


def _start_and_detach(path: str, how: Callable[[], None]) -> None:
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    for is_detached in (False, True):
        append_line(path, str(subprocess.Popen(sleep, start_new_session=is_detached).pid))
    how()


def test_a_killed_task_takes_what_it_started_along(tmp_path: Path) -> None:
    with CrewExecutor(1) as executor:
        future = executor.submit(_leave_children, str(tmp_path))
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "the task and its child run")
        pids = [int(entry.name) for entry in tmp_path.iterdir()]

        assert future.kill()
        wait_until(lambda: not any(map(is_alive, pids)), "worker and child are gone")
        assert executor.submit(add, 1, 1).result(timeout=30) == 2


def _leave_children(folder: str) -> None:
    os.fork()
    (Path(folder) / str(os.getpid())).touch()
    _catch_everything()


def _leave_the_process_group(path: str) -> None:
    os.setpgid(0, os.getpgid(os.getppid()))
    append_line(path, "begun")
    _catch_everything()


def test_a_task_that_left_its_process_group_is_killed_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "effects"
    with CrewExecutor(1) as executor:
        future = executor.submit(_leave_the_process_group, str(path))
        wait_until(lambda: _has_begun(path), "the task runs")

        assert future.kill()
        assert executor.submit(add, 1, 1).result(timeout=30) == 2


def test_leaving_an_interrupted_map_stops_what_runs(executor: CrewExecutor, tmp_path: Path) -> None:
    paths = [str(tmp_path / str(number)) for number in range(7)]
    results = executor.options(cancel_running=True).map(_spoil, [_do_nothing, *[_sleep] * 6], paths)
    next(results)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 3, "two more items run")
    results.close()  # type: ignore[attr-defined]

    assert [future.result(timeout=30) for future in [executor.submit(add, 1, 1) for _ in range(2)]] == [2, 2]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_worker_that_dies_of_itself_while_it_is_stopped_is_no_crash_for_anybody(executor: CrewExecutor) -> None:
    future = executor.submit(_sleep)
    wait_until(future.running, "the task runs")
    pid = next(worker.pid for worker in executor.stats().workers if worker.state == "busy")
    assert future.kill()
    assert pid is not None
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pytest.fail("a heeded interrupt costs no worker")

    assert [executor.submit(identity, number).result(timeout=30) for number in range(20)] == list(range(20))
    assert future.cancelled()
    assert not isinstance(future.record().error, WorkerCrashError)


def _return_much() -> str:
    return 50_000_000 * "x"


SLOW_CLIENT = """
import os, signal, sys
from crew_executor import CrewExecutor
from integration.test_stops import _return_much
with CrewExecutor(1) as executor:
    executor.submit(_return_much).result()
    future = executor.options(timeout=2).submit(_return_much)
    if os.fork() == 0:
        os.kill(os.getppid(), signal.SIGSTOP)
        import time
        time.sleep(4)
        os.kill(os.getppid(), signal.SIGCONT)
        os._exit(0)
    print(len(future.result()))
"""


def test_a_client_that_is_slow_to_take_a_result_costs_nobody_a_timeout() -> None:
    """The call is over long before its deadline; its outcome waits for a client that stands still."""
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SLOW_CLIENT],
        capture_output=True, text=True, timeout=50, check=False, env=environment,
    )  # fmt: skip

    assert (run.stdout, run.stderr) == ("50000000\n", "")


def test_kill_workers_runs_nothing_again(tmp_path: Path) -> None:
    path = tmp_path / "effects"
    with CrewExecutor(1) as executor:
        future = executor.options(crash_retries=5).submit(_spoil, _sleep, str(path))
        wait_until(lambda: _has_begun(path), "the task runs")
        executor.kill_workers()

        assert isinstance(future.exception(timeout=30), WorkerCrashError)
    assert path.read_text() == "begun\n"


PACKAGE = """
import os, time
from .part import *
while not os.path.exists(__file__ + ".fast"):
    time.sleep(0.01)
__all__ = part.__all__
"""


def import_slowly(folder: str) -> str:
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("slow_package").name


def test_a_worker_whose_import_was_interrupted_is_replaced(tmp_path: Path) -> None:
    """Python forgets the package and keeps its modules, so the next import of it fails."""
    package = tmp_path / "slow_package"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    (package / "part.py").write_text("__all__ = ['name']\nname = 'imported'\n")
    with CrewExecutor(1) as executor:
        assert isinstance(
            executor.options(timeout=0.3).submit(import_slowly, str(tmp_path)).exception(timeout=30), TaskTimeoutError
        )
        (package / "__init__.py.fast").touch()
        assert executor.submit(import_slowly, str(tmp_path)).result(timeout=30) == "imported"
