"""Compares how CrewExecutor and other pools behave when things go wrong, and prints one table with notes.

Each cell runs in a fresh process, in a session of its own and with a time limit, so that one pool's death harms nobody;
whatever it has started is killed after it. A cell tells what was measured: no verdict is written down here, and no
contender is treated differently but through its adapter in behaviour_contenders.py. README.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from behaviour_attacks import ROWS as ATTACKS
from behaviour_contenders import CONTENDERS
from behaviour_ends import ROWS as ENDS
from behaviour_measure import CELL_MARK, Row, Verdict
from behaviour_rows import ROWS as COMMON
from leftovers import adopt_orphans, collect_children, kill_marked

ROWS: dict[str, Row] = {**COMMON, **ATTACKS, **ENDS}

CELL_SECONDS = 28.0
"""A cell that takes longer is killed: its futures had 15 s, the next tasks 5 s."""


@dataclass(frozen=True)
class Cell:
    """One contender in one row, as measured."""

    verdict: Verdict
    seconds: float
    stderr: str = ""

    @property
    def shown(self) -> str:
        """The verdict with its mark."""
        mark = {True: "✓", False: "✗", None: "-"}[self.verdict.is_clean]
        return f"{mark} {self.verdict.text}"


Cells = dict[str, dict[str, Cell]]


# ------------------------------------------------------------------------------------------------------- in the cell


def measure(row: str, contender: str, here: Path) -> None:
    """Run one cell in this process, write its verdict, and end without waiting for the pool."""
    try:
        verdict = ROWS[row].measure(CONTENDERS[contender], here)
    except BaseException as error:
        import traceback

        traceback.print_exc()
        verdict = Verdict("NOT MEASURED", is_clean=False, note=f"{type(error).__name__}: {error}")
    # Written under another name first: whoever finds the file finds all of it.
    (here / "writing").write_text(json.dumps([verdict.text, verdict.is_clean, verdict.note]))
    (here / "writing").rename(here / "verdict")
    sys.stderr.flush()
    os._exit(0)


# ------------------------------------------------------------------------------------------------------- around cells


class Runner:
    """Run cells, each in a fresh process, and leave no process behind."""

    def __init__(self) -> None:
        self._mark = f"behaviour-{uuid.uuid4().hex}"
        self._number = 0
        self._lock = threading.Lock()

    def run(self, row: str, contender: str) -> Cell:
        """Return what one cell says."""
        with self._lock:
            self._number += 1
            mark = f"{self._mark}-{self._number}-"
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="behaviour-", ignore_cleanup_errors=True) as directory:
            here = Path(directory)
            with (here / "stderr").open("wb") as stderr:
                process = subprocess.Popen(
                    [sys.executable, __file__, "--measure", row, contender, directory],
                    stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
                    env=os.environ | {CELL_MARK: mark}, start_new_session=True,
                )  # fmt: skip
            try:
                verdict = _verdict_of(process, here)
            finally:
                kill_marked(CELL_MARK, mark)
                process.wait()
            tail = (here / "stderr").read_text(errors="replace")[-2000:]
        return Cell(verdict, time.monotonic() - began, tail)

    def close(self) -> None:
        """Kill and collect whatever is left of any cell. No cell may be running."""
        self.kill()
        collect_children()

    def kill(self) -> None:
        """Kill every cell and whatever it has started."""
        kill_marked(CELL_MARK, self._mark)


def _verdict_of(process: subprocess.Popen[bytes], here: Path) -> Verdict:
    try:
        code = process.wait(CELL_SECONDS)
    except subprocess.TimeoutExpired:
        return Verdict("CLIENT HANGS", is_clean=False, note=f"the client was not done after {CELL_SECONDS:g} s")
    if not (here / "verdict").exists():
        return Verdict("CLIENT DIES", is_clean=False, note=f"the client ended with exit code {code}")
    return Verdict(*json.loads((here / "verdict").read_text()))


def run_all(rows: list[str], contenders: list[str], jobs: int) -> Cells:
    """Run every cell, some of them side by side; what is not installed is not run."""
    adopt_orphans()
    runner = Runner()
    try:
        with ThreadPoolExecutor(jobs) as threads:
            futures = {
                (row, contender): threads.submit(runner.run, row, contender)
                for row in rows
                for contender in contenders
                if CONTENDERS[contender].is_installed
            }
            try:
                return _collect(rows, contenders, futures)
            except BaseException:  # a Ctrl-C: nothing more is started
                threads.shutdown(wait=False, cancel_futures=True)
                runner.kill()
                raise
    finally:
        runner.close()


def _collect(rows: list[str], contenders: list[str], futures: dict[tuple[str, str], Any]) -> Cells:
    missing = Cell(Verdict("not installed", is_clean=None), 0.0)
    cells: Cells = {}
    for row in rows:
        cells[row] = {}
        for contender in contenders:
            future = futures.get((row, contender))
            cells[row][contender] = missing if future is None else future.result()
            if sys.stderr.isatty():
                print(f"{len(cells)}/{len(rows)} {row:30} {contender:8}", end="\r", file=sys.stderr, flush=True)
    return cells


# --------------------------------------------------------------------------------------------------------- the report


def title_of(contender: str) -> str:
    """Return a column's title."""
    found = CONTENDERS[contender]
    return found.title if found.is_installed else found.name


