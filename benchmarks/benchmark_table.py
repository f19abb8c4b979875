"""Writes results as Markdown: a summary, a table for each row, and the page of the documentation. Pure.

Nothing is known here of what pools do: which contender is ahead, and which bars are missed, follows from the results.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmark_results import AGAIN, OURS, THREADS, Results, RowResults, Spread, spread_of
from benchmark_row import BASELINE, Bar


def number(value: float) -> str:
    """Write a number with about three digits."""
    size = abs(value)
    for limit, digits in ((100, 0), (10, 1), (1, 2), (0.01, 3)):
        if size >= limit:
            return f"{value:,.{digits}f}"
    return f"{value:.2g}" if value else "0"


def spread(found: Spread | None, times: str = "") -> str:
    """Write a median, with the least and the greatest behind it if there are others."""
    if found is None:
        return ""
    text = number(found.median) + times
    return text if found.least == found.greatest else f"{text} ({number(found.least)}-{number(found.greatest)})"


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Write a table in Markdown: the first column to the left, the others to the right."""
    titles = list(head)
    rows = [titles, ["---", *["--:"] * (len(titles) - 1)], *[list(line) for line in lines]]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def figure_of(row: RowResults, contender: str) -> str:
    """Write what a contender measured in a row, or why it did not."""
    figures, problems = row.figures(contender), row.problems(contender)
    if figures is None:
        return "; ".join(problems) or "not measured"
    return spread(figures) + (f"; also: {'; '.join(problems)}" if problems else "")


def ratio_of(row: RowResults, contender: str) -> str:
    """Write the ratio to the row's baseline."""
    if row.baseline is None or contender == row.baseline:
        return ""
    return spread(spread_of(row.ratios(contender, row.baseline)), "x")


# ------------------------------------------------------------------------------------------------------ one row, whole


def row_table(results: Results, key: str) -> str:
    """Write what every contender measured in a row."""
    row = results.rows[key]
    names = list(dict.fromkeys(name for contender in row.cells for name in row.parts(contender)))
    head = ["", f"{row.unit} ({row.better} is better)"]
    if row.baseline is not None:
        head.append(f"ratio to {title(results, row.baseline)}")
    lines = []
    for contender in row.cells:
        parts = row.parts(contender)
        ratios = [] if row.baseline is None else [ratio_of(row, contender)]
        shown = [number(parts[name]) if name in parts else "" for name in names]
        lines.append([emphasised(results, contender), figure_of(row, contender), *ratios, *shown])
    return table([*head, *names], lines)


def title(results: Results, contender: str) -> str:
    """Return a contender's title; also of one that did not take part."""
    return results.contenders[contender].title if contender in results.contenders else contender


def emphasised(results: Results, contender: str) -> str:
    """Return the title, ours in bold."""
    return f"**{title(results, contender)}**" if contender == OURS else title(results, contender)


# --------------------------------------------------------------------------------------------------------- the summary


def summary(results: Results) -> str:
    """Write a line for each row: our figure, the ratio, the bar, the noise, and the best of the others."""
    head = ["", "unit", "CrewExecutor", "ratio", "to", "bar", "noise", "best of the others"]
    return table(head, (_summary_line(results, key, row) for key, row in results.rows.items()))


def _summary_line(results: Results, key: str, row: RowResults) -> list[str]:
    against = "" if row.baseline is None else title(results, row.baseline)
    noise = spread_of(row.ratios(AGAIN, BASELINE)) if row.baseline else None
    bars = ", ".join(bar_text(results, row, bar) for bar in row.bars)
    link = f"[{row.title}](#{key})"
    unit = f"{row.unit} {'^' if row.better == 'higher' else 'v'}"
    return [
        link, unit, figure_of(row, OURS), ratio_of(row, OURS), against, bars,
        "" if noise is None else f"{number(noise.least)}-{number(noise.greatest)}", best_of_the_others(results, row),
    ]  # fmt: skip


def bar_text(results: Results, row: RowResults, bar: Bar) -> str:
    """Write a bar, and whether it was reached."""
    sign = "≥" if row.better == "higher" else "≤"
    whom = "" if bar.against in {None, row.baseline} else f" {title(results, str(bar.against))}"
    limit = f"{sign} {bar.limit:g}{'' if bar.against is None else 'x'}{whom}"
    reached = row.reached(bar)
    if reached is None:
        return f"{limit}: not measured"
    value, is_enough = reached
    return f"{limit}: {'✓' if is_enough else f'✗ ({number(value)})'}"


