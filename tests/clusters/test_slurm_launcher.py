"""Workers in jobs of a real Slurm, on network hosts: what works, what fails and is told, what is lost, what stays."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.helpers import add, die, touch_and_wait, wait_until
from integration.launching import SECONDS, Running, all_idle, executor_of, failure_of

from crew_executor import WorkerCrashError
from crew_executor.launchers import Job, Launcher, script
from crew_executor.launchers.slurm import SlurmLauncher
from crew_executor.testing import LauncherConformance

from .conftest import guests_of
from .hosts import Hosts
from .slurm import Slurm, missing

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

ENDED = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}

Make = Callable[..., SlurmLauncher]


@contextlib.contextmanager
def started(hosts: Hosts, monkeypatch: pytest.MonkeyPatch, **settings: str | int) -> Iterator[Slurm]:
    """A cluster for this process and those that it starts. At its end no job may be left, nor a process of one."""
    with Slurm(hosts, **settings) as slurm, monkeypatch.context() as patch:  # type: ignore[arg-type]
        for name, value in slurm.environment.items():
            patch.setenv(name, value)
        yield slurm
        wait_until(lambda: not live(slurm), "no job is left", SECONDS)
        for host in hosts.names:
            wait_until(lambda host=host: not processes(hosts, host), f"nothing runs on {host}", SECONDS)  # type: ignore[misc]


@pytest.fixture
def slurm(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """One that works."""
    with started(hosts, monkeypatch) as made:
        yield made


@pytest.fixture
def make(hosts: Hosts, tmp_path: Path) -> Make:
    """Makes launchers with these options on top."""

    def launcher(**options: Any) -> SlurmLauncher:
        made = SlurmLauncher(**{"host": hosts.head, "folder": tmp_path / "jobs", **options})
        made.poll_seconds = (0.3, 1.0)
        return made

    return launcher


def live(slurm: Slurm) -> list[str]:
    """Return the numbers of jobs that have not ended."""
    return list(states(slurm))


def states(slurm: Slurm) -> dict[str, str]:
    """Return the state of each job that has not ended, by its number."""
    return {job["id"]: job["state"] for job in slurm.jobs() if job["state"] not in ENDED}


def processes(hosts: Hosts, host: str) -> list[int]:
    """Return what runs on a host, but for daemons of a scheduler."""
    names = ("slurm", "sge_", "munge")
    return [pid for pid in guests_of(hosts, host) if not _comm(pid).startswith(names)]


def _comm(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text("utf-8")
    return "sge_"  # it has ended


def host_and_pid(begun: str, release: str) -> tuple[str, int]:
    """Start, wait to be released, and tell where."""
    return socket.gethostname(), touch_and_wait(begun, release)


def host_name() -> str:
    """Return where this is."""
    return socket.gethostname()


class TestSlurmLauncher(LauncherConformance):
    """The contract."""

    @pytest.fixture(autouse=True)
    def _on_cluster(self, hosts: Hosts, slurm: Slurm, make: Make, tmp_path: Path) -> None:
        self._hosts = hosts
        self._slurm = slurm
        self._make = make
        self._folder = tmp_path / "jobs"

    def launcher(self, **options: Any) -> SlurmLauncher:
        """Return one."""
        return self._make(**options)

    def refused_launcher(self, **options: Any) -> SlurmLauncher:
        """Return one with a partition that is not there."""
        return self._make(partition="nosuch", **options)

    @contextlib.contextmanager
    def _drained(self) -> Iterator[None]:
        self._slurm.drain()
        try:
            yield
        finally:
            self._slurm.resume()

    def pending(self) -> Any:
        """Drain the nodes."""
        return self._drained()

    def end_from_outside(self, launcher: Launcher, host: str, pid: int) -> bool:
        """Cancel the job."""
        (job,) = live(self._slurm)
        self._slurm.cancel(job)
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
        return f"from crew_executor.launchers.slurm import SlurmLauncher\nlauncher = SlurmLauncher({options})"

    def is_alive(self, host: str, pid: int) -> bool:
        """Look there."""
        return pid in self._hosts.processes(host)


# ---------------------------------------------------------------------- what is submitted


def test_many_workers_are_one_submission(slurm: Slurm, make: Make, tmp_path: Path) -> None:
    """Also their scripts and invitations: nobody else can read those, and none is left."""
    with executor_of(make(), 6, min_workers=6) as executor:
        all_idle(executor, 6)
        jobs = slurm.jobs()
        assert sorted(job["index"] for job in jobs) == [str(index) for index in range(6)]
        assert len({job["array"] for job in jobs}) == 1
        assert {job["name"].split("-")[0] for job in jobs} == {"crew"}
        assert {each.host for each in executor.stats().workers} == {"h1", "h2"}
        assert list(executor.map(add, range(300), range(300))) == list(range(0, 600, 2))
        (invitation,) = (tmp_path / "jobs").glob("*.invitation")
        assert stat.S_IMODE(invitation.stat().st_mode) == 0o600
        assert stat.S_IMODE(invitation.parent.stat().st_mode) == 0o700

    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["logs"]
    assert len(list((tmp_path / "jobs/logs").iterdir())) == 6
    wait_until(lambda: {job["state"] for job in slurm.jobs()} == {"COMPLETED"}, "all end well", SECONDS)


def test_the_job_script_can_be_looked_at(tmp_path: Path) -> None:
    launcher = SlurmLauncher(
        folder=tmp_path, job_name="mine", walltime="2h", partition="cpu", account="us", memory_gb=1.5, cpus=2, gpus=1,
        qos="low", constraint="new", directives=["--comment=hello"], prologue=["module load python"],
        skip_directives=["--nodes"], working_directory="/some where",
    )  # fmt: skip
    lines = launcher.job_script(4).splitlines()

    head = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert lines[0] == "#!/bin/sh"
    assert head == [
        "--no-requeue", "--job-name=mine-RUN-1", f"--output={tmp_path}/logs/mine-RUN-1-%A_%a.log", "--array=0-3",
        "--partition=cpu", "--account=us", "--qos=low", "--constraint=new", "--time=120", "--ntasks=1",
        "--cpus-per-task=2", "--mem=1536M", "--gpus=1", "--signal=B:USR1@60", "--comment=hello",
    ]  # fmt: skip
    assert lines[-3:] == [
        "module load python", "cd '/some where' || exit",
        f"exec {sys.executable} -m crew_executor worker {tmp_path}/crew-RUN-1.invitation",
    ]  # fmt: skip
    assert "--array" not in launcher.job_script()
    assert "-%j.log" in launcher.job_script()


def test_several_workers_share_a_job_and_its_cpus(slurm: Slurm, make: Make) -> None:
    with executor_of(make(workers_per_job=3), 6, min_workers=6) as executor:
        all_idle(executor, 6)
        assert len(slurm.jobs()) == 2
        assert list(executor.map(add, range(300), range(300))) == list(range(0, 600, 2))


def test_held_jobs_run_when_they_are_released(slurm: Slurm, make: Make) -> None:
    with executor_of(make(directives=["--hold"], startup_timeout=5.0), 1) as executor:
        future = executor.submit(add, 1, 2)
        wait_until(lambda: [job["reason"] for job in slurm.jobs()] == ["JobHeldUser"], "it is held", SECONDS)
        assert not future.done()
        slurm.run(["scontrol", "release", *live(slurm)])
        assert future.result(SECONDS) == 3
        assert len(slurm.jobs()) == 1


def test_jobs_that_pend_are_cancelled_at_the_end(slurm: Slurm, make: Make) -> None:
    with executor_of(make(cpus=4), 5, min_workers=5) as executor:
        all_idle(executor, 2)
        wait_until(lambda: len(live(slurm)) == 5, "three pend", SECONDS)

    wait_until(lambda: not live(slurm), "none is left", SECONDS)
    assert sorted(job["state"] for job in slurm.jobs()) == ["CANCELLED", "COMPLETED", "COMPLETED"]  # three are one


# ---------------------------------------------------------------------- what fails is told


def test_a_missing_working_directory_is_told(slurm: Slurm, make: Make, tmp_path: Path) -> None:
    text = failure_of(make(working_directory=tmp_path / "nosuch", max_failed_launches=1))

    assert f"can't cd to {tmp_path}/nosuch" in text
    assert "FAILED (NonZeroExitCode)" in text
    assert "ExitCode=2:0" in text


def test_a_log_folder_that_the_host_does_not_have_is_told(slurm: Slurm, make: Make, tmp_path: Path) -> None:
    launcher = make(max_failed_launches=1)
    launcher.log_pattern = lambda name, number: f"nosuch/{name}"  # type: ignore[method-assign]
    text = failure_of(launcher)

    assert "FAILED (JobLaunchFailure)" in text
    assert f"StdOut={tmp_path}/jobs/logs/nosuch/" in text
    assert "it has left no output" in text


def test_a_job_that_would_pend_for_ever_is_told_and_cancelled(slurm: Slurm, make: Make) -> None:
    text = failure_of(make(partition="short", walltime="2m", max_failed_launches=1))

    assert "PENDING (PartitionTimeLimit): it would pend for ever" in text
    wait_until(lambda: [job["state"] for job in slurm.jobs()] == ["CANCELLED"], "it is cancelled", SECONDS)


def test_a_job_that_may_pend_for_ever_is_waited_for_with_a_warning(
    slurm: Slurm, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with executor_of(make(directives=["--nodes=9", "--ntasks=9"]), 1) as executor:
        future = executor.submit(add, 1, 2)
        wait_until(lambda: "jobs pend, perhaps for ever (PartitionConfig)" in caplog.text, "it is told", SECONDS)
        assert not future.done()
        executor.shutdown(wait=False, cancel_futures=True)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "invalid partition specified: nosuch": ({"partition": "nosuch"}, "`sinfo` lists the partitions"),
    "Requested node configuration is not available": ({"memory_gb": 9000}, "see memory_gb="),
    "unrecognized option '--nosuch=1'": ({"directives": ["--nosuch=1"]}, "skip_directives="),
}


def test_a_refusal_has_the_command_its_words_and_what_to_try(slurm: Slurm, make: Make) -> None:
    for words, (options, advice) in REFUSALS.items():
        text = failure_of(make(**options, max_failed_launches=1))
        assert "sbatch --parsable /" in text
        assert words in text
        assert advice in text
    assert not live(slurm)


def test_a_machine_without_slurm_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nosuch")

    assert "there is no sbatch here: run this on a login node" in failure_of(make(max_failed_launches=1))


# ---------------------------------------------------------------------- what ends, and what is lost


def test_workers_leave_before_their_time_is_over_and_others_come(slurm: Slurm, make: Make) -> None:
    launcher = make(walltime=60)
    launcher.walltime = 6.0  # Slurm's limits are minutes: what is tested is our clock
    with executor_of(launcher, 1) as executor:
        first = executor.submit(os.getpid).result(SECONDS)
        wait_until(lambda: [job["state"] for job in slurm.jobs()] == ["COMPLETED"], "it ended by itself", SECONDS)
        assert executor.submit(os.getpid).result(SECONDS) != first


def test_the_error_of_a_task_in_a_cancelled_job_says_why(slurm: Slurm, make: Make, tmp_path: Path) -> None:
    with executor_of(make(), 1) as executor:
        running = Running(tmp_path, executor, host_and_pid)
        slurm.cancel(*live(slurm))
        error = running.future.exception(SECONDS)
        assert executor.submit(add, 1, 2).result(SECONDS) == 3

    assert isinstance(error, WorkerCrashError)
    # All of the job gets TERM, then KILL: its agent tells what it was told, or Slurm is asked.
    assert "about to be taken away (SIGTERM)" in str(error) or "CANCELLED" in str(error)


def test_a_task_that_takes_too_much_memory_is_told_of_by_the_scheduler(slurm: Slurm, make: Make) -> None:
    with executor_of(make(memory_gb=0.3), 1) as executor:
        error = executor.submit(_grow, 500).exception(SECONDS)
        assert executor.submit(add, 1, 2).result(SECONDS) == 3

    assert isinstance(error, WorkerCrashError)
    assert "FAILED (JobLaunchFailure)" in str(error)  # with cgroups: OUT_OF_MEMORY


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/memory/memory.limit_in_bytes", os.W_OK), reason="no such cgroups")
def test_a_task_that_the_kernel_kills_for_memory_is_told_of_and_the_job_goes_on(
    hosts: Hosts, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm constrains the job by cgroups, of which the kernel kills one process only: the largest."""
    settings = {"TaskPlugin": "task/cgroup", "JobAcctGatherParams": "NoOverMemoryKill"}
    with started(hosts, monkeypatch, **settings) as slurm:
        with executor_of(make(memory_gb=0.3), 1) as executor:
            error = executor.submit(_grow, 500).exception(SECONDS)
            assert executor.submit(add, 1, 2).result(SECONDS) == 3
            assert len(slurm.jobs()) == 1
        wait_until(lambda: [job["state"] for job in slurm.jobs()] == ["OUT_OF_MEMORY"], "Slurm says so", SECONDS)

    assert isinstance(error, WorkerCrashError)
    assert error.signal == "SIGKILL"
    assert "killed by SIGKILL, by the kernel for memory (the control group's oom_kill counter rose to 1)" in str(error)


