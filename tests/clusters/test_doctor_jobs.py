"""`doctor --launcher slurm` and sge, of real schedulers: what it says when all is well, or is not; it leaves no job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from integration.helpers import wait_until
from integration.launching import SECONDS

from crew_executor.launchers import ledger

from .hosts import Hosts
from .schedulers import BOTH, Cluster, cluster_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

Begin = Callable[..., subprocess.Popen[str]]

IMPATIENT = """
import runpy
from crew_executor import doctor_jobs
doctor_jobs.LOG_SECONDS = 2.0
runpy.run_module("crew_executor", run_name="__main__", alter_sys=True)
"""
"""The command, which does not wait long for the output of a job that has ended: the hosts share all files."""


@pytest.fixture(params=BOTH)
def cluster(request: pytest.FixtureRequest, hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with cluster_of(request.param, hosts, monkeypatch) as made:
        yield made


@pytest.fixture
def begin(cluster: Cluster, tmp_path: Path) -> Begin:
    """Start the command as a user would."""

    def run(address: str, *words: str) -> subprocess.Popen[str]:
        module = ["-c", IMPATIENT] if "--python" in words else ["-m", "crew_executor"]
        options = ["--launcher", cluster.kind, "--address", address, "--folder", str(tmp_path / "jobs"), *words]
        return subprocess.Popen(
            [sys.executable, *module, "doctor", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return run


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=2 * SECONDS)
    return process.returncode, out, errors


def states_in(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines() if line.startswith(("ok ", "note ", "FAIL "))]


def test_a_sound_cluster_passes_and_no_job_is_left(
    hosts: Hosts, cluster: Cluster, begin: Begin, tmp_path: Path
) -> None:
    status, out, errors = end_of(begin(hosts.head, *cluster.place, "--walltime", "10m"))

    assert (status, errors) == (0, ""), out
    assert set(states_in(out)) == {"ok"}
    assert re.search(r"^ok    the scheduler took job \d+ in ", out, re.MULTILINE)
    assert re.search(r"^ok    job \d+ ran on h[12], and has told what it found ", out, re.MULTILINE)
    assert f"ok    {sys.executable} is Python " in out
    assert f"ok    it can read its invitation, with the key, in {tmp_path / 'jobs'}\n" in out
    assert f"ok    it reaches this machine at {hosts.head}\n" in out
    assert re.search(r"^ok    a worker on h[12] \(pid \d+", out, re.MULTILINE)
    assert "ok    no job is left\n" in out
    assert out.endswith("all is well\n")
    assert cluster.states() == {}
    assert os.listdir(tmp_path / "jobs") == ["logs"]
    assert ledger.entries() == []


def test_what_is_wrong_is_named_and_leaves_no_job(hosts: Hosts, cluster: Cluster, begin: Begin, tmp_path: Path) -> None:
    """Three at a time: each takes a while. At 127.0.0.1 a host finds itself."""
    nowhere = begin(hosts.head, *cluster.nowhere)
    interpreter = begin(hosts.head, *cluster.place, "--python", "/nosuch")
    address = begin("127.0.0.1", *cluster.place)
    for process, told in (
        (nowhere, ["FAIL  no job can be submitted: ", cluster.refusal]),
        (interpreter, [" ended, and said nothing: ", "is there a Python at /nosuch on the hosts?", "--python PATH"]),
        (address, ["FAIL  the host does not reach this machine: 127.0.0.1: [Errno 111]", "(--address ADDR"]),
    ):
        status, out, errors = end_of(process)
        assert (status, errors) == (1, ""), out
        assert states_in(out).count("FAIL") == 1, out
        assert "a worker on" not in out
        for words in told:
            assert words in out
    wait_until(lambda: not cluster.states(), "no job is left", SECONDS)
    assert os.listdir(tmp_path / "jobs") == ["logs"]
    assert ledger.entries() == []
