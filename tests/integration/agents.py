"""A launcher of agents on this machine, as ordinary processes, with handles to break what it has started."""

from __future__ import annotations

import subprocess
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from crew_executor.launchers import Job, JobState, JobStatus, Launcher

from .network_helpers import Relay

END_SECONDS = 10.0


class ProcessLauncher(Launcher):
    """Start agents as processes of this machine.

    Args:
        **options: as for Launcher.

    Attributes:
        jobs: all that were ever submitted.
        agents: their processes.
        relay: if set, agents come through it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"host": "127.0.0.1", **options})
        self.poll_seconds = (0.1, 1.0)
        self.jobs: list[Job] = []
        self.agents: list[subprocess.Popen[bytes]] = []
        self.has_relay = False
        self.relay: Relay | None = None

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Start one."""
        assert number == 1
        invitation = job.invitation
        if self.has_relay:
            self.relay = self.relay or Relay(("127.0.0.1", job.port))
            invitation = job.invitation_to([self.relay.address])
        agent = subprocess.Popen(job.command(), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert agent.stdin is not None
        agent.stdin.write(invitation)
        agent.stdin.close()
        self.jobs.append(job)
        self.agents.append(agent)
        return [agent]

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Say which have ended."""
        return {
            agent: JobStatus(JobState.RUNNING if agent.poll() is None else JobState.ENDED, f"exit {agent.returncode}")
            for agent in self.agents
            if agent in handles
        }

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """End some."""
        for agent in self.agents:
            if agent in handles:
                agent.kill()

    def close(self) -> None:
        """Wait for all."""
        for agent in self.agents:
            agent.wait(END_SECONDS)
        if self.relay is not None:
            self.relay.close()