def _grow(megabytes: int) -> None:
    """Take memory, and keep it until it is seen."""
    kept = b"x" * (megabytes << 20)
    wait_until(lambda: not kept, "somebody kills this", SECONDS)


def test_a_task_that_the_time_limit_kills_is_told_of_or_runs_again_free_of_charge(
    slurm: Slurm, make: Make, tmp_path: Path
) -> None:
    """Agents tell of it; those that cannot, as signals are kept from them, are lost, and Slurm is asked.

    All at once: Slurm looks every 30 s.
    """
    deaf = tmp_path / "python"
    deaf.write_text(f'#!/bin/sh\nexec env --block-signal=TERM {sys.executable} "$@"\n')
    deaf.chmod(0o755)
    limit = {"directives": ["--time=2"]}
    with (
        executor_of(make(**limit), 2, min_workers=2) as noticed,
        executor_of(make(**limit, python=str(deaf)), 2, min_workers=2) as sudden,
    ):
        told = begun(touch_and_stay, noticed, tmp_path / "told")
        asked = begun(touch_and_stay, sudden, tmp_path / "asked")
        again = [
            begun(stay_and_die_and_return, executor.options(crash_retries=1), tmp_path / name)
            for executor, name in ((noticed, "told again"), (sudden, "asked again"))
        ]
        jobs = live(slurm)
        assert len(jobs) == 4
        for job in jobs:  # behind our back: the launchers know of no walltime
            assert not slurm.run(["scontrol", "update", f"JobId={job}", "EndTime=now"]).returncode
        errors = [future.exception(SECONDS) for future in (told, asked)]
        # Had the time limit been charged, nothing would be left for the crash.
        assert [future.result(SECONDS) for future in again] == [3, 3]
        assert [future.record().attempts for future in again] == [3, 3]
        wait_until(lambda: not set(jobs) & set(live(slurm)), "all four have ended", SECONDS)
        assert [job["state"] for job in slurm.jobs() if job["id"] in jobs] == ["TIMEOUT"] * 4

    assert all(isinstance(error, WorkerCrashError) for error in errors)
    assert "TimeLimit" in str(errors[0])
    assert re.search(r"is lost: its job \d+\S* has ended \(TIMEOUT \(TimeLimit\)\)", str(errors[1]))


