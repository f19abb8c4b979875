"""Draws results as an SVG: how many times better than the baseline each contender is in each row. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from benchmark_results import AGAIN, OURS, THREADS, Results, spread_of
from benchmark_row import BASELINE

MARKERS = "osD^v<>PX*hpd"


def draw(results: Results, file: Path) -> None:
    """Write the picture: medians as marks, ours with a line from the least to the greatest. Threads are left out."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    # The same results make the same file: no date, no random ids. Text stays text: smaller, and can be searched.
    mpl.rcParams.update({"svg.hashsalt": "crew_executor", "svg.fonttype": "none", "font.size": 9})
    rows = [row for row in results.rows.values() if row.baseline and row.times_better(OURS, row.baseline)]
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.36 * len(rows)))
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    shown = [name for name in results.contenders if name not in {BASELINE, AGAIN, THREADS}]
    for place, row in enumerate(rows):
        noise = spread_of(row.times_better(AGAIN, BASELINE))
        if noise is not None and row.baseline == BASELINE:
            axes.plot([noise.least, noise.greatest], [place, place], color="lightgrey", linewidth=9, zorder=0)
    for index, name in enumerate(shown):
        found = [(place, spread_of(row.times_better(name, str(row.baseline)))) for place, row in enumerate(rows)]
        points = [(spread, place) for place, spread in found if spread is not None]
        is_ours = name == OURS
        colour = "crimson" if is_ours else f"C{index % 10}"
        if is_ours:
            for spread, place in points:
                axes.plot([spread.least, spread.greatest], [place, place], color=colour, linewidth=1.5, zorder=3)
        axes.scatter(
            [spread.median for spread, _ in points], [place for _, place in points],
            label=results.contenders[name].title,
            marker=MARKERS[index % len(MARKERS)], color=colour, s=60 if is_ours else 22, zorder=4 if is_ours else 2,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [
        row.title if row.baseline == BASELINE else f"{row.title} (against {row.baseline})" for row in rows
    ])  # fmt: skip
    axes.invert_yaxis()
    axes.grid(visible=True, axis="both", linewidth=0.3)
    axes.set_xlabel("times better than ProcessPoolExecutor (fork): right is better; grey: noise")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
