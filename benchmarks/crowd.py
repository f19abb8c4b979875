"""Many workers on one dispatcher: 200 real ones, and 1,000 light ones that share a process. README.md explains it.

For each crowd: how long until all have joined, what a link costs in memory and descriptors, and how fast tasks go.
Nothing here asserts a time; every result is checked.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from crew_executor import CrewExecutor
from crew_executor.launchers import Invitation, LocalLauncher, WorkerExit
from crew_executor.supervisor_wire import recv_message, send_message

JOIN_SECONDS = 600.0


class CrowdLauncher(LocalLauncher):
    """Start light workers, all in one process."""

    def __init__(self) -> None:
        super().__init__(startup_timeout=JOIN_SECONDS)
        self._socket, theirs = socket.socketpair()
        script = str(Path(__file__).with_name("crowd_worker.py"))
        self.process = subprocess.Popen([sys.executable, script, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        self._on_exit: dict[str, Callable[[WorkerExit], None]] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def prepare(self) -> None:
        """Have no supervisor."""

    def launch(self, invitation: Invitation, on_exit: Callable[[WorkerExit], None]) -> None:
        """Hand a worker's descriptors over."""
        self._on_exit[invitation.name] = on_exit
        message = {"name": invitation.name, "run": invitation.run, "secret": invitation.secret}
        send_message(self._socket, message, invitation.descriptors)

    def kill(self, invitation: Invitation, signal_number: int) -> None:
        """End nobody: a light worker leaves when its link is closed."""

    def stop(self, invitation: Invitation, ordinal: int) -> None:
        """End nothing: no task here has a time limit."""

    def describe(self) -> str:
        """Return how workers are started."""
        return "light workers in one process"

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        try:
            while (received := recv_message(self._socket)) is not None:
                name = received[0]["gone"]
                self._on_exit.pop(name)(WorkerExit(name, exitcode=0))
        except OSError:
            return  # closed: the end


def measure(workers: int, tasks: int, launcher: CrowdLauncher | str) -> dict[str, Any]:
    """Return the figures of one crowd."""
    client = psutil.Process()
    with CrewExecutor(1) as warm:
        warm.submit(int).result()
    memory, descriptors = client.memory_info().rss, client.num_fds()
    began = time.perf_counter()
    executor = CrewExecutor(workers, min_workers=workers, launcher=launcher)
    try:
        while sum(worker.state == "idle" for worker in executor.stats().workers) < workers:
            if time.perf_counter() - began > JOIN_SECONDS:
                raise TimeoutError(f"not all of {workers} workers have joined: {executor.stats()}")
            time.sleep(0.02)
        joined = time.perf_counter() - began
        figures = {
            "workers": workers,
            "join seconds": joined,
            "client bytes a worker": (client.memory_info().rss - memory) / workers,
            "client descriptors a worker": (client.num_fds() - descriptors) / workers,
        }
        for name, run in (("submit", submit_all), ("map", map_all)):
            began = time.perf_counter()
            if run(executor, tasks) != list(range(0, -tasks, -1)):
                raise AssertionError(f"wrong results by {name}")
            figures[f"{name} tasks a second"] = tasks / (time.perf_counter() - began)
        began = time.perf_counter()
        executor.shutdown()
        figures["shutdown seconds"] = time.perf_counter() - began
        return figures
    finally:
        executor.kill_workers()
        executor.shutdown()


def submit_all(executor: CrewExecutor, tasks: int) -> list[int]:
    """Run so many tasks by submit()."""
    futures = [executor.submit(operator.neg, number) for number in range(tasks)]
    return [future.result() for future in futures]


def map_all(executor: CrewExecutor, tasks: int) -> list[int]:
    """Run so many tasks by map(), each a task of its own."""
    return list(executor.map(operator.neg, range(tasks), chunksize=1))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=int, default=200, help="workers; 0: leave them out")
    parser.add_argument("--light", type=int, default=1_000, help="workers; 0: leave them out")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 8 * max(options.real, options.light) + 100
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    figures: dict[str, dict[str, Any]] = {}
    if options.real:
        figures["real"] = measure(options.real, options.tasks, "local")
    if options.light:
        launcher = CrowdLauncher()
        try:
            figures["light"] = measure(options.light, options.tasks, launcher)
        finally:
            launcher.close()
    for crowd, row in figures.items():
        print(f"{crowd}:")
        for name, figure in row.items():
            print(f"    {name:30} {figure:12,.3f}")
    if options.json:
        Path(options.json).write_text(json.dumps({"cpus": os.cpu_count(), **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
