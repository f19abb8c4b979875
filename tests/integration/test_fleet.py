"""Checks workers behind agents: each agent is an ordinary process of this machine, its link runs over loopback."""

from __future__ import annotations

import ctypes
import importlib
import logging
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from crew_executor import CrewExecutor, LaunchError, TaskTimeoutError, WorkerCrashError
from crew_executor.errors import BrokenCrewError
from crew_executor.launchers import Job, LaunchRetry
from crew_executor.launchers.base import SubmitTimeout
from crew_executor.testing import NOWHERE, LauncherConformance, stopped

from .agents import ProcessLauncher
from .helpers import add, append_line, die, exit_now, is_alive, touch_and_wait, wait_until
from .launching import executor_of
from .test_large_buffers import Block

pytestmark = [pytest.mark.launchers, pytest.mark.timeout(120)]


@pytest.fixture
def launcher() -> ProcessLauncher:
    """Two workers in each job."""
    return ProcessLauncher(workers_per_job=2)


class TestProcessLauncher(LauncherConformance):
    """The contract, held by the simplest launcher."""

    def launcher(self, **options: Any) -> ProcessLauncher:
        """Return one."""
        self._launcher = ProcessLauncher(**options)
        return self._launcher

    def refused_launcher(self, **options: Any) -> ProcessLauncher:
        """Return one that refuses."""
        return Refusing(**options)

    def end_from_outside(self, launcher: Any, host: str, pid: int) -> bool:
        """Kill the agent."""
        launcher.agents[-1].kill()
        return True

    def lose(self, host: str) -> Any:
        """Stop the agent."""
        return stopped(self._launcher.agents[-1].pid)

    def client_script(self) -> str:
        """Make one."""
        tests = str(Path(__file__).resolve().parents[1])
        path = f"import sys\nsys.path.insert(0, {tests!r})\n"
        return f"{path}from integration.agents import ProcessLauncher\nlauncher = ProcessLauncher()"