def touch_and_stay(path: str) -> None:
    """Tell its number in a file, and run until somebody kills it."""
    new = Path(f"{path}.new")
    new.write_text(str(os.getpid()))
    new.rename(path)
    wait_until(lambda: False, "somebody kills this", 10 * SECONDS)


def stay_and_die_and_return(path: str) -> int:
    """Run until somebody kills it, then kill itself, then tell how often it has run."""
    earlier = len(list(Path(path).parent.glob(f"{Path(path).name}.run*")))
    Path(f"{path}.run{earlier}").touch()
    if earlier == 0:
        touch_and_stay(path)
    if earlier == 1:
        die()
    return earlier + 1


def begun(function: Callable[[str], Any], executor: Any, path: Path) -> Any:
    """Return the future of such a task that has begun."""
    future = executor.submit(function, str(path))
    wait_until(path.exists, "the task runs", SECONDS)
    return future


@pytest.mark.parametrize("retries", [0, 1])
def test_a_task_on_a_host_without_power_is_given_up_or_runs_elsewhere(
    hosts: Hosts, slurm: Slurm, make: Make, tmp_path: Path, retries: int
) -> None:
    with executor_of(make(cpus=3, lost_after=4.0), 2, min_workers=2) as executor:  # a job on each host
        all_idle(executor, 2)
        running = Running(tmp_path, executor.options(crash_retries=retries), host_and_pid)
        lost = next(host for host in hosts.names if running.pid in hosts.processes(host))
        running.begun.unlink()
        slurm.kill_node(lost)
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
    slurm.restore_node(lost)


