"""The examples of docs/ssh.md, slurm.md and sge.md run as they stand, on real servers and schedulers."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from integration.test_cluster_pages import example

from . import sge, slurm
from .hosts import Hosts, which
from .sge import GridEngine
from .slurm import Slurm
from .sshd import SSHServers

pytestmark = pytest.mark.timeout(300)


def check(page: str, word: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Run the example of a page."""
    code, output = example(page, word)
    (folder / "example.py").write_text(code, "utf-8")
    environment = {**os.environ, "HOME": str(folder), **environment}

    run = subprocess.run(
        [sys.executable, "example.py"], capture_output=True, text=True, timeout=200, cwd=folder, check=False,
        env=environment,
    )  # fmt: skip

    assert (0, output) == (run.returncode, run.stdout), run.stderr


@pytest.mark.network
def test_the_example_of_ssh(servers: SSHServers, tmp_path: Path) -> None:
    own = which("ssh")
    assert own is not None
    wrapper = tmp_path / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {own} -F {shlex.quote(str(servers.config))} "$@"\n')  # a user's ~/.ssh/config
    wrapper.chmod(0o755)

    check("ssh.md", "SSHLauncher", tmp_path, {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"})


@pytest.mark.cluster
@pytest.mark.skipif(slurm.missing() is not None, reason=str(slurm.missing()))
def test_the_example_of_slurm(hosts: Hosts, tmp_path: Path) -> None:
    with Slurm(hosts) as cluster:
        check("slurm.md", "CrewExecutor", tmp_path, cluster.environment)


@pytest.mark.cluster
@pytest.mark.skipif(sge.missing() is not None, reason=str(sge.missing()))
def test_the_example_of_grid_engine(hosts: Hosts, tmp_path: Path) -> None:
    with GridEngine(hosts) as cluster:
        check("sge.md", "CrewExecutor", tmp_path, cluster.environment)
