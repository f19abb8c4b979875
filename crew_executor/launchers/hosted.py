"""What launchers share that start agents in processes of somebody else's cluster (Dask, Ray). Starts none itself."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from ..core.needs import check_resources, in_words, is_met, needs_of
from ..log import logger
from .base import JobState, JobStatus

WAIT_SECONDS = 60.0
"""So long a job waits before it is asked whether the cluster can ever run it."""
CONNECT_SECONDS = 10.0


def of_each_worker(resources: Mapping[str, float] | None, workers_per_job: int) -> dict[str, float]:
    """Return what each worker of an agent has of the resources that the cluster has given to that."""
    checked = check_resources("resources", {} if resources is None else resources)
    return {name: amount / workers_per_job for name, amount in checked.items()}


def unmet(wanted: Mapping[str, float], hosts: Iterable[Mapping[str, float]]) -> str:
    """Return in words what a job wants if no host of a cluster has all of it, be it free or taken; or ""."""
    needs = needs_of(wanted)
    return "" if any(is_met(needs, host) for host in hosts) else in_words(dict(needs))


def check_answers(address: str | None) -> None:
    """Raise OSError if nobody listens at "host:port" within CONNECT_SECONDS; other addresses are not looked at."""
    host, _, port = (address or "").rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


class LongWait:
    """Warns, once, when jobs have waited long for what nobody in the cluster has."""

    def __init__(self) -> None:
        self._look_at: dict[Hashable, float] = {}  # by handle
        self._is_told = False

    def look(self, statuses: Mapping[Hashable, JobStatus], lack: Callable[[], str]) -> None:
        """Note who waits.

        Args:
            statuses: of jobs, by handle.
            lack: asks the cluster, and returns what it does not have, with the options to see, or "". Called seldom.
        """
        now = time.monotonic()
        pending = [handle for handle, status in statuses.items() if status.state is JobState.PENDING]
        self._look_at = {handle: self._look_at.get(handle, now + WAIT_SECONDS) for handle in pending}
        if self._is_told or min(self._look_at.values(), default=now) >= now:
            return
        self._look_at = dict.fromkeys(pending, now + WAIT_SECONDS)
        try:
            words = lack()
        except Exception as error:  # another time, perhaps
            logger.info("what the cluster has is not known: %s", error)
            return
        if words:
            self._is_told = True
            logger.warning("jobs wait, perhaps for ever: %s", words)


def agent_process_class() -> Any:
    """Return a class that runs an agent for a process of somebody else's cluster; it travels by value."""
    # The kernel ends the agent with its parent, which may be killed: else two might come of one job.
    tie = (
        "import ctypes, os, sys\nctypes.CDLL(None).prctl(1, 9)\n"
        "try:\n    if os.getppid() == int(sys.argv[1]): os.execvp(sys.argv[2], sys.argv[2:])\n"
        "except OSError as error:\n    host = os.uname().nodename\n"
        "    sys.exit(f'there is no interpreter {sys.argv[2]} on {host}: give python= ({error.strerror})')"
    )
    log_bytes = 4000

    class AgentProcess:
        def __init__(self, arguments: Sequence[str], python: str | None, invitation: bytes) -> None:
            import contextlib
            import os
            import subprocess
            import sys
            import tempfile

            self.command = [python or sys.executable, *arguments]
            self.log = tempfile.TemporaryFile()  # noqa: SIM115  closed by end()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", tie, str(os.getpid()), *self.command],
                stdin=subprocess.PIPE, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended already, and says why
                self.process.stdin.write(invitation)
                self.process.stdin.close()

        def poll(self) -> int | None:
            return self.process.poll()

        def end(self) -> tuple[int, str]:
            """End it if need be; return its exit code, and that with its last words."""
            if self.process.poll() is None:
                self.process.kill()
            code = self.process.wait()
            with self.log:
                self.log.seek(max(0, self.log.seek(0, 2) - log_bytes))
                words = self.log.read().decode(errors="replace").strip()
            return code, f"{' '.join(self.command)}\nended with exit code {code}\n{words}"

    return AgentProcess
