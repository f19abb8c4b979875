"""Both real schedulers in the same words, for tests that are the same with each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from . import sge, slurm, test_sge_launcher, test_slurm_launcher
from .hosts import Hosts

BOTH = [
    pytest.param(kind, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))
    for kind, reason in (("slurm", slurm.missing()), ("sge", sge.missing()))
]
"""For parametrize."""


@dataclass
class Cluster:
    """A scheduler on the hosts.

    Attributes:
        kind: as `doctor --launcher` and CrewExecutor(launcher=) name it.
        launcher: the class's name.
        place: the options of `doctor` that name a partition or a queue that is there.
        nowhere: the same of one that is not there.
        refusal: what the scheduler says of that.
        states: returns the state of each job that has not ended, by its number, in the words of squeue or qstat.
        hold: lets all jobs pend from now on.
        begun, waiting: the words for a job that runs, and for one that pends.
    """

    kind: str
    launcher: str
    place: list[str]
    nowhere: list[str]
    refusal: str
    states: Callable[[], dict[str, str]]
    hold: Callable[[], None]
    begun: str
    waiting: str


@contextlib.contextmanager
def cluster_of(kind: str, hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """That scheduler, for this process and those that it starts. At its end no job may be left, nor what one runs."""
    if kind == "slurm":
        with test_slurm_launcher.started(hosts, monkeypatch) as cluster:
            yield Cluster(
                kind, "SlurmLauncher", ["--partition", "cpu"], ["--partition", "nosuch"],
                "invalid partition specified: nosuch", lambda: test_slurm_launcher.states(cluster), cluster.drain,
                "RUNNING", "PENDING",
            )  # fmt: skip
    else:
        with test_sge_launcher.started(hosts, monkeypatch) as cell:
            yield Cluster(
                kind, "SGELauncher", ["--queue", "all.q"], ["--queue", "nosuch.q"], 'unknown queue "nosuch.q"',
                lambda: test_sge_launcher.states(cell), cell.disable, "r", "qw",
            )  # fmt: skip