class Refusing(ProcessLauncher):
    """A scheduler that refuses all."""

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Refuse."""
        raise LaunchError("sbatch: error: invalid partition specified: nosuch")


# ---------------------------------------------------------------------- what tasks see


def fail(text: str) -> None:
    """Warn, log, and raise."""
    warnings.warn("take care", stacklevel=1)
    logging.getLogger("far").warning("logged there")
    raise ValueError(text)


def test_records_errors_warnings_and_logs_come_back(
    launcher: ProcessLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    with executor_of(launcher) as executor:
        assert executor.submit(add, 1, 2).result() == 3
        future = executor.submit(fail, "far away")
        with pytest.warns(UserWarning, match="take care"):
            error = future.exception()

    assert isinstance(error, ValueError)
    assert str(error) == "far away"
    record = future.record()
    assert record.status == "error"
    assert record.host == socket.gethostname()
    assert record.traceback is not None
    assert "in fail" in record.traceback
    assert "logged there" in caplog.text


def test_the_place_of_a_job_that_has_ended_is_free_at_once() -> None:
    launcher = ProcessLauncher(max_jobs=1, lost_after=600.0)  # for so long what does not answer is waited for
    with executor_of(launcher, 1, idle_timeout=0.2) as executor:
        assert executor.submit(add, 1, 2).result(30) == 3
        launcher.agents[0].wait(30)
        assert executor.submit(add, 3, 4).result(60) == 7


def test_an_agent_that_is_told_to_end_before_it_has_come_ends_at_once(launcher: ProcessLauncher) -> None:
    launcher.hosts = (NOWHERE,)
    with executor_of(launcher, 1) as executor:
        executor.submit(add, 1, 2)
        wait_until(lambda: launcher.agents, "an agent is started")
        (agent,) = launcher.agents
        wait_until(lambda: _ignores_interrupts(agent.pid), "it is on its way")
        agent.terminate()

        assert agent.wait(5) == -signal.SIGTERM
        executor.kill_workers()


def _ignores_interrupts(pid: int) -> bool:
    ignored = re.search(r"^SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return ignored is not None and bool(int(ignored[1], 16) >> (signal.SIGINT - 1) & 1)


def test_a_worker_that_dies_is_replaced_in_the_same_job(launcher: ProcessLauncher, tmp_path: Path) -> None:
    with executor_of(launcher) as executor:
        crash = executor.submit(exit_now, 3).exception()
        assert isinstance(crash, WorkerCrashError)
        assert crash.exitcode == 3
        assert isinstance(executor.submit(die, signal.SIGSEGV).exception(), WorkerCrashError)
        assert executor.options(crash_retries=1).submit(_die_once, str(tmp_path / "once")).result() == "survived"
        assert executor.submit(add, 1, 2).result() == 3

    assert len(launcher.jobs) == 1


def _die_once(path: str) -> str:
    if not os.path.exists(path):
        Path(path).touch()
        die()
    return "survived"


def test_what_a_dead_worker_had_finished_counts_and_the_rest_runs_elsewhere(
    launcher: ProcessLauncher, tmp_path: Path
) -> None:
    log = str(tmp_path / "log")
    with executor_of(launcher, 1) as executor:
        executor.submit(append_line, log, "warm").result()
        tasks = [executor.submit(append_line, log, str(number)) for number in range(200)]
        tasks.insert(100, executor.submit(exit_now, 1))
        more = [executor.submit(append_line, log, str(number)) for number in range(200, 300)]
        outcomes = Counter(type(task.exception()).__name__ for task in [*tasks, *more])

    assert outcomes == {"NoneType": 300, "WorkerCrashError": 1}
    assert Counter(Path(log).read_text().split()).most_common(1)[0][1] == 1


def test_a_time_limit_holds_and_hits_one_task_alone(launcher: ProcessLauncher) -> None:
    with executor_of(launcher, 1) as executor:
        late = executor.options(timeout=0.2).submit(time.sleep, 60)
        after = executor.submit(add, 1, 2)

        assert isinstance(late.exception(), TaskTimeoutError)
        assert after.result() == 3


def test_a_running_task_and_one_behind_it_can_be_cancelled(launcher: ProcessLauncher, tmp_path: Path) -> None:
    started, log = str(tmp_path / "started"), str(tmp_path / "log")
    with executor_of(launcher, 1) as executor:
        executor.submit(append_line, log, "known").result()
        view = executor.options(cancel_running=True)
        running = view.submit(touch_and_wait, started, str(tmp_path / "never"))
        wait_until(Path(started).exists, "the task runs")
        behind = [view.submit(append_line, log, "behind") for _ in range(20)]

        assert all(task.cancel() for task in behind)
        assert running.cancel()
        assert executor.submit(append_line, log, "after").result() == "after"

    assert Path(log).read_text().split() == ["known", "after"]


def test_short_tasks_are_not_trapped_behind_a_long_one(launcher: ProcessLauncher, tmp_path: Path) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with executor_of(launcher) as executor:
        list(executor.map(abs, range(1000)))
        long = executor.submit(touch_and_wait, started, release)
        short = [executor.submit(abs, -number) for number in range(500)]

        assert [task.result() for task in short] == list(range(500))
        assert not long.done()
        Path(release).touch()
        assert long.result()


def test_map_subtasks_and_broadcasts_go_there_and_back(launcher: ProcessLauncher) -> None:
    with executor_of(launcher) as executor:
        assert list(executor.map(add, range(1000), range(1000))) == list(range(0, 2000, 2))
        assert executor.submit(_sum_of_subtasks, executor, 10).result() == 45
        assert executor.run_on_all(os.getpid)[0].result()


def _sum_of_subtasks(executor: CrewExecutor, number: int) -> int:
    return sum(executor.map(abs, range(number)))


def test_a_task_that_holds_the_interpreter_lock_is_not_taken_for_dead(launcher: ProcessLauncher) -> None:
    launcher.lost_after = 1.0
    with executor_of(launcher, 1) as executor:
        assert executor.submit(_hold_the_lock, 3.0).result() == "done"

    assert len(launcher.jobs) == 1


def _hold_the_lock(seconds: float) -> str:
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # PyDLL: the lock is not released meanwhile
    return "done"


def test_large_buffers_cross_once_for_all_workers_of_a_host(launcher: ProcessLauncher) -> None:
    launcher.has_relay = True
    block = Block(bytearray(16_000_000))
    with executor_of(launcher) as executor:
        handle = executor.share(block)
        assert list(executor.map(size_of, [handle] * 20, chunksize=1)) == [16_000_000] * 20
        assert launcher.relay is not None
        assert launcher.relay.bytes_passed < 24_000_000
        returned = executor.submit(filled, block).result()
        assert returned.memory == b"x" * 16_000_000
        returned.memory[0] = 0  # it is the client's own


def size_of(block: Block) -> int:
    """Return it."""
    return len(block.memory)


def filled(block: Block) -> Block:
    """Return one as large."""
    return Block(bytearray(b"x" * len(block.memory)))


def test_a_constant_without_buffers_crosses_once_for_a_host_as_well() -> None:
    launcher = ProcessLauncher(workers_per_job=3)
    launcher.has_relay = True
    constant = {"key": os.urandom(3_000_000)}
    with executor_of(launcher, 3, min_workers=3) as executor:
        handle = executor.share(constant)
        wait_until(lambda: sum(each.state == "idle" for each in executor.stats().workers) == 3, "all have come")
        assert set(executor.map(_size, [handle] * 30, chunksize=1)) == {3_000_000}
        assert launcher.relay is not None
        assert launcher.relay.bytes_passed < 4_500_000


def _size(value: dict[str, bytes]) -> int:
    time.sleep(0.01)
    return len(value["key"])


def test_the_initializer_runs_there_and_its_failure_breaks_the_pool(launcher: ProcessLauncher) -> None:
    with executor_of(launcher, 1, initializer=os.putenv, initargs=("CREW_TEST", "1")) as executor:
        assert executor.submit(add, 1, 2).result() == 3
    with executor_of(ProcessLauncher(), 1, initializer=fail, initargs=("no",)) as executor:
        error = executor.submit(add, 1, 2).exception()

    assert isinstance(error, BrokenCrewError)
    assert isinstance(error.__cause__, ValueError)


def test_locks_of_one_machine_are_refused(launcher: ProcessLauncher) -> None:
    lock = multiprocessing.get_context("spawn").Lock()

    with pytest.raises(ValueError, match="cannot reach workers on another host"):
        CrewExecutor(1, launcher=launcher, initializer=id, initargs=(lock,))


def test_workers_are_in_the_clients_folder_with_its_path_and_the_launchers_environment(
    launcher: ProcessLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "only_here.py").write_text("value = 42")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    launcher.environment = {"CREW_TEST_WORD": "far"}
    with executor_of(launcher, 1) as executor:
        assert executor.submit(_look_around).result() == (str(tmp_path), "far", 42)


def _look_around() -> tuple[str, str, int]:
    import only_here  # type: ignore[import-not-found]

    return os.getcwd(), os.environ["CREW_TEST_WORD"], only_here.value


# ---------------------------------------------------------------------- links break


def test_outcomes_arrive_exactly_once_while_links_are_reset(launcher: ProcessLauncher, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    launcher.has_relay = True
    with executor_of(launcher) as executor:
        executor.submit(add, 1, 2).result()
        tasks = []
        for number in range(600):
            tasks.append(executor.submit(append_line, log, str(number)))
            if number % 100 == 50:
                assert launcher.relay is not None
                launcher.relay.reset()

        assert [task.result() for task in tasks] == [str(number) for number in range(600)]

    assert sorted(map(int, Path(log).read_text().split())) == list(range(600))
    assert len(launcher.jobs) == 1


def test_a_cut_shorter_than_lost_after_is_survived(launcher: ProcessLauncher, tmp_path: Path) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    launcher.has_relay, launcher.lost_after = True, 20.0
    with executor_of(launcher) as executor:
        task = executor.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the task runs")
        assert launcher.relay is not None
        launcher.relay.cut()
        Path(release).touch()
        more = [executor.submit(abs, -number) for number in range(100)]
        time.sleep(2.0)  # the cut itself: nothing tells of its end
        launcher.relay.heal()

        assert task.result()
        assert [each.result() for each in more] == list(range(100))

    assert len(launcher.jobs) == 1


def test_a_host_out_of_reach_has_ended_its_tasks_before_they_run_elsewhere(
    launcher: ProcessLauncher, tmp_path: Path
) -> None:
    launcher.has_relay, launcher.lost_after = True, 4.0
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with executor_of(launcher, 1) as executor:
        task = executor.options(crash_retries=1).submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the task runs")
        first = int(Path(started).read_text())
        Path(started).unlink()
        relay, launcher.relay, launcher.has_relay = launcher.relay, None, False
        assert relay is not None
        relay.cut()
        wait_until(Path(started).exists, "the task runs elsewhere")
        assert not is_alive(first)
        Path(release).touch()
        assert task.result() != first
        relay.close()

    assert task.record().attempts == 2


# ---------------------------------------------------------------------- jobs come and go


def test_a_job_without_workers_is_ended(launcher: ProcessLauncher) -> None:
    with executor_of(launcher, idle_timeout=0.2) as executor:
        executor.submit(add, 1, 2).result()
        wait_until(lambda: launcher.agents[0].poll() is not None, "the agent has ended")
        assert launcher.agents[0].returncode == 0
        assert executor.submit(add, 1, 2).result() == 3

    assert len(launcher.jobs) == 2


def test_a_host_that_is_about_to_be_taken_away_finishes_what_it_runs(launcher: ProcessLauncher, tmp_path: Path) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with executor_of(launcher, 1) as executor:
        running = executor.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the task runs")
        launcher.agents[0].terminate()
        assert executor.submit(add, 1, 2).result() == 3  # in another job
        Path(release).touch()
        assert running.result()
        wait_until(lambda: launcher.agents[0].poll() is not None, "the first agent has ended")

    assert len(launcher.jobs) == 2


def test_workers_leave_before_the_walltime_of_their_job(launcher: ProcessLauncher) -> None:
    launcher.walltime = 2.0
    with executor_of(launcher, 1) as executor:
        first = executor.submit(os.getpid).result()
        wait_until(lambda: launcher.agents[0].poll() is not None, "the first agent has ended")
        assert executor.submit(os.getpid).result() != first

    assert launcher.agents[0].returncode == 0


def test_no_more_workers_are_wanted_than_the_launcher_has_room_for(caplog: pytest.LogCaptureFixture) -> None:
    launcher = ProcessLauncher(workers_per_job=2, max_jobs=2)
    with executor_of(launcher, 10) as executor:
        assert "max_workers=10 is more than the launcher has room for: 4" in caplog.text
        assert list(executor.map(abs, range(-300, 0))) == list(range(300, 0, -1))
        assert len(executor.stats().workers) <= 4

    assert len(launcher.jobs) <= 2


def test_who_stands_in_for_a_task_that_waits_needs_no_job_of_its_own() -> None:
    launcher = ProcessLauncher(max_jobs=1)
    with executor_of(launcher, 1) as executor:
        assert executor.submit(_sum_of_subtasks, executor, 10).result() == 45

    assert len(launcher.jobs) == 1


def test_at_a_limit_of_cost_the_pool_goes_on_with_what_it_has(caplog: pytest.LogCaptureFixture) -> None:
    launcher = ProcessLauncher(max_launches=1)
    with executor_of(launcher, 2) as executor:
        assert list(executor.map(abs, range(-300, 0), chunksize=1)) == list(range(300, 0, -1))
        wait_until(lambda: "max_launches=1 jobs have been started" in caplog.text, "the limit is told")
        assert executor.submit(add, 1, 2).result() == 3
        launcher.agents[0].kill()
        wait_until(lambda: "is lost" in caplog.text, "the loss of the agent is known")
        error = executor.submit(add, 1, 2).exception()  # now nobody is left, and nobody will come

    assert isinstance(error, BrokenCrewError)
    assert "max_launches=1" in str(error)
    assert caplog.text.count("starts no more jobs") == 1
    assert len(launcher.jobs) == 1


def test_jobs_cost_hours(launcher: ProcessLauncher, caplog: pytest.LogCaptureFixture) -> None:
    launcher.max_worker_hours = 1e-6
    with executor_of(launcher, 4) as executor:
        executor.submit(add, 1, 2).result()
        list(executor.map(time.sleep, [0.01] * 20))
        wait_until(lambda: "max_worker_hours=1e-06 are spent" in caplog.text, "the limit is told")
        assert executor.submit(add, 1, 2).result() == 3

    assert len(launcher.jobs) == 1


class Putting(ProcessLauncher):
    """Puts the first submissions off; the second has worked all the same."""

    tries = 0

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Fail twice."""
        self.tries += 1
        if self.tries == 1:
            raise LaunchRetry("resource temporarily unavailable")
        handles = super().submit(job, number)
        if self.tries == 2:
            raise SubmitTimeout("no answer within 10 s")
        return handles

    def find(self, job: Job) -> Sequence[Hashable]:
        """Find what the second has started."""
        assert job.name == self.jobs[-1].name
        return self.agents


