"""The row `light` of network.py: many agents with one worker each, a few hundred of them in each of a few processes.

To the client they are agents on other hosts: each dials in by itself, over TLS, and proves that it was invited.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import psutil
from network_loopback import submit_all
from network_row import TASKS, Figures, Settings, rate, wait_for_workers

from crew_executor import CrewExecutor
from crew_executor.launchers import Job, Launcher

JOINED = "seconds until all have joined"
STARTUP_SECONDS = 120.0
END_SECONDS = 8.0
AGENTS_PER_PROCESS = 250
DESCRIPTORS_EACH = 8


class LightLauncher(Launcher):
    """Start a few hundred agents in a process, which share an invitation.

    Args:
        callers: so many of a process call at a time; 0: all.
        **options: as for Launcher.
    """

    jobs_per_submit = AGENTS_PER_PROCESS

    def __init__(self, callers: int, **options: Any) -> None:
        super().__init__(host="127.0.0.1", startup_timeout=STARTUP_SECONDS, **options)
        self._callers = callers
        self._processes: list[subprocess.Popen[bytes]] = []

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Start so many."""
        script = str(Path(__file__).with_name("network_light_agents.py"))
        command = [sys.executable, script, str(number), str(self._callers)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self._processes.append(process)
        assert process.stdin is not None
        process.stdin.write(job.invitation)
        process.stdin.close()
        return [(process.pid, place) for place in range(number)]

    def close(self) -> None:
        """Wait for all, and end what does not."""
        until = time.monotonic() + END_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def paced(settings: Settings) -> Figures:
    """Measure agents of which only some call at a time: fewer than the strangers that an executor lets wait."""
    return _crowd(settings, settings.callers)


def storm(settings: Settings) -> Figures:
    """Measure agents that all call at once, as those of a large job array do."""
    return _crowd(settings, 0)


def _crowd(settings: Settings, callers: int) -> Figures:
    """Measure how long it takes until all are there, what each costs the client, and no-op tasks through them."""
    agents = settings.agents
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(DESCRIPTORS_EACH * agents + 1_000, hard)), hard))
    client = psutil.Process()
    with CrewExecutor(1) as warm:
        warm.submit(int).result()
    memory, descriptors, threads = client.memory_info().rss, client.num_fds(), client.num_threads()
    began = time.perf_counter()
    with CrewExecutor(agents, min_workers=agents, launcher=LightLauncher(callers)) as executor:
        wait_for_workers(executor, agents, STARTUP_SECONDS)
        figures = {
            JOINED: time.perf_counter() - began,
            "client kB an agent": (client.memory_info().rss - memory) / agents / 1000,
            "client descriptors an agent": (client.num_fds() - descriptors) / agents,
            "client threads an agent": (client.num_threads() - threads) / agents,
        }
        figures[TASKS] = rate(lambda count: submit_all(executor, count), settings.light_tasks)
        began = time.perf_counter()
    return figures | {"seconds of shutdown": time.perf_counter() - began}
