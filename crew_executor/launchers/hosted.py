"""What launchers share that start agents in processes of somebody else's cluster (Dask, Ray). Starts none itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def of_each_worker(resources: Mapping[str, float] | None, workers_per_job: int) -> dict[str, float]:
    """Return what each worker of an agent has of the resources that the cluster has given to that."""
    return {name: amount / workers_per_job for name, amount in (resources or {}).items()}


def agent_process_class() -> Any:
    """Return a class that runs an agent for a process of somebody else's cluster; it travels by value."""
    # The kernel ends the agent with its parent, which may be killed: else two might come of one job.
    tie = (
        "import ctypes, os, sys\nctypes.CDLL(None).prctl(1, 9)\n"
        "if os.getppid() == int(sys.argv[1]): os.execvp(sys.argv[2], sys.argv[2:])"
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
