"""The program of docs/one-program.md prints the same wherever its workers are; only the launcher's line changes."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from clusters import hosts as network_hosts
from clusters import sge, slurm, sshd
from clusters.hosts import Hosts, which
from clusters.sge import GridEngine
from clusters.slurm import Slurm
from clusters.sshd import SSHServers
from integration.docs_blocks import blocks

from .batch_server import DEFINITION, QUEUE, REGION, BatchServer
from .kubernetes_server import Kubernetes

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

LINE = 'launcher = "local"'
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
HERE = 'host="127.0.0.1"'


class Engine(NamedTuple):
    """What a program needs to have its workers somewhere: the line, and what is in its environment."""

    line: str
    environment: Mapping[str, str] = {}


@contextlib.contextmanager
def local(_folder: Path) -> Iterator[Engine]:
    yield Engine(LINE)


@contextlib.contextmanager
def ssh(folder: Path) -> Iterator[Engine]:
    own = which("ssh")
    with Hosts(2) as hosts, SSHServers(hosts) as servers:
        wrapper = folder / "bin" / "ssh"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec {own} -F {shlex.quote(str(servers.config))} "$@"\n')  # a ~/.ssh/config
        wrapper.chmod(0o755)
        path = f"{wrapper.parent}:{os.environ['PATH']}"
        yield Engine(f"launcher = SSHLauncher({servers.names!r})", {"PATH": path})


@contextlib.contextmanager
def on_slurm(_folder: Path) -> Iterator[Engine]:
    with Hosts(2) as hosts, Slurm(hosts) as cluster:
        yield Engine('launcher = "slurm"', cluster.environment)


@contextlib.contextmanager
def on_grid_engine(_folder: Path) -> Iterator[Engine]:
    with Hosts(2) as hosts, GridEngine(hosts) as cell:
        yield Engine('launcher = "sge"', cell.environment)


@contextlib.contextmanager
def kubernetes(folder: Path) -> Iterator[Engine]:
    with contextlib.closing(Kubernetes(folder)) as cluster:
        yield Engine(f"launcher = KubernetesLauncher(image='crew', kubeconfig={str(cluster.kubeconfig)!r}, {HERE})")


@contextlib.contextmanager
def aws_batch(_folder: Path) -> Iterator[Engine]:
    with BatchServer() as server:
        options = f"job_queue={QUEUE!r}, job_definition={DEFINITION!r}, python={sys.executable!r}"
        where = f"region={REGION!r}, endpoint_url={server.url!r}"
        yield Engine(f"launcher = AWSBatchLauncher({options}, {where}, {HERE})", CREDENTIALS)


@contextlib.contextmanager
def dask(_folder: Path) -> Iterator[Engine]:
    import distributed

    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster:
        yield Engine(f"launcher = DaskLauncher({cluster.scheduler_address!r}, {HERE})")


@contextlib.contextmanager
def ray(_folder: Path) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="crewt-ray-") as short:  # Ray's sockets have short names
        yield Engine(f"launcher = RayLauncher({HERE})", {"RAY_TMPDIR": short})


@contextlib.contextmanager
def mpi(_folder: Path) -> Iterator[Engine]:
    options = ("--oversubscribe", *(["--allow-run-as-root"] if os.geteuid() == 0 else []))
    yield Engine(f"launcher = MPILauncher(ranks=2, options={options!r}, {HERE})")


def _needs(reason: str | None) -> pytest.MarkDecorator:
    return pytest.mark.skipif(reason is not None, reason=str(reason))


@pytest.mark.parametrize(
    "engine",
    [
        local,
        pytest.param(ssh, marks=_needs(network_hosts.missing() or sshd.missing())),
        pytest.param(on_slurm, marks=_needs(slurm.missing())),
        pytest.param(on_grid_engine, marks=_needs(sge.missing())),
        kubernetes,
        aws_batch,
        dask,
        ray,
        pytest.param(mpi, marks=_needs(None if which("mpirun") else "no mpirun: see tests/engines/install.sh")),
    ],
    ids=lambda engine: engine.__name__,
)
def test_the_program_prints_the_same(
    engine: Callable[[Path], contextlib.AbstractContextManager[Engine]], tmp_path: Path
) -> None:
    (block,) = [block for block in blocks() if LINE in block.code]
    with engine(tmp_path) as there:
        name = there.line.partition("= ")[2].partition("(")[0]
        line = there.line if name.startswith('"') else f"from crew_executor.launchers import {name}\n{there.line}"
        assert block.code.count(LINE) == 1
        (tmp_path / "program.py").write_text(block.code.replace(LINE, line), "utf-8")
        done = subprocess.run(
            [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
            env={**os.environ, "HOME": str(tmp_path), **there.environment},
        )  # fmt: skip

    assert (0, block.output) == (done.returncode, done.stdout), done.stderr
