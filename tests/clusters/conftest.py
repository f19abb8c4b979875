"""Fixtures of tests on network hosts: what leaves a process, thread or descriptor here, or a process there, fails."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.conftest import _no_leaks, _warm_up

from . import hosts as network_hosts
from . import sge, slurm, sshd
from .hosts import Hosts, wait_until
from .sshd import SSHServers

__all__ = ["_no_leaks", "_warm_up"]

END_SECONDS = 15.0
"""Agents whose client has died wait for it a little, to be sure."""


@pytest.hookimpl(trylast=True)  # what -m leaves out is gone then
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let nothing be skipped where all this must run: in CI, as root, who can install what is missing."""
    if not os.environ.get("CI") or os.geteuid():
        return
    needed = {"network": (network_hosts.missing(), sshd.missing()), "cluster": (slurm.missing(), sge.missing())}
    for mark, reasons in needed.items():
        here = [item for item in items if item.path.parent.name == "clusters" and item.get_closest_marker(mark)]
        if here and any(reasons):
            raise pytest.UsageError(f"tests of {mark} hosts cannot run: {'; '.join(filter(None, reasons))}")


def guests_of(hosts: Hosts, host: str) -> list[int]:
    """Return the processes on a host, but for its ssh server and what that has for each connection."""
    found = []
    for pid in hosts.processes(host):
        try:
            name = Path(f"/proc/{pid}/comm").read_text("utf-8")
        except OSError:
            continue  # ended meanwhile
        if not name.startswith("sshd"):
            found.append(pid)
    return found


def is_empty(hosts: Hosts, host: str) -> bool:
    """Answer whether nothing of ours runs on a host."""
    return not guests_of(hosts, host)


def wait_for_empty(hosts: Hosts) -> None:
    """Wait until nothing of ours runs on any host."""
    for host in hosts.names:
        wait_until(functools.partial(is_empty, hosts, host), f"nothing is left on {host}", END_SECONDS)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Two hosts; at the end of the test nothing may run there."""
    with Hosts(2) as made:
        yield made
        wait_for_empty(made)


@pytest.fixture
def servers(hosts: Hosts) -> Iterator[SSHServers]:
    """An ssh server on each; at its end, which would kill what was started through it, nothing may run there."""
    with SSHServers(hosts) as made:
        yield made
        wait_for_empty(hosts)
