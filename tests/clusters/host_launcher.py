"""A launcher of agents on network hosts which then knows nothing of them: what their links tell is all there is."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Hashable, Sequence
from typing import IO, Any

from crew_executor import CrewExecutor
from crew_executor.launchers import Job, Launcher

from .hosts import Hosts

END_SECONDS = 8.0
"""How long close() waits for agents; the executor waits 10 s for close()."""


class HostLauncher(Launcher):
    """Start one agent on each host, as a process there with the invitation as its stdin.

    It cannot say how a job stands, and ends none: an agent ends by itself, and the silence of a host must be enough.

    Args:
        hosts: the hosts.
        names: of those that are used; None: all.
        **options: as for Launcher.

    Attributes:
        names: the same; a test takes one away when that host is not to get another agent.
        jobs: all that were ever submitted.
        agents: the host and the process of each.
        detour: if set, where an agent is to go instead of to this machine.
    """

    def __init__(self, hosts: Hosts, names: Sequence[str] | None = None, **options: Any) -> None:
        super().__init__(**{"host": hosts.head, **options})
        self._hosts = hosts
        self.names = list(hosts.names if names is None else names)
        self.jobs: list[Job] = []
        self.agents: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.detour: Callable[[Job], tuple[str, int]] | None = None

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Start one on a host that has none; none if there is no such host now."""
        assert number == 1
        busy = {host for host, agent in self.agents if agent.poll() is None}
        host = next((name for name in self.names if name not in busy), None)
        if host is None:
            return []
        invitation = job.invitation if self.detour is None else job.invitation_to([self.detour(job)])
        agent = start_agent(self._hosts, host, job.command(), invitation)
        self.jobs.append(job)
        self.agents.append((host, agent))
        return [agent]

    def close(self) -> None:
        """Wait for all."""
        for _host, agent in self.agents:
            agent.wait(END_SECONDS)


def start_agent(
    hosts: Hosts, host: str, command: Sequence[str], invitation: bytes, stderr: int | IO[str] = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start an agent on a host, and hand it its invitation."""
    agent = hosts.run(host, command, stdin=subprocess.PIPE, stderr=stderr)
    assert agent.stdin is not None
    agent.stdin.write(invitation)
    agent.stdin.close()
    return agent


def host_name() -> str:
    """Return where this is."""
    return socket.gethostname()


def link_of(executor: CrewExecutor) -> Any:
    """Return the conversation with the only agent."""
    (link,) = executor._dispatcher._employer._links.values()  # type: ignore[attr-defined]
    return link.conversation
