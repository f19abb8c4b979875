"""What a row of network.py is: who takes part, which figures are compared, and which bars they should reach."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crew_executor import CrewExecutor

Figures = dict[str, float]
"""What one contender measured in one round, by name and unit."""

TASKS = "tasks a second"
JOIN_SECONDS = 120.0


@dataclass(frozen=True)
class Settings:
    """The sizes of the workloads."""

    tasks: int = 20_000
    slow_tasks: int = 1_000
    """For dask and parsl."""
    round_trips: int = 200
    megabytes: int = 100
    repeats: int = 5
    """Transfers of so many megabytes; the median counts."""
    agents: int = 1_000
    callers: int = 8
    """In each process of light agents so many call at a time, where not all do."""
    light_tasks: int = 20_000
    jobs: int = 5
    """Of Slurm, one after the other; the median counts."""


@dataclass(frozen=True)
class Cell:
    """One measurement: figures, or the problem in a few words."""

    figures: Figures = field(default_factory=dict)
    problem: str = ""

    def words(self) -> str:
        """Return the figures in one line."""
        return ", ".join(f"{value:,.4g} {name}" for name, value in self.figures.items())


@dataclass(frozen=True)
class Contender:
    """One who takes part in a row.

    Attributes:
        title: for the table.
        measure: returns its figures.
        modules: that must be installed.
    """

    title: str
    measure: Callable[[Settings], Figures]
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One figure of two contenders, divided within each round.

    Attributes:
        figure: which.
        ours, theirs: the contenders.
        bar: what the median of the ratios should reach at least, or None.
        most: the same, for figures of which less is better: what it should be at most.
    """

    figure: str
    ours: str
    theirs: str
    bar: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        key: its name on the command line.
        title: for the table.
        contenders: by name.
        comparisons: see there.
        most: by the name of a figure: what its median should be at most.
        seconds: after which a measurement is killed.
        needs_hosts: it makes network hosts on this machine.
    """

    key: str
    title: str
    contenders: Mapping[str, Contender]
    comparisons: tuple[Comparison, ...] = ()
    most: Mapping[str, float] = MappingProxyType({})
    seconds: float = 300.0
    needs_hosts: bool = False


def is_installed(module: str) -> bool:
    """Whether there is such a module; it is not imported."""
    return importlib.util.find_spec(module) is not None


def wait_for_workers(executor: CrewExecutor, workers: int, seconds: float = JOIN_SECONDS) -> None:
    """Wait until so many workers have joined; raise TimeoutError."""
    until = time.perf_counter() + seconds
    while (there := sum(worker.state == "idle" for worker in executor.stats().workers)) < workers:
        if time.perf_counter() > until:
            raise TimeoutError(f"only {there} of {workers} workers have joined within {seconds:g} s")
        time.sleep(0.02)


def rate(run: Callable[[int], list[int]], tasks: int) -> float:
    """Return the tasks a second of what computes abs() of so many numbers; raise if a result is wrong."""
    began = time.perf_counter()
    results = run(tasks)
    seconds = time.perf_counter() - began
    if results != list(range(tasks)):
        raise AssertionError("wrong results")
    return tasks / seconds
