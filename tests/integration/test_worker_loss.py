"""What happens when workers die, never come up, or stand still; and when the supervisor does."""

from __future__ import annotations

import operator
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from crew_executor import BrokenCrewError, CrewExecutor, LaunchError, WorkerCrashError, workforce
from crew_executor.launchers import LocalLauncher, supervisor_handle

from .helpers import add, append_line, die, exit_now, is_alive, touch_and_wait, wait_until


def _die_at(number: int, victim: int, path: str) -> int:
    append_line(path, str(number))
    if number == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def _spin(seconds: float) -> int:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return os.getpid()


def _leave_a_child() -> int:
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    return pid


def _freeze(worker: psutil.Process) -> None:
    worker.suspend()
    wait_until(lambda: worker.status() == psutil.STATUS_STOPPED, "the worker stands still")


@pytest.mark.parametrize("victim", [0, 1, 500, 999])
def test_one_killed_worker_costs_one_task_of_a_thousand(victim: int, tmp_path: Path) -> None:
    path = str(tmp_path / "runs")
    with CrewExecutor(2) as executor:
        futures = [executor.submit(_die_at, number, victim, path) for number in range(1000)]
        for number, future in enumerate(futures):
            if number != victim:
                assert future.result(timeout=60) == number

        error = futures[victim].exception(timeout=60)
        assert isinstance(error, WorkerCrashError)
        assert (error.signal, error.exitcode) == ("SIGKILL", -9)
        record = futures[victim].record()
        assert (record.status, record.pid, record.worker) == ("crash", error.pid, error.worker)
        assert error.pid != os.getpid()
        assert "_die_at" in error.task
        assert "SIGKILL" in str(error)
        assert executor.submit(add, 1, 1).result(timeout=60) == 2

    runs = Path(path).read_text().split()

    assert sorted(map(int, runs)) == list(range(1000))


def test_tasks_of_the_same_frame_survive_the_death_of_their_neighbour() -> None:
    with CrewExecutor(1) as executor:
        for _ in range(200):  # learn that they are short, so that frames are long
            executor.submit(add, 1, 1).result()
        futures = [executor.submit(add, number, 0) for number in range(100)]
        crash = executor.submit(die)
        more = [executor.submit(add, number, 0) for number in range(100)]

        assert [future.result(timeout=60) for future in futures + more] == [*range(100), *range(100)]
        assert isinstance(crash.exception(), WorkerCrashError)


@pytest.mark.parametrize(
    ("call", "says"),
    [((exit_now, 3), "exit code 3"), ((die, signal.SIGSEGV), "SIGSEGV"), ((die, signal.SIGTERM), "SIGTERM")],
)
def test_the_error_says_how_the_worker_ended(call: tuple[object, int], says: str) -> None:
    with CrewExecutor(1) as executor:
        with pytest.raises(WorkerCrashError, match=says):
            executor.submit(*call).result(timeout=60)  # type: ignore[arg-type]

        assert executor.submit(add, 1, 1).result(timeout=60) == 2


def test_the_last_words_of_a_worker_are_in_the_error() -> None:
    with CrewExecutor(1) as executor:
        executor.submit(print, "these are my last words", file=None).result()
        executor.submit(_say, "last words").result()
        error = executor.submit(die, signal.SIGSEGV).exception()

    assert isinstance(error, WorkerCrashError)
    assert "last words" in error.stderr
    assert "Segmentation fault" in error.stderr  # faulthandler's


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def test_an_idle_worker_that_dies_costs_nothing() -> None:
    with CrewExecutor(1) as executor:
        pid = executor.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the worker is dead")

        assert executor.submit(add, 1, 1).result(timeout=60) == 2


def test_a_crash_takes_the_children_of_the_task_along(tmp_path: Path) -> None:
    with CrewExecutor(1) as executor:
        child = executor.submit(_leave_a_child).result()
        executor.submit(die).exception()
        wait_until(lambda: not is_alive(child), "the child of the crashed worker is dead")


def test_a_grandchild_with_a_copy_of_the_link_does_not_hide_the_death() -> None:
    with CrewExecutor(1) as executor:
        executor.submit(_leave_a_child).result()
        crash = executor.submit(exit_now, 7)

        assert isinstance(crash.exception(timeout=30), WorkerCrashError)


def test_a_bad_interpreter_ends_the_futures_with_the_launchers_words() -> None:
    launcher = LocalLauncher(python="/nonexistent/python", max_failed_launches=2)
    with CrewExecutor(2, launcher=launcher) as executor:
        futures = [executor.submit(int) for _ in range(3)]
        for future in futures:
            error = future.exception(timeout=30)

            assert isinstance(error, BrokenCrewError)
            assert isinstance(error.__cause__, LaunchError)
            assert "/nonexistent/python" in str(error)
            assert "127" in str(error)
        assert executor.stats().launched <= 3


