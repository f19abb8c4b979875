"""`ps --watch`: executors as they are now, again every second: workers, queue, rates, last errors.

With rich (the extra `watch`) a table that stays in its place, for a terminal; without, or where stdout
is none, lines. Why rich: it redraws without flicker, fits a table to the width, and knows what terminals can do. Finds
out nothing by itself: it shows what it is given.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from .callers import Household

SECONDS = 1.0
WORKERS_SHOWN = 12
ERRORS_SHOWN = 3
ERROR_CHARACTERS = 160


class Screen(Protocol):
    """Where what is found is shown."""

    def show(self, rows: list[Row], others: list[str]) -> None:
        """Show it in place of what was shown before."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Row(NamedTuple):
    """One executor.

    Attributes:
        run, name, client: which, and whose.
        workers: how many in which state, in words; `lines`: one for each of the first of them.
        queued, running, done, failed: tasks.
        rate: tasks done a second since the last look, or None.
        errors: the last ones.
    """

    run: str
    name: str
    client: str
    workers: str
    lines: list[str]
    queued: int
    running: int
    done: int
    failed: int
    rate: float | None
    errors: list[str]


class Rates:
    """How many tasks an executor does in a second: between two looks."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int]] = {}

    def look(self, run: str, done: int, now: float) -> float | None:
        """Return the rate since the last look at this run, or None at the first."""
        before, self._before[run] = self._before.get(run), (now, done)
        if before is None or now <= before[0]:
            return None
        return max(0, done - before[1]) / (now - before[0])


def rows_of(households: list[Household], rates: Rates, now: float) -> list[Row]:
    """Return a row for each executor that has answered."""
    return [
        _row(household, executor, rates, now)
        for household in households
        for executor in household.executors
        if household.answers == "client"
    ]


def _row(household: Household, executor: dict[str, Any], rates: Rates, now: float) -> Row:
    states: dict[str, int] = {}
    for worker in executor["workers"]:
        states[worker["state"]] = states.get(worker["state"], 0) + 1
    words = ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "none"
    busiest = sorted(executor["workers"], key=lambda worker: (worker["state"] != "busy", -worker["tasks"]))
    lines = [
        f"{worker['name']}  {worker['host']}  {worker['state']}  {worker['tasks']} tasks, {worker['seconds']:.1f} s"
        for worker in busiest[:WORKERS_SHOWN]
    ]
    if len(busiest) > WORKERS_SHOWN:
        lines.append(f"and {len(busiest) - WORKERS_SHOWN} more")
    return Row(
        executor["run"], executor["name"], str(household.client_pid), f"{words} of at most {executor['max_workers']}",
        lines, executor["queued"], executor["running"], executor["done"], executor.get("failed", 0),
        rates.look(executor["run"], executor["done"], now), executor.get("errors", [])[-ERRORS_SHOWN:],
    )  # fmt: skip


def rate_in_words(rate: float | None) -> str:
    """Return "123/s", or nothing as long as it is not known."""
    return "" if rate is None else f"{rate:,.0f}/s" if rate >= 10 or rate == 0 else f"{rate:.1f}/s"


def lines_of(rows: list[Row], others: list[str]) -> list[str]:
    """Return all of it as plain lines."""
    lines = []
    for row in rows:
        rate, failed = rate_in_words(row.rate), f", {row.failed} failed" if row.failed else ""
        tasks = f"{row.queued} queued, {row.running} running, {row.done} done{failed}" + (f"; {rate}" if rate else "")
        lines.append(f"run {row.run}  {row.name}  (client {row.client})  {tasks}; workers: {row.workers}")
        lines += _indented(row.lines)
        lines += [f"    error: {error[:ERROR_CHARACTERS]}" for error in row.errors]
    return lines + others


def screen_for(line: Callable[[str], None], clear: str, is_live: bool) -> Screen:
    """Return rich's, if it is installed and stdout is a terminal; else one of plain lines.

    Args:
        line: writes lines.
        clear: what empties the terminal, or nothing.
        is_live: whether stdout is a terminal.
    """
    if is_live and importlib.util.find_spec("rich") is not None:
        return _RichScreen()
    return _PlainScreen(line, clear)


class _PlainScreen:
    def __init__(self, line: Callable[[str], None], clear: str) -> None:
        self._line = line
        self._clear = clear

    def show(self, rows: list[Row], others: list[str]) -> None:
        shown = lines_of(rows, others) or ["no executor of this user is running on this machine"]
        self._line(self._clear + "\n".join(shown))

    def close(self) -> None: ...  # it has changed nothing


class _RichScreen:
    """Redrawn in its place, on the terminal's other page, which is left at the end: a table, and more of each row."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(screen=True, auto_refresh=False)
        self._live.start()

    def show(self, rows: list[Row], others: list[str]) -> None:
        from rich.console import Group

        self._live.update(Group(*self._parts(rows, others)), refresh=True)

    @classmethod
    def _parts(cls, rows: list[Row], others: list[str]) -> list[Any]:
        from rich.text import Text

        title = Text(time.strftime("%H:%M:%S  executors of this user; Ctrl-C ends this, not them"), style="dim")
        parts: list[Any] = [title]
        if rows:
            parts += [Text(""), cls._table(rows)]
        for row in rows:
            if row.lines or row.errors:
                parts += [Text(""), Text(f"{row.name} {row.run[:8]}", style="bold"), *map(Text, _indented(row.lines))]
                errors = _indented([error[:ERROR_CHARACTERS] for error in row.errors])
                parts += [Text(error, style="red") for error in errors]
        parts += map(Text, others or ([] if rows else ["no executor of this user is running on this machine"]))
        return parts

    @staticmethod
    def _table(rows: list[Row]) -> Any:
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
        for name in ("executor", "client", "queued", "running", "done", "failed", "rate", "workers"):
            is_number = name in ("queued", "running", "done", "failed", "rate")
            may_wrap = name in ("executor", "workers")  # on a narrow terminal: no head and no figure is cut
            table.add_column(
                name, justify="right" if is_number else "left", header_style="dim", no_wrap=not may_wrap,
                overflow="fold", min_width=len(name),
            )  # fmt: skip
        for row in rows:
            failed = f"[bold red]{row.failed}[/]" if row.failed else "0"
            table.add_row(
                f"[bold]{_plain(row.name)}[/] {row.run[:8]}", row.client, f"{row.queued:,}", f"{row.running:,}",
                f"{row.done:,}", failed, rate_in_words(row.rate), _plain(row.workers),
            )  # fmt: skip
        return table

    def close(self) -> None:
        self._live.stop()


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _plain(text: str) -> str:
    """Return a text in which rich finds no markup."""
    return text.replace("[", "\\[")