def best_of_the_others(results: Results, row: RowResults) -> str:
    """Name the best pool of processes beside ours, and its figure."""
    others = [name for name in row.cells if name not in {OURS, AGAIN, THREADS}]
    medians = {name: found.median for name in others if (found := row.figures(name))}
    if not medians:
        return ""
    best = (max if row.better == "higher" else min)(medians, key=medians.__getitem__)
    return f"{title(results, best)}: {number(medians[best])}"


# ------------------------------------------------------------------------------------------------------------ the page


PAGE = """# Performance

CrewExecutor beside other pools, all measured in one run. This page is written by `render`, whole: no figure and no
verdict was put in by hand. To refresh it, on a machine that does nothing else (hours):

    tox -e bench -- run --rounds 5 --json docs/performance.json
    tox -e bench -- render docs/performance.json --page docs/performance.md

{machine}

[benchmarks/README.md](../benchmarks/README.md) says how it is measured. In short: each figure comes from a fresh
process, the contenders take turns, a ratio is taken within one round, and every workload checks its results. Shown is
the median{spread}.
*Noise* is the ratio of a second ProcessPoolExecutor (fork) to the first, which should be 1: a difference that is not
greater means nothing. Absolute figures belong to that machine at that hour.

## Where CrewExecutor loses

{losses}

## All rows

^ higher is better, v lower is better. The best of the others is the best pool of processes: ThreadPoolExecutor sends
nothing to any process, so it is compared in the tables below only.

{summary}

{plot}
## Row by row

The figure first, then its ratio, then what else was seen on the way (medians).

{rows}
"""


def page(results: Results, plot: str | None) -> str:
    """Write the page; `plot` is the path of the picture as the page links it."""
    rows = "\n\n".join(
        f'### <a id="{key}"></a>{row.title}\n\n{row.definition}\n\n{row_table(results, key)}'
        for key, row in results.rows.items()
    )
    picture = "" if plot is None else f"![Times better than the baseline, for each row and contender]({plot})\n"
    several = ", with the least and the greatest of the rounds" if results.settings["rounds"] > 1 else " of one round"
    return PAGE.format(
        machine=machine(results), losses=losses(results), summary=summary(results), plot=picture, rows=rows,
        spread=several,
    )  # fmt: skip


def machine(results: Results) -> str:
    """Say on what, when, and with which versions it was measured."""
    facts, settings = results.machine, results.settings
    size = "quick sizes: for trying only" if settings["is_quick"] else "large" if settings["is_large"] else "ordinary"
    load = " to ".join(f"{value:g}" for value in facts.get("load", []))
    lines = [
        ["date", results.date],
        ["processor", f"{facts['cpus']} CPUs, {facts['processor'] or 'unnamed'}"],
        ["memory, system", f"{facts['memory_gb']} GB, {facts['system']} {facts['architecture']}"],
        ["Python", facts["python"]],
        ["workers, rounds, sizes", f"{settings['workers']}, {settings['rounds']}, {size}"],
        ["load of the machine, from beginning to end", load],
        *([["remark", facts["remark"]]] if facts.get("remark") else []),
        ["versions", ", ".join(f"{who.title} {who.version or '(not installed)'}"
                               for name, who in results.contenders.items() if name != AGAIN)],
    ]  # fmt: skip
    return table(["", ""], lines)


def losses(results: Results) -> str:
    """List the bars that were missed, and for each row who was ahead of us in every round."""
    missed = [
        f"- {row.title}: {bar_text(results, row, bar)}"
        for row in results.rows.values()
        for bar in row.bars
        if (reached := row.reached(bar)) is not None and not reached[1]
    ]
    ahead = [f"- {row.title}: {names}" for row in results.rows.values() if (names := _ahead(results, row))]
    return "\n\n".join([
        "Bars that we have set ourselves and not reached (what was measured in brackets):",
        _listed(missed),
        "Pools of processes that were ahead in every round, and how many times better (median):",
        _listed(ahead),
    ])  # fmt: skip


def _ahead(results: Results, row: RowResults) -> str:
    return ", ".join(
        f"{title(results, name)} {number(better.median)}x"
        for name in row.ahead_of_us()
        if (better := spread_of(row.times_better(name, OURS)))
    )


def _listed(lines: list[str]) -> str:
    return "\n".join(lines) or "- nothing"