def test_a_submission_that_is_put_off_or_unclear_is_not_doubled() -> None:
    launcher = Putting()
    with executor_of(launcher, 1) as executor:
        assert executor.submit(add, 1, 2).result() == 3

    assert launcher.tries == 2
    assert len(launcher.jobs) == 1


class Bulk(ProcessLauncher):
    """Starts several jobs at a time, with one invitation."""

    jobs_per_submit = 3
    variables = ("CREW_TEST_PLACE",)

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Start them, and tell each which it is."""
        handles: list[Hashable] = []
        for _ in range(number):
            os.environ["CREW_TEST_PLACE"] = str(len(self.agents))
            handles += super().submit(job, 1)
        os.environ.pop("CREW_TEST_PLACE")
        return handles

    def handle_of(self, variables: Any, handles: Sequence[Hashable]) -> Hashable | None:
        """Find it."""
        agent = self.agents[int(variables["CREW_TEST_PLACE"])]
        return agent if agent in handles else None


def test_several_jobs_of_one_submission_have_one_invitation() -> None:
    launcher = Bulk()
    with executor_of(launcher, 5, min_workers=5) as executor:
        wait_until(lambda: sum(each.state == "idle" for each in executor.stats().workers) == 5, "all have come")

    assert len({job.name for job in launcher.jobs}) == 2
    assert len(launcher.jobs) == 5


class SlowBulk(Bulk):
    """Takes its time for the first submission."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Wait to be told."""
        self.is_asked.set()
        assert self.may_answer.wait(30)
        return super().submit(job, number)