def test_an_import_error_at_startup_shows_the_end_of_the_output(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import no_such_module_anywhere'\n")
    broken.chmod(0o755)
    with CrewExecutor(1, launcher=LocalLauncher(python=broken, max_failed_launches=1)) as executor:
        error = executor.submit(int).exception(timeout=30)

    assert isinstance(error, BrokenCrewError)
    assert "no_such_module_anywhere" in str(error)
    assert "exit code 1" in str(error)


def test_a_worker_that_never_joins_is_given_up_after_the_startup_timeout(tmp_path: Path) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(0o755)
    launcher = LocalLauncher(python=silent, startup_timeout=0.3, max_failed_launches=1)
    with CrewExecutor(1, launcher=launcher) as executor:
        error = executor.submit(int).exception(timeout=30)

    assert isinstance(error, BrokenCrewError)
    assert "startup_timeout=0.3" in str(error)


def test_a_supervisor_that_cannot_run_is_not_started_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor_handle.close()
    monkeypatch.setattr(supervisor_handle, "_BOOT", "import sys; sys.exit(3)")
    with CrewExecutor(1) as executor:
        error = executor.submit(int).exception(timeout=30)

        assert isinstance(error, BrokenCrewError)
        assert "the supervisor of local workers ended" in str(error)
        assert executor.stats().launched == 3
    supervisor_handle.close()


def test_an_initializer_that_kills_its_worker_is_not_tried_for_ever() -> None:
    with CrewExecutor(1, initializer=exit_now, initargs=(5,)) as executor:
        error = executor.submit(int).exception(timeout=30)

        assert isinstance(error, BrokenCrewError)
        assert "exit code 5" in str(error)
        assert executor.stats().launched == 3


def _spoil_this_worker() -> None:
    from crew_executor.worker import process

    def fail(_frame: object) -> None:
        raise RuntimeError("this worker takes no tasks")

    process.decode_tasks = fail  # type: ignore[assignment]


def test_workers_that_end_before_their_first_task_are_not_launched_for_ever() -> None:
    with CrewExecutor(1, initializer=_spoil_this_worker) as executor:
        error = executor.submit(int).exception(timeout=30)

        assert isinstance(error, BrokenCrewError)
        assert "ended before it started a task" in str(error)
        assert executor.stats().launched == 3


def test_a_killed_supervisor_is_replaced_and_costs_only_running_tasks(tmp_path: Path) -> None:
    started = str(tmp_path / "started")
    with CrewExecutor(2) as executor:
        running = executor.submit(touch_and_wait, started, str(tmp_path / "never"))
        wait_until(Path(started).exists, "the task runs")
        handle = supervisor_handle.running()
        assert handle is not None
        os.kill(handle.pid, signal.SIGKILL)

        assert isinstance(running.exception(timeout=30), WorkerCrashError)
        assert executor.submit(add, 1, 1).result(timeout=30) == 2
        assert supervisor_handle.running() is not handle


def test_a_killed_supervisor_leaves_no_process_of_its_workers_tasks() -> None:
    with CrewExecutor(1) as executor:
        child = executor.submit(_leave_a_child).result(timeout=30)
        assert is_alive(child)
        handle = supervisor_handle.running()
        assert handle is not None
        os.kill(handle.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(child), "the child of the task is gone")


def test_short_tasks_are_not_trapped_behind_a_long_one_of_the_same_function() -> None:
    with CrewExecutor(2) as executor:
        for _ in range(50):
            executor.submit(_spin, 0).result()
        long = executor.submit(_spin, 3)  # holds the interpreter lock of its worker
        short = [executor.submit(_spin, 0) for _ in range(200)]
        for future in short:
            future.result(timeout=30)

        assert not long.done()


def test_a_full_queue_of_long_tasks_does_not_stop_a_crash_from_being_told(tmp_path: Path) -> None:
    with CrewExecutor(2) as executor:
        futures = [executor.submit(_sleep, 0.01) for _ in range(50)]
        crash = executor.submit(die)
        futures += [executor.submit(_sleep, 0.01) for _ in range(50)]

        assert isinstance(crash.exception(timeout=60), WorkerCrashError)
        assert [future.result(timeout=60) for future in futures] == [0.01] * 100


def test_large_arguments_and_results_travel_and_do_not_block_submit() -> None:
    blob = 50_000_000 * "x"
    with CrewExecutor(1) as executor:
        futures = [executor.submit(operator.concat, blob, "x") for _ in range(3)]

        assert all(len(future.result(timeout=60)) == 50_000_001 for future in futures)


def test_a_worker_frozen_before_its_task_is_replaced_and_the_task_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workforce, "START_SECONDS", 1.0)
    with CrewExecutor(1) as executor:
        pid = executor.submit(os.getpid).result(timeout=30)
        os.kill(pid, signal.SIGSTOP)
        # The dispatcher's thread is to sleep as if nothing could happen: it looks at nobody while nothing is out.
        dispatcher = executor._dispatcher
        wait_until(lambda: not dispatcher._is_look_planned, "the dispatcher looks at nobody")

        assert executor.submit(append_line, str(tmp_path / "runs"), "once").result(timeout=30) == "once"
        assert executor.submit(os.getpid).result(timeout=30) != pid
    assert (tmp_path / "runs").read_text() == "once\n"


def test_a_worker_frozen_in_a_burst_keeps_nobody_from_working(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given more whenever what it has was taken back: its socket is full, and who writes there must not wait."""
    monkeypatch.setattr(workforce, "START_SECONDS", 1.0)
    with CrewExecutor(2) as executor:
        assert [future.result(timeout=30) for future in [executor.submit(add, 1, 1) for _ in range(1000)]]
        futures, pid, is_in_a_task = [], None, False
        for number in range(20_000):
            futures.append(executor.submit(add, number, 1))
            if number < 4000 or pid is not None:
                continue
            busy = [worker.pid for worker in executor.stats().workers if worker.state == "busy"]
            if busy:
                pid = busy[0]
                cell = next(each.cell for each in executor._dispatcher._connections.values() if each.facts.pid == pid)
                _freeze(psutil.Process(pid))
                is_in_a_task = cell.started != cell.finished
        assert pid is not None

        wait_until(lambda: sum(not future.done() for future in futures) <= is_in_a_task, "all that can be done is done")
        if is_in_a_task:
            os.kill(pid, signal.SIGCONT)
        assert [future.result(timeout=30) for future in futures] == list(range(1, 20_001))
