"""What an agent tells of one worker's end, and when."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from .agents import ProcessLauncher
from .helpers import wait_until
from .launching import executor_of

pytestmark = [pytest.mark.launchers, pytest.mark.timeout(120)]


def test_a_worker_that_is_ended_with_its_host_is_over_before_the_agent_has_heard_of_it(tmp_path: Path) -> None:
    """Schedulers signal all processes of a job at once; the loss is not the task's."""
    launcher, started = ProcessLauncher(), tmp_path / "started"
    with executor_of(launcher, 1) as executor:
        future = executor.submit(_stay, str(started))
        wait_until(started.exists, "the task runs")
        os.kill(int(started.read_text()), signal.SIGTERM)
        time.sleep(0.05)  # for so long the agent was not given the processor
        launcher.agents[0].terminate()
        error = future.exception(30)

    assert "killed by SIGTERM" in str(error)
    assert "its host was about to be taken away (SIGTERM)" in str(error)


def _stay(path: str) -> None:
    Path(f"{path}.new").write_text(str(os.getpid()))
    os.rename(f"{path}.new", path)
    time.sleep(60)
