"""What a row of the benchmark is: its words, its unit, what it is held against, and how one figure of it is measured.

Nothing is measured here, and no contender is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

BASELINE = "fork"
"""The contender that ratios are taken to where a row does not name another one."""


class NotOffered(Exception):
    """The contender has no such capability; the message says which in a few words."""


@dataclass(frozen=True)
class Settings:
    """What the measuring processes are told."""

    workers: int = 2
    is_quick: bool = False
    is_large: bool = False

    def number(self, whole: int, quick: int, large: int | None = None) -> int:
        """Return how many: in a whole run, in a quick one, or in a large one."""
        if self.is_quick:
            return quick
        return large if self.is_large and large is not None else whole


@dataclass(frozen=True)
class Measured:
    """A figure, and what else was seen on the way, by name with its unit."""

    figure: float
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bar:
    """What CrewExecutor is to reach: a figure, or a ratio to the figure of another contender of the same turn."""

    limit: float
    against: str | None = BASELINE
    """None: the limit is for the figure itself."""


# Measures with a contender, as the settings say. Any: contenders import this module.
Measure = Callable[[Any, Settings], "Measured | float"]


@dataclass(frozen=True)
class Row:
    """One workload of the table."""

    key: str
    title: str
    unit: str
    better: str
    """Either "higher" or "lower"."""
    measure: Measure
    definition: str = ""
    bars: tuple[Bar, ...] = ()
    baseline: str | None = BASELINE
    """Whom the ratios are taken to; None: the figure is a ratio already."""
    is_large: bool = False
    """Measured with --large only."""
    seconds: float = 120.0
    """A measurement that takes longer is ended and counts as timed out."""


def make_row(
    rows: dict[str, Row], key: str, title: str, unit: str, better: str, *bars: Bar,
    baseline: str | None = BASELINE, is_large: bool = False, seconds: float = 120.0,
) -> Callable[[Measure], Measure]:  # fmt: skip
    """Return a decorator that enters a function into the rows; its docstring is the definition that is printed."""
    assert better in {"higher", "lower"}, better

    def enter(measure: Measure) -> Measure:
        definition = " ".join((measure.__doc__ or "").split())
        rows[key] = Row(key, title, unit, better, measure, definition, bars, baseline, is_large, seconds)
        return measure

    return enter
