"""Workers on hosts that can be reached by ssh: one agent on each, started by the system's own ssh client.

The invitation goes through ssh's stdin. When the executor's process dies, its agents notice by themselves: the end of
an ssh client does not end what it has started on the other side.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import shutil
import subprocess
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ..errors import LaunchError
from .base import Job, JobState, JobStatus, Launcher
from .equipment import check_gpus
from .logged_process import LoggedProcess

CONNECT_SECONDS = 10
"""ssh's own time-out for a host that does not answer."""
CLOSE_SECONDS = 5.0
"""How long close() waits for ssh clients whose agents have ended, before it ends them."""
TUNNEL_PORTS = range(20_000, 60_000)
SSH_FAILED = 255
"""An exit code of ssh's own; all others are those of what it runs."""
_TRY = {
    SSH_FAILED: "ssh itself failed: try the same command by hand; for keys and names see the options of SSHLauncher",
    127: "there is no such interpreter on the host: give SSHLauncher(python=...) the path it has there",
    126: "the interpreter on the host cannot be executed: give SSHLauncher(python=...) another path",
    71: "the agent runs there but does not reach this machine: give host=... an address that the host can reach, open "
    "the port (port=...), or use tunnel=True",
    72: "the agent was not let in: see its words above",
}
"""What to try, by exit code: those of ssh, of the shell, and of our own agent."""


class SSHLauncher(Launcher):
    """Start workers on other hosts by ssh.

    ssh must get there without asking: keys, names and ports are its own business, in ~/.ssh/config or `options`. On the
    hosts there must be an interpreter of the same minor version, with crew_executor and what tasks import.

    Args:
        hosts: names as ssh takes them: "host" or "user@host"; each has one agent.
        workers_per_host: so many workers on each.
        ssh: the ssh client's path.
        options: for ssh, before the host: ("-p", "2222", "-i", "key").
        gpus: how many each host has, which its workers share out evenly; None: it is not said.
        tunnel: True: agents come back through ssh (-R), for hosts that cannot reach this machine otherwise.
        **more: as for Launcher: host, port, python, environment, ship, lost_after, walltime, idle_timeout, ...
    """

    poll_seconds = (0.2, 2.0)  # to look at a process of one's own costs nothing

    def __init__(
        self,
        hosts: str | Sequence[str],
        *,
        workers_per_host: int = 1,
        ssh: str | os.PathLike[str] = "ssh",
        options: Sequence[str] = (),
        gpus: int | None = None,
        tunnel: bool = False,
        **more: Any,
    ) -> None:
        self.remote_hosts = [hosts] if isinstance(hosts, str) else list(hosts)
        if not self.remote_hosts or not all(self.remote_hosts):
            raise ValueError(f"hosts must name at least one host, as ssh takes them, not {hosts!r}")
        for host in self.remote_hosts:
            if host.startswith("-"):
                raise ValueError(f"{host!r} is no host but an option; those belong into options=")
        if tunnel:
            more.setdefault("host", "127.0.0.1")
        more.setdefault("max_jobs", len(self.remote_hosts))
        super().__init__(workers_per_job=workers_per_host, **more)
        self.ssh = os.fsdecode(ssh)
        self.options = list(options)
        self.tunnel = tunnel
        self.gpus = check_gpus(gpus)
        self._clients: dict[str, _Client] = {}  # by host
        self._failed_at: dict[str, float] = {}

    def check(self) -> None:
        """Raise LaunchError if there is no ssh client."""
        if shutil.which(self.ssh) is None:
            raise LaunchError(f"there is no ssh client {self.ssh!r} here: install one, or give SSHLauncher(ssh=...)")

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Start agents on hosts that have none, those that failed last at the end."""
        handles = []
        for _ in range(number):
            host = self._free_host()
            if host is None:
                break
            self._clients[host] = client = self._start(host, job)
            handles.append(client)
        return handles

    def _free_host(self) -> str | None:
        for host, client in list(self._clients.items()):
            if client.process.poll() is not None:
                client.close()
                del self._clients[host]
        free = [host for host in self.remote_hosts if host not in self._clients]
        return min(free, key=lambda host: self._failed_at.get(host, 0.0), default=None)

    def command(self, host: str, remote: Sequence[str], *options: str) -> list[str]:
        """Return the ssh command that runs something on a host.

        Args:
            host: one of those of this launcher.
            remote: the command there, as a list of words.
            *options: further ones for ssh.
        """
        own = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
        # The first value of an option counts: the user's own must come first.
        return [self.ssh, *self.options, *own, *options, host, "exec " + shlex.join(remote)]

    def _start(self, host: str, job: Job) -> _Client:
        options: list[str] = []
        invitation = job.invitation
        if self.tunnel:
            port = random.choice(TUNNEL_PORTS)  # noqa: S311  no secret: only not everybody's first
            options = ["-o", "ExitOnForwardFailure=yes", "-R", f"127.0.0.1:{port}:127.0.0.1:{job.port}"]
            invitation = job.invitation_to([("127.0.0.1", port)])
        return _Client(host, self.command(host, _watched(job.command()), *options), invitation)

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Say whose ssh client has ended."""
        statuses: dict[Hashable, JobStatus] = {}
        for client in handles:
            assert isinstance(client, _Client)
            code = client.process.poll()
            if code is None:
                statuses[client] = JobStatus(JobState.RUNNING)
            else:
                self._failed_at[client.host] = time.monotonic()
                # When ssh itself has failed, or was killed, the agent may live on.
                is_sure = 0 <= code < SSH_FAILED
                words = f"ssh to {client.host} ended with exit code {code}"
                statuses[client] = JobStatus(JobState.ENDED, words, is_sure=is_sure)
        return statuses

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """End ssh clients; an agent that has not come gives up by itself."""
        for client in handles:
            assert isinstance(client, _Client)
            if client.process.poll() is None:
                client.terminate()
                self._failed_at[client.host] = time.monotonic()

    def explain(self, handle: Hashable) -> str:
        """Return the command, how it ended, the end of its output, and what to try."""
        assert isinstance(handle, _Client)
        code = handle.process.poll()
        end = "has not ended" if code is None else f"ended with exit code {code}"
        words = [f"{shlex.join(handle.command)}\n{end}", handle.log_tail()]
        if code in _TRY:
            words.append(_TRY[code])
        return "\n".join(filter(None, words))

    def describe(self) -> str:
        """Return the hosts."""
        return f"started by {self.ssh} on {', '.join(self.remote_hosts)}"

    def close(self) -> None:
        """Wait for the ssh clients, and end those that do not end."""
        until = time.monotonic() + CLOSE_SECONDS
        for client in self._clients.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.process.wait(max(0.0, until - time.monotonic()))
            client.close()
        self._clients.clear()


def _watched(command: Sequence[str]) -> list[str]:
    """Return a command with a shell that stays with it.

    Of a command that a signal has ended ssh says 255, as if it had failed itself; a shell says 128 and the number.
    """
    return ["sh", "-c", f"{shlex.join(command)}; exit"]


class _Client(LoggedProcess):
    """An ssh client that runs an agent."""

    def __init__(self, host: str, command: list[str], invitation: bytes) -> None:
        super().__init__(command, invitation)
        self.host = host
