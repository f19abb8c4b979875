"""Shared by the tests of engines: which agents run below a process, and pools that leave nothing behind."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from integration.helpers import add, wait_until

from crew_executor import CrewExecutor, LaunchError
from crew_executor.errors import BrokenCrewError
from crew_executor.launchers import Job, JobState, Launcher, hosted

SECONDS = 60.0
"""For anything that takes a few on a machine that does nothing else."""


def agents_below(pid: int) -> list[int]:
    """Return the agents among what a process has started, and what those have."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if words[1:4] == ["-m", "crew_executor", "worker"] and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
    return found


def agent_of(pid: int) -> int:
    """Return the agent that has started a worker."""
    for process in psutil.Process(pid).parents():
        if process.cmdline()[1:4] == ["-m", "crew_executor", "worker"]:
            return process.pid
    raise AssertionError(f"process {pid} was not started by an agent")


@contextlib.contextmanager
def all_stopped(root: int) -> Iterator[None]:
    """Have all agents below a process stand still."""
    agents = agents_below(root)
    assert agents
    for pid in agents:
        psutil.Process(pid).send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in agents:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).send_signal(signal.SIGCONT)


@contextlib.contextmanager
def executor_of(launcher: Launcher, max_workers: int = 2, **options: Any) -> Iterator[CrewExecutor]:
    """An executor with this launcher; whatever happens, nothing of it stays."""
    with CrewExecutor(max_workers, launcher=launcher, **options) as executor:
        try:
            yield executor
        except BaseException:
            executor.kill_workers()
            raise


def failure_of(launcher: Launcher) -> str:
    """Return the text of the error that breaks a pool with this launcher."""
    with executor_of(launcher, 1) as executor:
        error = executor.submit(add, 1, 2).exception(SECONDS)
    assert isinstance(error, BrokenCrewError)
    assert isinstance(error.__cause__, LaunchError)
    return str(error)


def all_idle(executor: CrewExecutor, number: int) -> None:
    """Wait until so many workers are there."""
    wait_until(lambda: sum(each.state == "idle" for each in executor.stats().workers) == number, "all came", SECONDS)


def warning_of(launcher: Launcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> str:
    """Return what is logged of a job that waits, as if it did for long."""
    monkeypatch.setattr(hosted, "WAIT_SECONDS", -1.0)
    caplog.clear()
    launcher.check()
    try:
        with caplog.at_level(logging.WARNING, "crew_executor"):
            (job,) = launcher.submit(Job("crew-1-1", 1, 1, b"{}\n", {}, None, "/bin/false", 0), 1)
            for _ in range(3):
                assert launcher.poll([job])[job].state is JobState.PENDING
            launcher.cancel([job])
    finally:
        launcher.close()
    return caplog.text
