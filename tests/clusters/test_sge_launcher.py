"""Workers in jobs of a real Grid Engine, on network hosts: what works, what fails and is told, what is lost."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.helpers import add, wait_until
from integration.launching import SECONDS, Running, all_idle, executor_of, failure_of

from crew_executor import WorkerCrashError
from crew_executor.launchers import Job, JobState, Launcher, script
from crew_executor.launchers.sge import SGELauncher
from crew_executor.testing import LauncherConformance

from .hosts import Hosts
from .sge import GridEngine, missing
from .test_slurm_launcher import host_and_pid, host_name, processes, stay_and_die_and_return, touch_and_stay

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

Make = Callable[..., SGELauncher]


@contextlib.contextmanager
def started(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[GridEngine]:
    """A cell for this process and those that it starts. At its end no job may be left, nor a process of one."""
    with GridEngine(hosts, notify="00:00:01") as made, monkeypatch.context() as patch:
        for name, value in made.environment.items():
            patch.setenv(name, value)
        yield made
        wait_until(lambda: not live(made), "no job is left", SECONDS)
        for host in hosts.names:
            wait_until(functools.partial(_is_clear, hosts, host), f"nothing runs on {host}", SECONDS)


@pytest.fixture
def sge(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[GridEngine]:
    """One that works."""
    with started(hosts, monkeypatch) as made:
        yield made


def _is_clear(hosts: Hosts, host: str) -> bool:
    return not processes(hosts, host)


@pytest.fixture
def make(hosts: Hosts, tmp_path: Path) -> Make:
    """Makes launchers with these options on top."""

    def launcher(**options: Any) -> SGELauncher:
        made = SGELauncher(**{"host": hosts.head, "folder": tmp_path / "jobs", **options})
        made.poll_seconds = (0.5, 1.0)
        return made

    return launcher


def live(sge: GridEngine) -> list[str]:
    """Return the numbers of jobs that have not ended."""
    return list(states(sge))


def states(sge: GridEngine) -> dict[str, str]:
    """Return the state of each job that has not ended, by its number."""
    return {f"{job['id']}.{job['index']}" if job["index"] else job["id"]: job["state"] for job in sge.jobs()}


def submissions(sge: GridEngine) -> set[str]:
    """Return the numbers of what was submitted and has not ended."""
    return {job["id"] for job in sge.jobs()}


class TestSGELauncher(LauncherConformance):
    """The contract."""

    @pytest.fixture(autouse=True)
    def _on_cluster(self, hosts: Hosts, sge: GridEngine, make: Make, tmp_path: Path) -> None:
        self._hosts = hosts
        self._sge = sge
        self._make = make
        self._folder = tmp_path / "jobs"

    def launcher(self, **options: Any) -> SGELauncher:
        """Return one."""
        return self._make(**options)

    def refused_launcher(self, **options: Any) -> SGELauncher:
        """Return one with a queue that is not there."""
        return self._make(queue="nosuch.q", **options)

    @contextlib.contextmanager
    def _disabled(self) -> Iterator[None]:
        self._sge.disable()
        try:
            yield
        finally:
            self._sge.enable()

    def pending(self) -> Any:
        """Disable the queue."""
        return self._disabled()

    def end_from_outside(self, launcher: Launcher, host: str, pid: int) -> bool:
        """Delete the job."""
        (job,) = live(self._sge)
        self._sge.delete(job)
        return True

    @contextlib.contextmanager
    def _silence_of(self, host: str) -> Iterator[None]:
        self._hosts.cut(host)
        try:
            yield
        finally:
            self._hosts.heal(host)

    def lose(self, host: str) -> Any:
        """Cut its link."""
        return self._silence_of(host)

    def client_script(self) -> str:
        """Make one."""
        options = f"host={self._hosts.head!r}, folder={str(self._folder)!r}, lost_after=8.0"
        return f"from crew_executor.launchers.sge import SGELauncher\nlauncher = SGELauncher({options})"

    def is_alive(self, host: str, pid: int) -> bool:
        """Look there."""
        return pid in self._hosts.processes(host)


# ---------------------------------------------------------------------- what is submitted


def test_many_workers_are_one_submission(sge: GridEngine, make: Make, tmp_path: Path) -> None:
    """Also their scripts and invitations: nobody else can read those, and none is left."""
    with executor_of(make(), 6, min_workers=6) as executor:
        all_idle(executor, 6)
        jobs = sge.jobs()
        assert sorted(job["index"] for job in jobs) == [str(index) for index in range(1, 7)]
        assert len(submissions(sge)) == 1
        assert {job["name"].split("-")[0] for job in jobs} == {"crew"}
        assert {each.host for each in executor.stats().workers} == {"h1", "h2"}
        assert list(executor.map(add, range(300), range(300))) == list(range(0, 600, 2))
        (invitation,) = (tmp_path / "jobs").glob("*.invitation")
        assert stat.S_IMODE(invitation.stat().st_mode) == 0o600
        assert stat.S_IMODE(invitation.parent.stat().st_mode) == 0o700

    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["logs"]
    assert len(list((tmp_path / "jobs/logs").iterdir())) == 6


def test_the_job_script_can_be_looked_at(tmp_path: Path) -> None:
    launcher = SGELauncher(
        folder=tmp_path, job_name="mine", walltime=90.5, queue="all.q", project="big", account="us", memory_gb=3,
        cpus=2, gpus=1, directives=["-m n"], prologue=["module load python"], skip_directives=["-notify"],
        working_directory="/some where",
    )  # fmt: skip
    lines = launcher.job_script(4).splitlines()

    head = [line.removeprefix("#$ ") for line in lines if line.startswith("#$ ")]
    assert lines[0] == "#!/bin/sh"
    assert head == [
        "-N mine-RUN-1", f"-o {tmp_path}/logs/mine-RUN-1-$JOB_ID.$TASK_ID.log", "-j y", "-r n", "-S /bin/sh", "-w e",
        "-t 1-4", "-q all.q", "-P big", "-A us", "-pe smp 2", "-l h_vmem=1536M", "-l gpu=1", "-l h_rt=91", "-m n",
    ]  # fmt: skip
    assert lines[-3:] == [
        "module load python", "cd '/some where' || exit",
        f"exec {sys.executable} -m crew_executor worker {tmp_path}/crew-RUN-1.invitation",
    ]  # fmt: skip
    assert "-t 1" not in launcher.job_script()
    assert "-w e" not in SGELauncher(folder=tmp_path, memory_gb=1, memory_resource="mem_free").job_script()


def test_several_workers_share_a_job_and_its_cpus(sge: GridEngine, make: Make) -> None:
    with executor_of(make(workers_per_job=3), 6, min_workers=6) as executor:
        all_idle(executor, 6)
        assert [job["slots"] for job in sge.jobs()] == ["3", "3"]
        assert list(executor.map(add, range(300), range(300))) == list(range(0, 600, 2))


def test_held_jobs_run_when_they_are_released(sge: GridEngine, make: Make) -> None:
    with executor_of(make(directives=["-h"], startup_timeout=5.0), 1) as executor:
        future = executor.submit(add, 1, 2)
        wait_until(lambda: [job["state"] for job in sge.jobs()] == ["hqw"], "it is held", SECONDS)
        assert not future.done()
        sge.run(["qrls", *live(sge)])
        assert future.result(SECONDS) == 3


def test_jobs_that_pend_are_deleted_at_the_end(sge: GridEngine, make: Make) -> None:
    with executor_of(make(cpus=4), 5, min_workers=5) as executor:
        all_idle(executor, 2)
        wait_until(lambda: sorted(job["state"] for job in sge.jobs()) == ["qw"] * 3 + ["r"] * 2, "3 pend", SECONDS)

    wait_until(lambda: not live(sge), "none is left", SECONDS)


def test_jobs_are_polled_and_deleted_one_by_one(sge: GridEngine, make: Make) -> None:
    """Those of an array that pends are told in ranges."""
    sge.disable()
    launcher = make()
    launcher.check()
    handles = launcher.submit(Job("crew-x-1", 1, 1, b"{}\n", {}, None, sys.executable, 1), 6)
    assert handles == [f"1.{index}" for index in range(1, 7)]
    assert {status.state for status in launcher.poll(handles).values()} == {JobState.PENDING}
    launcher.cancel([handles[1], handles[3]])
    wait_until(lambda: len(live(sge)) == 4, "two are gone", SECONDS)
    statuses = launcher.poll([*handles, "99"])
    assert [handle for handle in handles if statuses[handle].state is JobState.ENDED] == ["1.2", "1.4"]
    assert statuses["99"] == (JobState.ENDED, "qstat does not know it any more", False, True)
    launcher.cancel(handles)
    launcher.close()


# ---------------------------------------------------------------------- what fails is told


def test_a_missing_working_directory_is_told(sge: GridEngine, make: Make, tmp_path: Path) -> None:
    text = failure_of(make(working_directory=tmp_path / "nosuch", max_failed_launches=1))

    assert f"can't cd to {tmp_path}/nosuch" in text
    assert "qstat does not know it any more" in text


def test_a_log_folder_that_the_host_does_not_have_is_told(sge: GridEngine, make: Make, tmp_path: Path) -> None:
    """Grid Engine would keep the job for ever."""
    launcher = make(max_failed_launches=1)
    launcher.log_pattern = lambda name, number: f"nosuch/{name}"  # type: ignore[method-assign]
    text = failure_of(launcher)

    assert "Eqw: an error keeps it from starting" in text
    assert f"can't open output file \"{tmp_path}/jobs/logs/nosuch/" in text


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    'unknown queue "nosuch.q"': ({"queue": "nosuch.q"}, "`qconf -sql` lists the queues"),
    'unknown resource "gpu"': ({"gpus": 1}, "`qconf -sc` lists the resources"),
    "no suitable queues": ({"cpus": 30}, "no queue offers all that is asked for"),  # else it would pend for ever
    'parallel environment "nosuch"': ({"cpus": 2, "parallel_environment": "nosuch"}, "`qconf -spl` lists them"),
}


def test_a_refusal_has_the_command_its_words_and_what_to_try(sge: GridEngine, make: Make) -> None:
    for words, (options, advice) in REFUSALS.items():
        text = failure_of(make(**options, max_failed_launches=1))
        assert "qsub -terse /" in text
        assert words in text
        assert advice in text
    assert not live(sge)


def test_a_machine_without_grid_engine_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nosuch")

    assert "there is no qsub here: run this on a login node" in failure_of(make(max_failed_launches=1))


# ---------------------------------------------------------------------- what ends, and what is lost


def test_workers_leave_before_their_time_is_over_and_others_come(sge: GridEngine, make: Make) -> None:
    launcher = make(walltime=60, skip_directives=["-l h_rt"])
    launcher.walltime = 6.0
    with executor_of(launcher, 1) as executor:
        first = executor.submit(os.getpid).result(SECONDS)
        wait_until(lambda: not live(sge), "it ended by itself", SECONDS)
        assert executor.submit(os.getpid).result(SECONDS) != first


def test_the_error_of_a_task_in_a_deleted_job_says_why(sge: GridEngine, make: Make, tmp_path: Path) -> None:
    with executor_of(make(), 1) as executor:
        running = Running(tmp_path, executor, host_and_pid)
        sge.delete(*live(sge))
        error = running.future.exception(SECONDS)
        assert executor.submit(add, 1, 2).result(SECONDS) == 3

    assert isinstance(error, WorkerCrashError)
    # Its agent was killed like all of the job: it had told of its worker's end, or its link is lost and qstat asked.
    assert "its host was about to be taken away (SIGUSR2)" in str(error)
    words = "supervisor died", "killed by SIGKILL", "it is being deleted", "qstat does not know it any more"
    assert any(word in str(error) for word in words)


def test_a_task_that_takes_too_much_memory_has_an_error_of_its_own(sge: GridEngine, make: Make) -> None:
    """Grid Engine lets no process have more: there is no need to kill any."""
    with executor_of(make(memory_gb=3), 1) as executor:
        assert isinstance(executor.submit(bytes, 4 << 30).exception(SECONDS), MemoryError)
        assert executor.submit(add, 1, 2).result(SECONDS) == 3


def test_a_task_whose_job_takes_too_much_memory_is_told_of(sge: GridEngine, make: Make) -> None:
    """No process has more than it may have, but together they do: Grid Engine kills the job.

    It looks once a second, and says each time that the job is to be killed. With -notify the job is warned each time,
    and killed the time of a notice later: never, if that is a second or more, unless the words fall out by chance.
    """
    with executor_of(make(memory_gb=0.8, skip_directives=["-notify"]), 1) as executor:
        error = executor.submit(_take_twice, 400).exception(2 * SECONDS)
        assert executor.submit(add, 1, 2).result(SECONDS) == 3

    assert isinstance(error, WorkerCrashError)
    words = "supervisor died", "killed by SIGKILL", "qstat does not know it any more"
    assert any(word in str(error) for word in words)


def _take_twice(megabytes: int) -> None:
    """Take memory here and in a process more, until somebody kills both."""
    taken = f"b'x' * ({megabytes} << 20)"
    with subprocess.Popen([sys.executable, "-c", f"import time; kept = {taken}; time.sleep(600)"]) as child:
        try:
            kept = eval(taken)
            child.wait()
        finally:  # a MemoryError would wait for the child otherwise
            child.kill()
        assert not kept


def test_a_task_that_the_time_limit_kills_is_told_of_or_runs_again(sge: GridEngine, make: Make, tmp_path: Path) -> None:
    """With a notice before, it runs again free of charge; without, qstat has forgotten why its job has ended."""
    limit = {"directives": ["-l h_rt=6"]}  # behind our back: the launcher knows of no walltime
    with (
        executor_of(make(**limit), 2, min_workers=2) as noticed,
        executor_of(make(**limit, skip_directives=["-notify"]), 2, min_workers=2) as sudden,
    ):
        told = noticed.submit(touch_and_stay, str(tmp_path / "told"))
        lost = sudden.submit(touch_and_stay, str(tmp_path / "lost"))
        # Were the time limit charged, nothing would be left for the crash.
        free = noticed.options(crash_retries=1).submit(stay_and_die_and_return, str(tmp_path / "free"))
        # A slow machine may meet more than one limit.
        charged = sudden.options(crash_retries=5).submit(stay_and_die_and_return, str(tmp_path / "charged"))
        errors = [future.exception(SECONDS) for future in (told, lost)]
        assert [future.result(SECONDS) for future in (free, charged)] == [3, 3]

    assert all(isinstance(error, WorkerCrashError) for error in errors)
    assert "its host was about to be taken away (SIGUSR2)" in str(errors[0])
    assert re.search(r"its job \d+\S* has ended \(qstat does not know it any more\)", str(errors[1]))


@pytest.mark.parametrize("retries", [0, 1])
def test_a_task_on_a_host_without_power_is_given_up_or_runs_elsewhere(
    hosts: Hosts, sge: GridEngine, make: Make, tmp_path: Path, retries: int
) -> None:
    """Grid Engine lists the job as running for ever."""
    with executor_of(make(cpus=3, lost_after=4.0), 2, min_workers=2) as executor:  # a job on each host
        all_idle(executor, 2)
        running = Running(tmp_path, executor.options(crash_retries=retries), host_and_pid)
        lost = next(host for host in hosts.names if running.pid in hosts.processes(host))
        running.begun.unlink()
        sge.kill_node(lost)
        if retries:
            wait_until(running.begun.exists, "it runs elsewhere", SECONDS)
            running.release()
            host, pid = running.future.result(SECONDS)
            assert host != lost
            assert pid != running.pid
            assert running.future.record().attempts == 2
        else:
            error = running.future.exception(SECONDS)
            assert isinstance(error, WorkerCrashError)
            assert f"its host {lost} is lost: nothing was heard of it for lost_after=4 s" in str(error)
        assert executor.submit(host_name).result(SECONDS) != lost
    sge.run(["qdel", "-f", *submissions(sge)])


# ---------------------------------------------------------------------- the scheduler does not answer, or has no room


def test_work_goes_on_while_the_scheduler_is_frozen(sge: GridEngine, make: Make, tmp_path: Path) -> None:
    with executor_of(make(), 2, min_workers=2) as executor:
        all_idle(executor, 2)
        running = Running(tmp_path, executor, host_and_pid)
        sge.freeze()
        assert list(executor.map(add, range(300), range(300))) == list(range(0, 600, 2))
        running.release()
        assert running.future.result(SECONDS)[1] == running.pid
        sge.thaw()


def test_a_submission_that_times_out_is_not_doubled(
    sge: GridEngine, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "COMMAND_SECONDS", 1.5)
    launcher = make()
    launcher.check()
    sge.freeze()
    tries: list[Job] = []
    submit = launcher.submit

    def note(job: Job, number: int) -> Any:
        tries.append(job)
        return submit(job, number)

    launcher.submit = note  # type: ignore[method-assign]
    with executor_of(launcher, 3, min_workers=3) as executor:
        wait_until(lambda: len(tries) >= 2, "it is tried again", SECONDS)
        sge.thaw()
        all_idle(executor, 3)
        assert len(submissions(sge)) == 1
        assert executor.submit(add, 1, 2).result(SECONDS) == 3


def test_a_limit_of_jobs_means_fewer_workers(sge: GridEngine, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """It counts arrays as jobs: so here is one after the other."""
    sge.limit_jobs(2)
    launcher = make()
    launcher.jobs_per_submit = 1
    with executor_of(launcher, 3, min_workers=3) as executor:
        all_idle(executor, 2)
        assert list(executor.map(add, range(300), range(300))) == list(range(0, 600, 2))
        wait_until(lambda: "the scheduler takes no more jobs now" in caplog.text, "it is told", SECONDS)
        assert "only 2 jobs are allowed per user" in caplog.text
        assert len(live(sge)) == 2


# ---------------------------------------------------------------------- nothing stays

CLIENT = """
import sys
from crew_executor import CrewExecutor
from crew_executor.launchers.sge import SGELauncher
from crew_executor.testing import _sleep
launcher = SGELauncher(host=sys.argv[1], folder=sys.argv[2], cpus=4, lost_after=4.0, startup_timeout=4.0)
executor = CrewExecutor(3, launcher=launcher, min_workers=3)
tasks = [executor.submit(_sleep, 600.0) for _ in range(3)]
while sum(task.running() for task in tasks) < 2:
    _sleep(0.05)
print("two work", flush=True)
tasks[0].result()
"""


def test_no_job_is_left_when_the_client_is_killed(hosts: Hosts, sge: GridEngine, tmp_path: Path) -> None:
    """Neither those that run, nor the one that pends: it starts, finds nobody and ends."""
    argv = [sys.executable, "-c", CLIENT, hosts.head, str(tmp_path / "jobs")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "two work\n"
        assert len(live(sge)) == 3
        client.kill()

    wait_until(lambda: not live(sge), "no job is left", SECONDS)