PAGE_HEAD = """# What happens when things go wrong

Each row is one accident, done to each pool in fresh processes: a worker that dies, an exception that cannot be pickled,
a Ctrl-C, a killed client. Printed by `tox -e behaviour -- --page` on {date}: {system}, {processors} processors, CPython
{python}. [benchmarks/README.md](../benchmarks/README.md) says how it is measured. A row where another pool is better
stays here until it is not.
"""


def print_report(cells: Cells, contenders: list[str], *, is_page: bool) -> None:
    """Print the table and the notes, as Markdown; for a page of the documentation without what each cell noted."""
    if is_page:
        facts = {"date": time.strftime("%Y-%m-%d"), "system": platform.system(), "processors": os.cpu_count()}
        print(PAGE_HEAD.format(python=platform.python_version(), **facts))
    print("| | " + " | ".join(title_of(contender) for contender in contenders) + " |")
    print("|---" * (len(contenders) + 1) + "|")
    for row, by_contender in cells.items():
        print(f"| {ROWS[row].title} | " + " | ".join(by_contender[name].shown for name in contenders) + " |")
    clean = [sum(by[name].verdict.is_clean is True for by in cells.values()) for name in contenders]
    print("| **clean** | " + " | ".join(f"**{number} of {len(cells)}**" for number in clean) + " |")
    print("\n✓ clean, ✗ not clean, - not offered or not installed. What is clean is said for each row:\n")
    for row, by_contender in cells.items():
        print(f"- **{ROWS[row].title}** (`{row}`). {ROWS[row].definition}")
        for name in [] if is_page else contenders:
            if note := by_contender[name].verdict.note:
                print(f"  - {CONTENDERS[name].name}: {note}")


def as_json(cells: Cells, contenders: list[str]) -> dict[str, Any]:
    """Return all that was measured."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "contenders": {name: title_of(name) for name in contenders},
        "rows": {
            row: {
                "title": ROWS[row].title,
                "definition": ROWS[row].definition,
                "cells": {
                    name: {
                        "verdict": cell.verdict.text, "clean": cell.verdict.is_clean, "note": cell.verdict.note,
                        "seconds": round(cell.seconds, 1), "stderr": cell.stderr,
                    }
                    for name, cell in by_contender.items()
                },
            }
            for row, by_contender in cells.items()
        },
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", metavar="PATTERN", default="", help="only rows whose name this pattern is found in")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="which, with commas (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all that was measured to this file")
    parser.add_argument("--page", action="store_true", help="print a page for docs/, without the notes of each cell")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        row, contender, directory = options.measure
        measure(row, contender, Path(directory))
    contenders = options.contenders.split(",")
    if unknown := set(contenders) - set(CONTENDERS):
        parser.error(f"no such contender: {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    rows = [row for row in ROWS if re.search(options.rows, row)]
    if not rows:
        parser.error(f"no row is named like {options.rows}; there are {', '.join(ROWS)}")
    if options.jobs < 1:
        parser.error("--jobs must be 1 or more")
    cells = run_all(rows, contenders, options.jobs)
    print_report(cells, contenders, is_page=options.page)
    if options.json:
        options.json.write_text(json.dumps(as_json(cells, contenders), indent=2) + "\n")


if __name__ == "__main__":
    main()