# ---------------------------------------------------------------------- the scheduler does not answer, or has no room


def test_work_goes_on_while_the_scheduler_is_frozen(slurm: Slurm, make: Make, tmp_path: Path) -> None:
    with executor_of(make(), 2, min_workers=2) as executor:
        all_idle(executor, 2)
        running = Running(tmp_path, executor, host_and_pid)
        slurm.freeze()
        assert list(executor.map(add, range(300), range(300))) == list(range(0, 600, 2))
        running.release()
        assert running.future.result(SECONDS)[1] == running.pid
        slurm.thaw()


@pytest.mark.parametrize("seconds", [1.5, 30.0])
def test_a_submission_that_times_out_is_not_doubled(
    hosts: Hosts, make: Make, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """By our clock, or by sbatch's own."""
    monkeypatch.setattr(script, "COMMAND_SECONDS", seconds)
    with started(hosts, monkeypatch, MessageTimeout=2) as slurm:
        launcher = make()
        launcher.check()
        slurm.freeze()
        tries: list[Job] = []
        submit = launcher.submit

        def note(job: Job, number: int) -> Any:
            tries.append(job)
            return submit(job, number)

        launcher.submit = note  # type: ignore[method-assign]
        with executor_of(launcher, 3, min_workers=3) as executor:
            wait_until(lambda: len(tries) >= 2, "it is tried again", SECONDS)
            slurm.thaw()
            all_idle(executor, 3)
            assert len({job["array"] for job in slurm.jobs()}) == 1
            assert executor.submit(add, 1, 2).result(SECONDS) == 3


def test_a_cluster_that_is_full_means_fewer_workers(
    hosts: Hosts, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with started(hosts, monkeypatch, MaxJobCount=5) as slurm, executor_of(make(), 8, min_workers=8) as executor:
        wait_until(lambda: len(executor.stats().workers) >= 2, "some come", SECONDS)
        assert list(executor.map(add, range(300), range(300))) == list(range(0, 600, 2))
        wait_until(lambda: "the scheduler takes no more jobs now" in caplog.text, "it is told", SECONDS)
        assert len(live(slurm)) <= 5


# ---------------------------------------------------------------------- nothing stays

CLIENT = """
import sys
from crew_executor import CrewExecutor
from crew_executor.launchers.slurm import SlurmLauncher
from crew_executor.testing import _sleep
launcher = SlurmLauncher(host=sys.argv[1], folder=sys.argv[2], cpus=4, lost_after=4.0, startup_timeout=4.0)
executor = CrewExecutor(3, launcher=launcher, min_workers=3)
tasks = [executor.submit(_sleep, 600.0) for _ in range(3)]
while sum(task.running() for task in tasks) < 2:
    _sleep(0.05)
print("two work", flush=True)
tasks[0].result()
"""


def test_no_job_is_left_when_the_client_is_killed(hosts: Hosts, slurm: Slurm, tmp_path: Path) -> None:
    """Neither those that run, nor the one that pends: it starts, finds nobody and ends."""
    argv = [sys.executable, "-c", CLIENT, hosts.head, str(tmp_path / "jobs")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "two work\n"
        assert len(live(slurm)) == 3
        client.kill()

    wait_until(lambda: not live(slurm), "no job is left", SECONDS)
