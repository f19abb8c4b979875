"""The tables of network.py. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from network_row import Cell, Comparison, Row


def render(row: Row, cells: Mapping[str, Sequence[Cell]]) -> str:
    """Return a row's figures, comparisons and problems: medians, in brackets the least and the greatest."""
    lines = ["", f"{row.key}: {row.title}"]
    for name, found in cells.items():
        figures = dict.fromkeys(figure for cell in found for figure in cell.figures)
        for figure in figures:
            values = [cell.figures[figure] for cell in found if figure in cell.figures]
            most = row.most.get(figure)
            bar = "" if most is None else f"   bar <= {most:g}: {_verdict(statistics.median(values) <= most)}"
            lines.append(f"    {row.contenders[name].title:30} {figure:37} {_spread(values)}{bar}")
        for problem in dict.fromkeys(cell.problem for cell in found if cell.problem):
            times = sum(cell.problem == problem for cell in found)
            lines.append(f"    {row.contenders[name].title:30} in {times} of {len(found)} rounds: {problem}")
    for comparison in row.comparisons:
        if comparison.ours in cells and comparison.theirs in cells:
            lines.append(f"    {_compared(comparison, cells)}")
    return "\n".join(lines)


def ratios(comparison: Comparison, cells: Mapping[str, Sequence[Cell]]) -> list[float]:
    """Return ours divided by theirs, for each round in which both were measured."""
    figure = comparison.figure
    return [
        ours.figures[figure] / theirs.figures[figure]
        for ours, theirs in zip(cells[comparison.ours], cells[comparison.theirs], strict=True)
        if figure in ours.figures and figure in theirs.figures
    ]


def _compared(comparison: Comparison, cells: Mapping[str, Sequence[Cell]]) -> str:
    found = ratios(comparison, cells)
    words = f"{f'{comparison.ours} / {comparison.theirs}':30} {comparison.figure:37}"
    bars = (">=", comparison.bar), ("<=", comparison.most)
    bar = "".join(f"   bar {sign} {value:g}: " for sign, value in bars if value is not None)
    if not found:
        return f"{words} {'-':>12}{bar}{bar and 'not measured'}"
    ratio = statistics.median(found)
    is_reached = ratio >= (comparison.bar or 0.0) and (comparison.most is None or ratio <= comparison.most)
    return f"{words} {_spread(found)}{bar}{bar and _verdict(is_reached)}"


def _spread(values: Sequence[float]) -> str:
    return f"{_number(statistics.median(values)):>12}  [{_number(min(values))} to {_number(max(values))}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "NOT REACHED"
