"""Shared by the tests of engines: which agents run below a process, and pools that leave nothing behind."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator

import psutil
import pytest

from crew_executor.launchers import Job, JobState, Launcher, hosted


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
