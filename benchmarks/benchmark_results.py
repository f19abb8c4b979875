"""What a run has measured, and what follows from it: spreads, ratios, verdicts about bars. Pure: no clock, no process.

Results describe themselves (titles, units, bars), so an old file can be shown when the rows have changed since.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from benchmark_row import Bar, Row

OURS = "crew"
AGAIN = "fork-again"
"""The baseline measured twice: the noise."""
THREADS = "threads"
"""Sends nothing to any process: shown, but not compared with those that do."""


@dataclass(frozen=True)
class Cell:
    """One measurement: a figure, or the problem in a few words."""

    figure: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Spread:
    """The least, the median and the greatest of some values."""

    least: float
    median: float
    greatest: float


def spread_of(values: Iterable[float]) -> Spread | None:
    """Return the spread; None if there are no values."""
    found = sorted(values)
    return Spread(found[0], statistics.median(found), found[-1]) if found else None


@dataclass(frozen=True)
class Who:
    """A contender as it took part."""

    title: str
    version: str | None
    """None: not installed."""


@dataclass
class RowResults:
    """A row's words, and by contender one cell for each round in which it took part."""

    title: str
    unit: str
    better: str
    definition: str
    baseline: str | None
    bars: list[Bar]
    cells: dict[str, list[Cell]] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Row) -> RowResults:
        """Make it for a row of which nothing is measured yet."""
        return cls(row.title, row.unit, row.better, row.definition, row.baseline, list(row.bars))

    def figures(self, contender: str) -> Spread | None:
        """Return the spread of a contender's figures."""
        return spread_of(cell.figure for cell in self.cells.get(contender, []) if cell.figure is not None)

    def ratios(self, contender: str, against: str) -> list[float]:
        """Divide a contender's figures by those that another one had in the same round."""
        pairs = zip(self.cells.get(contender, []), self.cells.get(against, []), strict=False)
        return [
            own.figure / other.figure
            for own, other in pairs
            if own.figure is not None and other.figure is not None and other.figure > 0
        ]

    def times_better(self, contender: str, against: str) -> list[float]:
        """Return by how much a contender is better in each round: above 1 is better, whatever the row counts."""
        ratios = self.ratios(contender, against)
        return ratios if self.better == "higher" else [1 / ratio for ratio in ratios if ratio > 0]

    def parts(self, contender: str) -> dict[str, float]:
        """Return the median of each part."""
        by_name: dict[str, list[float]] = {}
        for cell in self.cells.get(contender, []):
            for name, value in cell.parts.items():
                by_name.setdefault(name, []).append(value)
        return {name: statistics.median(values) for name, values in by_name.items()}

    def problems(self, contender: str) -> list[str]:
        """Return what went wrong, each once."""
        return list(dict.fromkeys(cell.problem for cell in self.cells.get(contender, []) if cell.problem))

    def reached(self, bar: Bar) -> tuple[float, bool] | None:
        """Return what we reached of a bar (the median), and whether that is enough; None if it was not measured."""
        found = self.figures(OURS) if bar.against is None else spread_of(self.ratios(OURS, bar.against))
        if found is None:
            return None
        return found.median, found.median >= bar.limit if self.better == "higher" else found.median <= bar.limit

    def ahead_of_us(self) -> list[str]:
        """Return the pools of processes that were better than us in every round."""
        others = [name for name in self.cells if name not in {OURS, AGAIN, THREADS}]
        return [name for name in others if is_always_above_one(self.times_better(name, OURS))]


def is_always_above_one(values: list[float]) -> bool:
    """Answer whether there are values, and all are above 1."""
    return bool(values) and min(values) > 1


@dataclass
class Results:
    """All of a run."""

    date: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    contenders: dict[str, Who]
    rows: dict[str, RowResults]

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> Results:
        """Make it of what as_json() returned."""
        rows = {}
        for key, row in read["rows"].items():
            cells = {name: [Cell(**cell) for cell in several] for name, several in row["cells"].items()}
            words = {one.name: row[one.name] for one in fields(RowResults) if one.name not in {"bars", "cells"}}
            rows[key] = RowResults(**words, bars=[Bar(**bar) for bar in row["bars"]], cells=cells)
        contenders = {name: Who(**who) for name, who in read["contenders"].items()}
        return cls(read["date"], read["machine"], read["settings"], contenders, rows)
