"""The row `hosts` of network.py: no-op tasks on two network hosts, by CrewExecutor, dask.distributed and parsl.

The hosts are those of tests/clusters/hosts.py. Each contender has one client, and whatever it needs beside, at the
head, and two workers on each host. Where a contender offers several ways to submit, the fastest counts.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from network_loopback import submit_all
from network_row import TASKS, Figures, Settings, rate, wait_for_workers

from crew_executor import CrewExecutor

HOSTS = 2
WORKERS_PER_HOST = 2
WORKERS = HOSTS * WORKERS_PER_HOST
WARM_UP = 200
START_SECONDS = 60.0


def host_module(name: str) -> Any:
    """Import a module of tests/clusters, which is not installed."""
    tests = str(Path(__file__).parents[1] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    return importlib.import_module(f"clusters.{name}")


@contextlib.contextmanager
def _hosts() -> Iterator[Any]:
    module = host_module("hosts")
    if reason := module.missing():
        raise RuntimeError(f"no network hosts can be made: {reason}")
    with module.Hosts(HOSTS) as hosts:
        yield hosts


# ---------------------------------------------------------------------- CrewExecutor


def crew_rate(settings: Settings) -> Figures:
    """Measure CrewExecutor: TLS, one agent on each host."""
    with _hosts() as hosts:
        launcher = host_module("host_launcher").HostLauncher(hosts, workers_per_job=WORKERS_PER_HOST)
        with CrewExecutor(WORKERS, min_workers=WORKERS, launcher=launcher) as executor:
            wait_for_workers(executor, WORKERS)
            places = [worker.host for worker in executor.stats().workers]
            if len(set(places)) != HOSTS:
                raise AssertionError(f"the workers are not spread over the hosts: {places}")
            return _fastest(
                {
                    "submit": lambda count: submit_all(executor, count),
                    "map": lambda count: list(executor.map(abs, _numbers(count), chunksize=1)),
                },
                settings.tasks,
            )


def _numbers(count: int) -> list[int]:
    return [-number for number in range(count)]


def _fastest(ways: dict[str, Callable[[int], list[int]]], tasks: int) -> Figures:
    figures = {}
    for name, run in ways.items():
        rate(run, WARM_UP)
        figures[f"{name}, {TASKS}"] = rate(run, tasks)
    # Of CrewExecutor it is submit() that counts, be it the faster one or not.
    return {TASKS: figures.get(f"submit, {TASKS}") or max(figures.values()), **figures}


# ---------------------------------------------------------------------- dask.distributed


def dask_rate(settings: Settings) -> Figures:
    """Measure dask.distributed: a scheduler at the head, two worker processes of one thread on each host; plain tcp."""
    distributed = importlib.import_module("distributed")
    with _hosts() as hosts, tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as exits:
        file = Path(folder, "scheduler.json")
        options = ["--host", hosts.head, "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        scheduler = subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler", *options])
        exits.callback(_end, scheduler)
        _wait(file.exists, scheduler, "dask's scheduler is there")
        options = ["--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        for host in hosts.names * WORKERS_PER_HOST:
            where = ["--host", hosts.address(host), "--local-directory", folder]
            hosts.run(host, [sys.executable, "-m", "distributed.cli.dask_worker", *options, *where])
        client = exits.enter_context(distributed.Client(scheduler_file=str(file), timeout=START_SECONDS))
        client.wait_for_workers(WORKERS, timeout=START_SECONDS)
        executor = client.get_executor(pure=False)
        figures = _fastest(
            {
                "get_executor().submit": lambda count: submit_all(executor, count),
                "client.map": lambda count: list(client.gather(client.map(abs, _numbers(count), pure=False))),
            },
            settings.slow_tasks,
        )
        for way in (executor.shutdown, client.shutdown):
            way()
        return figures


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _wait(is_so: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    until = time.monotonic() + START_SECONDS
    while not is_so():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"not within {START_SECONDS:g} s: {what}")
        time.sleep(0.05)


# ---------------------------------------------------------------------- parsl


class HostProvider:
    """What starts parsl's worker pools: one block, which is all hosts. An ExecutionProvider, registered as one."""

    nodes_per_block = HOSTS
    min_blocks = max_blocks = init_blocks = 1
    parallelism = 1.0
    label = "hosts"
    status_polling_interval = 5
    script_dir: str | None = None
    cores_per_node: int | None = None
    mem_per_node: float | None = None

    def __init__(self, hosts: Any) -> None:
        self.resources: dict[object, Any] = {}
        self._hosts = hosts
        self._pools: list[subprocess.Popen[bytes]] = []
        self._states = importlib.import_module("parsl.jobs.states")

    def submit(self, command: str, tasks_per_node: int, job_name: str = "") -> object:
        """Start a pool on each host."""
        self._pools = [self._hosts.run(host, ["sh", "-c", command]) for host in self._hosts.names]
        return "pools"

    def status(self, job_ids: Sequence[object]) -> list[Any]:
        """Say that they run, unless one has ended."""
        has_ended = any(pool.poll() is not None for pool in self._pools)
        state = self._states.JobState.FAILED if has_ended else self._states.JobState.RUNNING
        return [self._states.JobStatus(state) for _ in job_ids]

    def cancel(self, job_ids: Sequence[object]) -> list[bool]:
        """End them."""
        for pool in self._pools:
            pool.terminate()
        return [True for _ in job_ids]


def parsl_rate(settings: Settings) -> Figures:
    """Measure parsl's HighThroughputExecutor: its interchange at the head, a pool on each host; encrypted, by default.

    By apps, as its users do, and by the executor's own submit(), without its bookkeeping.
    """
    parsl = importlib.import_module("parsl")
    importlib.import_module("parsl.providers.base").ExecutionProvider.register(HostProvider)
    # parsl finds its own programs only there.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    with _hosts() as hosts, tempfile.TemporaryDirectory() as folder:
        executor = parsl.HighThroughputExecutor(
            label="hosts", address=hosts.head, max_workers_per_node=WORKERS_PER_HOST, provider=HostProvider(hosts)
        )
        kernel = parsl.load(parsl.Config(executors=[executor], run_dir=folder, strategy="none"))
        try:
            app = parsl.python_app(abs, data_flow_kernel=kernel)
            _wait_for_parsl(executor)
            return _fastest(
                {
                    "app": lambda count: [each.result() for each in [app(number) for number in _numbers(count)]],
                    "submit": lambda count: [
                        each.result() for each in [executor.submit(abs, {}, number) for number in _numbers(count)]
                    ],
                },
                settings.slow_tasks,
            )
        finally:
            kernel.cleanup()


def _wait_for_parsl(executor: Any) -> None:
    until = time.monotonic() + START_SECONDS
    while (there := sum(pool["worker_count"] for pool in executor.connected_managers())) < WORKERS:
        if time.monotonic() > until:
            raise TimeoutError(f"only {there} workers of parsl's have come within {START_SECONDS:g} s")
        time.sleep(0.1)
