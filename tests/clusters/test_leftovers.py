"""Jobs of a real scheduler whose client was killed: `ps` lists them as the scheduler does, `kill` ends them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.helpers import wait_until
from integration.launching import SECONDS

from crew_executor import registry
from crew_executor.launchers import ledger

from .hosts import Hosts
from .schedulers import BOTH, Cluster, cluster_of
from .test_slurm_launcher import processes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

CLIENT = """
import sys
from crew_executor import CrewExecutor
from crew_executor.launchers import {launcher}
from crew_executor.testing import _sleep

launcher = {launcher}(
    host=sys.argv[1], folder=sys.argv[2], port=int(sys.argv[3]), job_name="mine", cpus=4, lost_after=600.0
)
executor = CrewExecutor(3, launcher=launcher, min_workers=3, name="mine")
tasks = [executor.submit(_sleep, 600.0) for _ in range(3)]
while sum(task.running() for task in tasks) < int(sys.argv[4]):
    _sleep(0.05)
print("they run", flush=True)
tasks[0].result()
"""
"""Three jobs, of which two find room."""
NOBODY = "no executor of this user is running on this machine\n"


@pytest.fixture(params=BOTH)
def cluster(request: pytest.FixtureRequest, hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with cluster_of(request.param, hosts, monkeypatch) as made:
        yield made


@pytest.fixture(autouse=True)
def _registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `ps` see no supervisor: agents have some, too, and the hosts share the files of this machine."""
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "empty"))


def command(*words: str) -> str:
    """Run `python -m crew_executor`, which must succeed; return what it says."""
    run = subprocess.run(
        [sys.executable, "-m", "crew_executor", *words], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def busy(hosts: Hosts) -> list[str]:
    """Return the hosts on which something of a job runs."""
    return [host for host in hosts.names if processes(hosts, host)]


@contextlib.contextmanager
def orphaned(hosts: Hosts, cluster: Cluster, folder: Path, running: int) -> Iterator[ledger.Entry]:
    """Three jobs of a client that was killed while so many of them ran; in this context nothing ends those.

    Somebody listens where the client did, who says nothing: so agents do not find out that it is gone.
    """
    with socket.create_server((hosts.head, 0)) as taken:
        port = taken.getsockname()[1]
    script = CLIENT.format(launcher=cluster.launcher)
    argv = [sys.executable, "-c", script, hosts.head, str(folder / "jobs"), str(port), str(running)]
    environment = {**os.environ, registry.FOLDER_VARIABLE: str(folder / "registry")}  # Slurm's jobs inherit it
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "they run\n"
            wait_until(lambda: len(cluster.states()) == 3, "all are submitted", SECONDS)
            (entry,) = ledger.entries()
            assert " job" not in command("ps")  # they are its own
        finally:
            client.send_signal(signal.SIGKILL)
    with socket.create_server((hosts.head, port)):
        yield entry


@pytest.mark.parametrize("running", [2, 0])
def test_jobs_of_a_killed_client_are_listed_with_their_states_and_ended(
    hosts: Hosts, cluster: Cluster, tmp_path: Path, running: int
) -> None:
    """Some run and one pends; or all pend, which schedulers list in ranges."""
    if not running:
        cluster.hold()
    with orphaned(hosts, cluster, tmp_path, running) as entry:
        expected = sorted([cluster.begun] * running + [cluster.waiting] * (3 - running))
        # A worker may have come before the scheduler has noted that its job runs.
        wait_until(lambda: sorted(cluster.states().values()) == expected, "the scheduler knows what runs", SECONDS)
        states = cluster.states()
        said = command("ps")
        assert said.startswith(f"client {entry.client_pid} is gone\n  run {entry.run}  mine  3 jobs\n")
        assert said.count("\n") == 5
        for job, state in states.items():
            assert f"    job {job}  {state}" in said
        (figures,) = json.loads(command("ps", "--json"))
        (executor,) = figures["executors"]
        told = {each["id"]: each["state"] for each in executor["jobs"]}
        assert told == {job: "running" if state == cluster.begun else "pending" for job, state in states.items()}
        assert len(busy(hosts)) == running

        said = command("kill", entry.run[:6])
        assert said.startswith(f"run {entry.run} (mine): 3 jobs were cancelled: ")
        for job in states:
            assert job in said
        wait_until(lambda: not cluster.states(), "no job is left", SECONDS)
        wait_until(lambda: not busy(hosts), "nothing is left on the hosts", SECONDS)
        assert command("ps") == NOBODY
        assert ledger.entries() == []
