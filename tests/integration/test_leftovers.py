"""Checks `ps` and `kill` on jobs whose client is gone, before a stand-in of a scheduler."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_executor import registry
from crew_executor.launchers import ledger

from .helpers import wait_until
from .standins import Standin, standin

pytestmark = [pytest.mark.launchers, pytest.mark.timeout(120)]

CLIENT = """
import sys
from crew_executor import CrewExecutor
from crew_executor.launchers import {kind}

launcher = {kind}(folder={folder!r}, host="127.0.0.1", lost_after=2.0)
executor = CrewExecutor(2, launcher=launcher, name="mine")
futures = [executor.submit(len, "abc") for _ in range(2)]
sys.stdin.read()
executor.shutdown(cancel_futures=True, wait=False)
executor.kill_workers()
"""
KINDS = {"pbs": "PBSLauncher", "lsf": "LSFLauncher"}
CANCEL = {"pbs": "qdel", "lsf": "bkill"}


@pytest.fixture(params=list(KINDS))
def scheduler(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """One that starts nothing."""
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "registry"))
    with standin(request.param, tmp_path / "scheduler", monkeypatch) as made:
        made.set("hold")
        yield made
        made.set("server", None)
        made.run(CANCEL[made.kind], *waiting(made))


def command(*words: str) -> tuple[int, str]:
    """Run `python -m crew_executor`; return its exit status and what it says."""
    run = subprocess.run(
        [sys.executable, "-m", "crew_executor", *words], capture_output=True, text=True, timeout=60, check=False
    )
    return run.returncode, run.stdout + run.stderr


def waiting(scheduler: Standin) -> list[str]:
    """Return the jobs that have not ended."""
    return [job for job, facts in scheduler.jobs().items() if facts["state"] != "ended"]


@contextlib.contextmanager
def client(scheduler: Standin, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A client with two jobs in the queue."""
    script = CLIENT.format(kind=KINDS[scheduler.kind], folder=str(folder / "jobs"))
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: len(waiting(scheduler)) == 2, "two jobs are in the queue")
            yield process
        finally:
            process.kill()


def orphaned(scheduler: Standin, folder: Path) -> str:
    """Leave two jobs behind; return their run."""
    with client(scheduler, folder) as process:
        (entry,) = ledger.entries()
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: all(not entry.is_alive() for entry in ledger.entries()), "the client is gone")
    return entry.run


def test_jobs_of_a_killed_client_are_listed_and_ended(scheduler: Standin, tmp_path: Path) -> None:
    run = orphaned(scheduler, tmp_path)
    jobs = waiting(scheduler)
    status, said = command("ps")
    assert status == 0
    assert "is gone\n" in said
    assert f"  run {run}  mine  2 jobs\n" in said
    assert all(f"    job {job}  " in said for job in jobs)
    (figures,) = json.loads(command("ps", "--json")[1])
    (executor,) = figures["executors"]
    assert executor["run"] == run
    assert sorted((each["id"], each["state"]) for each in executor["jobs"]) == sorted((job, "pending") for job in jobs)

    status, said = command("kill", run[:6])
    assert status == 0
    assert said.startswith(f"run {run} (mine): 2 jobs were cancelled: ")
    assert waiting(scheduler) == []
    assert command("ps")[1] == "no executor of this user is running on this machine\n"
    assert ledger.entries() == []
    assert os.listdir(tmp_path / "jobs") == ["logs"]


def test_jobs_of_a_client_that_is_there_are_its_own_and_forgotten_with_it(scheduler: Standin, tmp_path: Path) -> None:
    with client(scheduler, tmp_path) as process:
        (entry,) = ledger.entries()
        said = command("ps")[1]
        assert f"  run {entry.run}  mine  2 queued, 0 running, 0 done; 2 of at most 2 workers\n" in said
        assert " job" not in said
        process.communicate("")
        wait_until(lambda: not waiting(scheduler), "its jobs were cancelled")
    assert ledger.entries() == []


def test_an_executor_that_is_there_is_ended_by_its_client(scheduler: Standin, tmp_path: Path) -> None:
    with client(scheduler, tmp_path) as process:
        status, said = command("kill", "mine")
        assert (status, said.partition(": ")[2]) == (0, "ended by its client\n")
        wait_until(lambda: not waiting(scheduler), "its jobs were cancelled")
        assert process.poll() is None
    assert ledger.entries() == []


def test_a_client_that_left_no_job_is_forgotten(scheduler: Standin, tmp_path: Path) -> None:
    orphaned(scheduler, tmp_path)
    scheduler.run(CANCEL[scheduler.kind], *waiting(scheduler))
    wait_until(lambda: not waiting(scheduler), "all jobs have ended")
    assert command("ps")[1] == "no executor of this user is running on this machine\n"
    assert ledger.entries() == []


def test_a_scheduler_that_does_not_say_is_told_and_nothing_is_forgotten(scheduler: Standin, tmp_path: Path) -> None:
    run = orphaned(scheduler, tmp_path)
    scheduler.set("server", "refuses")
    asked = {"pbs": "qstat", "lsf": "bjobs"}[scheduler.kind]
    assert f"  run {run}  mine  {asked} ended with exit code " in command("ps")[1]
    assert f"its jobs cannot be ended: {asked} ended with exit code" in command("kill", run)[1]
    assert len(ledger.entries()) == 1


def test_a_client_elsewhere_may_be_there_which_is_said(
    scheduler: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = orphaned(scheduler, tmp_path)
    path = Path(ledger.folder(), f"{run}.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "login2", "client_pid": os.getpid()}))
    who = f"client {os.getpid()} was started on login2, and cannot be asked from here"
    assert f"{who}\n  run {run}  mine  2 jobs\n" in command("ps")[1]
    assert f"{who}: if it is there it may start others, `kill {run}` on login2" in command("kill", "mine")[1]
    assert waiting(scheduler) == []
    assert len(ledger.entries()) == 1  # the client may be there


def test_a_launcher_that_is_not_known_here_is_named(scheduler: Standin, tmp_path: Path) -> None:
    run = orphaned(scheduler, tmp_path)
    path = Path(ledger.folder(), f"{run}.json")
    facts = json.loads(path.read_text())
    for launcher in ("nosuch.module:Launcher", "crew_executor.launchers.pbs:NoSuch", "json:dumps"):
        path.write_text(json.dumps({**facts, "launcher": launcher}))
        assert f"  run {run}  mine  {launcher}" in command("ps")[1]
