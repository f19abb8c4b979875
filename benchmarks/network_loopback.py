"""The row `loopback` of network.py: workers of this machine, reached by the local link or through an agent."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Hashable, Sequence
from typing import Any

from network_row import TASKS, Figures, Settings, rate, wait_for_workers

from crew_executor import CrewExecutor
from crew_executor.launchers import BaseLauncher, Job, Launcher

WORKERS = 2
WARM_UP = 500
ROUND_TRIP = "ms round trip"
END_SECONDS = 8.0


class LoopbackLauncher(Launcher):
    """Start agents as processes of this machine, which come over loopback."""

    def __init__(self, **options: Any) -> None:
        super().__init__(host="127.0.0.1", **options)
        self._agents: list[subprocess.Popen[bytes]] = []

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Start one."""
        agent = subprocess.Popen(job.command(), stdin=subprocess.PIPE)
        self._agents.append(agent)
        assert agent.stdin is not None
        agent.stdin.write(job.invitation)
        agent.stdin.close()
        return [agent]

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """End some."""
        for agent in self._agents:
            if agent in handles:
                agent.kill()

    def close(self) -> None:
        """Wait for all."""
        for agent in self._agents:
            agent.wait(END_SECONDS)


def local_link(settings: Settings) -> Figures:
    """Measure local workers."""
    return _measure("local", settings)


def tls_link(settings: Settings) -> Figures:
    """Measure workers behind TLS."""
    return _measure(LoopbackLauncher(workers_per_job=WORKERS), settings)


def tcp_link(settings: Settings) -> Figures:
    """Measure workers behind plain tcp."""
    return _measure(LoopbackLauncher(workers_per_job=WORKERS, unencrypted_and_unauthenticated=True), settings)


def _measure(launcher: str | BaseLauncher, settings: Settings) -> Figures:
    with CrewExecutor(WORKERS, min_workers=WORKERS, launcher=launcher) as executor:
        wait_for_workers(executor, WORKERS)
        submit_all(executor, WARM_UP)
        tasks = rate(lambda count: submit_all(executor, count), settings.tasks)
        trips = []
        for number in range(settings.round_trips):
            began = time.perf_counter()
            if executor.submit(abs, -number).result() != number:
                raise AssertionError("wrong result")
            trips.append(time.perf_counter() - began)
    return {TASKS: tasks, ROUND_TRIP: 1000 * statistics.median(trips)}


def submit_all(executor: CrewExecutor, tasks: int) -> list[int]:
    """Run so many no-ops by submit()."""
    futures = [executor.submit(abs, -number) for number in range(tasks)]
    return [future.result() for future in futures]
