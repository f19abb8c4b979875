"""Workers as ranks of a real mpirun: what works, what fails and is told, what a rank that is lost costs the others."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from integration.helpers import add, is_alive, touch_and_wait, wait_until
from integration.launching import SECONDS, all_idle, executor_of, failure_of
from integration.test_cluster_pages import check

from crew_executor import LaunchError, WorkerCrashError
from crew_executor.launchers import Job, JobState, MPILauncher
from crew_executor.testing import LauncherConformance

from .hosted import agent_of, agents_below, all_stopped

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("mpirun") is None, reason="there is no mpirun here: install openmpi-bin"),
]

OPTIONS = ("--allow-run-as-root", "--oversubscribe")

Make = Callable[..., MPILauncher]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes launchers with these options on top; what an mpirun that is killed leaves goes with the folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def launcher(ranks: int | None = None, **options: Any) -> MPILauncher:
        given = {"host": "127.0.0.1", "folder": tmp_path / "jobs", "options": OPTIONS, **options}
        return MPILauncher(ranks, **given)

    return launcher


def mpirun_of(launcher: MPILauncher) -> subprocess.Popen[bytes]:
    """Return the only one that runs."""
    (run,) = [run for run in launcher._runs if run.process.poll() is None]
    return run.process


def a_job() -> Job:
    """A job that no executor waits for."""
    return Job("crew-1-1", 1, 1, b"{}\n", {}, None, sys.executable, 0)


class TestMPILauncher(LauncherConformance):
    """The contract."""

    @pytest.fixture(autouse=True)
    def _folders(self, make: Make, tmp_path: Path) -> None:
        self._make = make
        self._folder = tmp_path

    def launcher(self, **options: Any) -> MPILauncher:
        """Return one."""
        self._launcher = self._make(**options)
        return self._launcher

    def refused_launcher(self, **options: Any) -> MPILauncher:
        """Return one whose mpirun is not there."""
        return self._make(mpirun="/nowhere/mpirun", **options)

    def end_from_outside(self, launcher: Any, host: str, pid: int) -> bool:
        """Kill the rank."""
        os.kill(agent_of(pid), signal.SIGKILL)
        return True

    def lose(self, host: str) -> AbstractContextManager[None]:
        """Stop the rank."""
        return all_stopped(mpirun_of(self._launcher).pid)

    def client_script(self) -> str:
        """Make one."""
        return (
            "from crew_executor.launchers import MPILauncher\n"
            f"launcher = MPILauncher(host='127.0.0.1', folder={str(self._folder)!r}, options={OPTIONS!r})"
        )


# ---------------------------------------------------------------------- one submission


def test_all_that_are_asked_for_at_once_are_ranks_of_one_mpirun(make: Make, tmp_path: Path) -> None:
    launcher = make(3)
    with executor_of(launcher, 3, min_workers=3) as executor:
        all_idle(executor, 3)
        assert launcher.idle_timeout is None
        mpirun = mpirun_of(launcher)
        assert len(agents_below(mpirun.pid)) == 3
        assert "-n 3" in " ".join(map(str, mpirun.args))  # type: ignore[arg-type]
        assert list((tmp_path / "jobs").iterdir()) == []  # each rank has removed its invitation
        assert list(executor.map(abs, range(-100, 0))) == list(range(100, 0, -1))

    assert mpirun.poll() == 0
    assert list((tmp_path / "jobs").iterdir()) == []


def test_ranks_that_are_idle_leave_one_by_one(make: Make, tmp_path: Path) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    launcher = make()
    with executor_of(launcher, 2, idle_timeout=0.5) as executor:
        running = executor.submit(touch_and_wait, started, release)
        others = [executor.submit(add, 1, 2) for _ in range(2)]
        assert [each.result(SECONDS) for each in others] == [3, 3]
        wait_until(Path(started).exists, "the task runs", SECONDS)
        wait_until(lambda: len(executor.stats().workers) == 1, "the idle one leaves", SECONDS)
        wait_until(
            lambda: len([p for run in launcher._runs for p in agents_below(run.process.pid)]) == 1, "its agent", 30
        )
        Path(release).touch()
        assert running.result(SECONDS)
        wait_until(lambda: all(run.process.poll() == 0 for run in launcher._runs), "every mpirun has ended", SECONDS)
        assert executor.submit(add, 1, 2).result(SECONDS) == 3  # by another mpirun


def test_invitations_are_this_users_alone_and_none_stays_of_an_mpirun_that_has_ended(
    make: Make, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    mpirun = tmp_path / "mpirun"  # starts no rank
    mpirun.write_text(f"#!/bin/sh\nwhile [ ! -e {release} ]; do sleep 0.05; done\nexit 3\n")
    mpirun.chmod(0o700)
    launcher = make(2, mpirun=mpirun)
    try:
        handles = launcher.submit(a_job(), 2)
        invitations = list((tmp_path / "jobs").iterdir())
        assert [stat.S_IMODE(each.stat().st_mode) for each in invitations] == [0o600, 0o600]
        assert stat.S_IMODE((tmp_path / "jobs").stat().st_mode) == 0o700
        release.touch()
        wait_until(lambda: launcher.poll(handles)[handles[0]].state is JobState.ENDED, "it has ended", SECONDS)
        assert list((tmp_path / "jobs").iterdir()) == []
    finally:
        release.touch()
        launcher.close()


def test_invitations_that_killed_clients_have_left_are_removed_after_a_day(make: Make, tmp_path: Path) -> None:
    names = ["crew-1-1.rank0.invitation", "crew-1-2.rank0.invitation", "crew-1-3.invitation", "mine"]
    (tmp_path / "jobs").mkdir()
    for name in names:
        (tmp_path / "jobs" / name).touch()
    for name in names[1:]:
        os.utime(tmp_path / "jobs" / name, (0, 0))
    make().check()

    assert sorted(each.name for each in (tmp_path / "jobs").iterdir()) == [names[0], names[2], names[3]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_rank_that_is_lost_costs_the_others_nothing(make: Make, tmp_path: Path, number: int) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    launcher = make()
    with executor_of(launcher, 2, min_workers=2) as executor:
        all_idle(executor, 2)
        mpirun = mpirun_of(launcher)
        running = executor.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the task runs", SECONDS)
        first = agent_of(int(Path(started).read_text()))
        (other,) = [pid for pid in agents_below(mpirun.pid) if pid != first]
        os.kill(other, number)
        wait_until(lambda: not is_alive(other), "the other rank is gone", SECONDS)
        task = executor.options(crash_retries=1).submit(add, 1, 2)  # may be sent to the one that is gone
        assert task.result(SECONDS) == 3
        Path(release).touch()
        assert running.result(SECONDS)
        assert mpirun.poll() is None

    assert mpirun.poll() == 0


def test_a_job_whose_mpirun_is_killed_has_ended_and_its_agents_may_go_on(make: Make) -> None:
    launcher = make()
    with executor_of(launcher, 1) as executor:
        pid = executor.submit(os.getpid).result(SECONDS)
        (run,) = launcher._runs
        agent = agent_of(pid)
        run.process.kill()
        wait_until(lambda: run.status(0).state is JobState.ENDED, "mpirun has ended", SECONDS)
        assert run.status(0).words == "mpirun ended with exit code -9"
        assert not run.status(0).is_sure
        assert executor.submit(os.getpid).result(SECONDS) == pid  # its link was never cut

    wait_until(lambda: not is_alive(agent), "the agent is gone", SECONDS)


def test_a_job_whose_mpirun_is_told_to_end_fails_its_tasks(make: Make, tmp_path: Path) -> None:
    started = str(tmp_path / "started")
    launcher = make()
    with executor_of(launcher, 1) as executor:
        lost = executor.submit(touch_and_wait, started, str(tmp_path / "never"))
        wait_until(Path(started).exists, "the task runs", SECONDS)
        mpirun_of(launcher).terminate()
        assert isinstance(lost.exception(SECONDS), WorkerCrashError)
        assert executor.submit(add, 1, 2).result(SECONDS) == 3


def test_a_client_that_is_a_rank_itself_has_workers(tmp_path: Path) -> None:
    script = (
        "from crew_executor import CrewExecutor\n"
        "from crew_executor.launchers import MPILauncher\n"
        f"launcher = MPILauncher(host='127.0.0.1', folder={str(tmp_path / 'jobs')!r}, options={OPTIONS!r})\n"
        "with CrewExecutor(1, launcher=launcher) as executor:\n"
        "    print(executor.submit(pow, 2, 10).result())\n"
    )
    run = subprocess.run(
        ["mpirun", *OPTIONS, "-n", "1", sys.executable, "-c", script], capture_output=True, text=True, timeout=100,
        check=False, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip

    assert (0, "1024\n") == (run.returncode, run.stdout), run.stderr


def test_the_example_of_the_page_runs(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT", "1")
    monkeypatch.setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    check("mpi.md", "--oversubscribe", tmp_path)


# ---------------------------------------------------------------------- what is told


def test_what_mpirun_refuses_is_told_with_its_command(make: Make) -> None:
    words = failure_of(make(options=(*OPTIONS, "--hostfile", "/nowhere/hosts"), max_failed_launches=1))

    assert "its job ended before its agent had come" in words
    assert "mpirun -n 1 --enable-recovery" in words
    assert "/nowhere/hosts" in words


@pytest.mark.skipif(os.getuid() != 0, reason="only root is refused")
def test_that_root_is_refused_is_told_in_one_line(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMPI_ALLOW_RUN_AS_ROOT", raising=False)
    words = failure_of(make(options=("--oversubscribe",), max_failed_launches=1))

    assert "mpirun ended with exit code 1\nOpen MPI refuses to run as root: set OMPI_ALLOW_RUN_AS_ROOT=1 and" in words
    assert "discouraged" not in words  # of the box


def test_that_there_are_too_few_slots_is_told_in_one_line(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with executor_of(make(options=("--allow-run-as-root", "--host", "localhost:1")), 3, min_workers=3) as executor:
        wait_until(lambda: "mpirun has fewer slots than ranks asked for" in caplog.text, "it is told", SECONDS)
        executor.kill_workers()

    assert "give MPILauncher(ranks=...)" in caplog.text
    assert "allocatable unit" not in caplog.text  # of the box


def test_what_mpirun_has_printed_is_told_once(make: Make) -> None:
    launcher = make(2, options=(*OPTIONS, "--hostfile", "/nowhere/hosts"))
    try:
        handles = launcher.submit(a_job(), 2)
        wait_until(lambda: launcher.poll(handles)[handles[0]].state is JobState.ENDED, "it has ended", SECONDS)
        first, second = (launcher.explain(handle) for handle in handles)
    finally:
        launcher.close()

    assert "unable to open the hostfile" in first
    assert "unable to open the hostfile" not in second
    assert "was told before" in second
    assert "mpirun ended with exit code 1" in second


def test_an_interpreter_that_is_not_there_is_told(make: Make) -> None:
    words = failure_of(make(python="/nowhere/python", max_failed_launches=1))

    assert "/nowhere/python" in words
    assert "rank 0 ended with exit code 127" in words


def test_a_folder_that_cannot_be_made_is_told(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = failure_of(make(folder=tmp_path / "file", max_failed_launches=1))

    assert "no invitation can be written into" in words


def test_options_are_checked(make: Make) -> None:
    with pytest.raises(ValueError, match="kind must be one of openmpi, mpich"):
        make(kind="lam")
    for ranks in (0, "2"):
        with pytest.raises(ValueError, match="ranks must be None or a whole number above 0"):
            make(ranks)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="options must be a sequence of words, not '--oversubscribe'"):
        make(options="--oversubscribe")
    with pytest.raises(LaunchError, match="give MPILauncher"):
        make(mpirun="no-such-mpirun").check()
    assert "-disable-auto-cleanup" in make(kind="mpich").describe()


def test_a_rank_is_found_by_its_variable(make: Make) -> None:
    launcher = make(2, mpirun=shutil.which("true"))
    try:
        handles = launcher.submit(a_job(), 2)
        assert launcher.handle_of({"OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "0"}, handles) == handles[1]
        assert launcher.handle_of({"PMI_RANK": "0"}, handles) == handles[0]
        assert launcher.handle_of({}, handles) is None
    finally:
        launcher.close()