def test_workers_that_are_wanted_while_their_jobs_are_submitted_double_none_of_these() -> None:
    launcher = SlowBulk(workers_per_job=2)
    with executor_of(launcher, 6, scaling="manual") as executor:
        executor.launch_workers(3)  # in jobs 1 and 2
        assert launcher.is_asked.wait(30)
        executor.launch_workers(3)  # one more in 2, and two in 3
        wait_until(lambda: len(executor.stats().workers) == 6, "all are wanted")
        launcher.may_answer.set()
        wait_until(lambda: sum(each.state == "idle" for each in executor.stats().workers) == 6, "all have come")

    assert len(launcher.jobs) == 3


def test_the_port_is_one_of_those_asked_for_and_free_at_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        taken, port = first.getsockname()[1], second.getsockname()[1]
        second.close()
        for _ in range(2):
            launcher = ProcessLauncher(port=range(port, port + 1))
            with executor_of(launcher, 1) as executor:
                assert executor.submit(add, 1, 2).result() == 3
            assert launcher.jobs[0].port == port
        with executor_of(ProcessLauncher(port=taken, max_failed_launches=1), 1) as executor:
            error = executor.submit(add, 1, 2).exception()

    assert isinstance(error, BrokenCrewError)
    assert str(taken) in str(error)


def test_plain_tcp_works_where_it_is_asked_for() -> None:
    with executor_of(ProcessLauncher(unencrypted_and_unauthenticated=True), 1) as executor:
        assert executor.submit(add, 1, 2).result() == 3


def test_an_interpreter_that_is_not_there_is_told() -> None:
    with executor_of(ProcessLauncher(python="/nowhere/python", max_failed_launches=1), 1) as executor:
        error = executor.submit(add, 1, 2).exception()

    assert isinstance(error, BrokenCrewError)
    assert "/nowhere/python" in str(error)


def test_a_module_that_hosts_do_not_have_is_named_or_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "client_only.py").write_text("FACTOR = 3\ndef triple(x):\n    return FACTOR * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("client_only")
    monkeypatch.undo()  # workers get the client's path; this folder is not on it any more
    with executor_of(ProcessLauncher(), 1) as executor:
        error = executor.submit(module.triple, 2).exception()
    assert isinstance(error, ModuleNotFoundError)
    notes = getattr(error, "__notes__", [])
    assert any(socket.gethostname() in note and sys.executable in note for note in notes)

    with pytest.raises(TypeError, match="ship takes modules"):
        ProcessLauncher(ship=["client_only"])
    try:
        with executor_of(ProcessLauncher(ship=[module]), 1) as executor:
            assert executor.submit(module.triple, 2).result() == 6
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["client_only"]


def test_a_launcher_serves_one_executor_at_a_time(launcher: ProcessLauncher) -> None:
    with executor_of(launcher, 1) as first:
        first.submit(add, 1, 2).result()
        with executor_of(launcher, 1, name="second") as second:
            error = second.submit(add, 1, 2).exception()
        assert "give each executor a launcher of its own" in str(error)
        assert first.submit(add, 1, 2).result() == 3
    with executor_of(launcher, 1) as third:
        assert third.submit(add, 1, 2).result() == 3
