"""How fast workers on other hosts are: through one agent over loopback, on two hosts, and 1,000 agents at a time.

Rows, each in a fresh process per contender and round; the contenders take turns. README.md explains it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark_processes import MARK
from leftovers import adopt_orphans, collect_children, kill_marked
from network_row import Cell, Row, Settings, is_installed
from network_rows import ROWS
from network_table import render

CELL_SCRIPT = Path(__file__).with_name("network_cell.py")
QUICK = Settings(
    tasks=1_000, slow_tasks=100, round_trips=20, megabytes=10, repeats=2, agents=40, light_tasks=1_000, jobs=1
)
STRIKES = 2
"""A contender that has failed so often in a row of the table is not tried in later rounds."""

Cells = dict[str, dict[str, list[Cell]]]
"""By row and contender: one for each round."""


def run(rows: Sequence[Row], contenders: Sequence[str], rounds: int, settings: Settings) -> Cells:
    """Measure everything so many times."""
    cells: Cells = {row.key: {} for row in rows}
    for number in range(rounds):
        for row in rows:
            names = [name for name in row.contenders if not contenders or name in contenders]
            # Who begins changes, for the second may find a warmer machine.
            for name in names if number % 2 == 0 else names[::-1]:
                found = cells[row.key].setdefault(name, [])
                found.append(cell := _cell(row, name, found, settings))
                _tell(f"{number + 1}/{rounds} {row.key:10} {name:8} {cell.problem or cell.words()}")
    return cells


def _cell(row: Row, name: str, earlier: Sequence[Cell], settings: Settings) -> Cell:
    missing = [module for module in row.contenders[name].modules if not is_installed(module)]
    if missing:
        return Cell(problem=f"not installed: {', '.join(missing)}")
    problems = [cell.problem for cell in earlier if cell.problem]
    if len(problems) >= STRIKES:
        return Cell(problem=problems[-1])
    return measure(row, name, settings)


def measure(row: Row, name: str, settings: Settings) -> Cell:
    """Return what one process measured; it and all that it has started are gone then."""
    mark = f"network-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="network-", ignore_cleanup_errors=True) as directory:
        told, output = Path(directory, "told"), Path(directory, "output")
        command = [sys.executable, str(CELL_SCRIPT), row.key, name, json.dumps(asdict(settings)), str(told)]
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=directory,
                env=os.environ | {MARK: mark}, start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = process.wait(row.seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                kill_marked(MARK, mark)
                process.wait()
                collect_children()
                if row.needs_hosts:
                    _remove_hosts()
        if told.exists():
            cell = Cell(**json.loads(told.read_text()))
        elif code is None:
            cell = Cell(problem=f"timed out after {row.seconds:g} s")
        else:
            cell = Cell(problem=f"failed: the process ended with exit code {code}")
        if cell.problem:
            _tell(output.read_text(errors="replace")[-3000:])
    return cell


def _remove_hosts() -> None:
    """Remove network hosts, and schedulers, that a killed process has left: whoever makes some removes these first."""
    from network_hosts import host_module

    hosts, slurm = host_module("hosts"), host_module("slurm")
    if hosts.FOLDER.exists() and hosts.missing() is None:
        with hosts.Hosts(0) as none:
            slurm.Daemons(none, Path())


def machine() -> dict[str, Any]:
    """Say what it is measured on, without a name of the machine."""
    versions = {}
    for name in ("crew-executor", "pynng", "numpy", "distributed", "parsl"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "date": time.strftime("%Y-%m-%d"), "cpus": os.cpu_count(), "system": platform.system(),
        "python": platform.python_version(), "load before": round(os.getloadavg()[0], 1), "versions": versions,
    }  # fmt: skip


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all if none is named")
    parser.add_argument("--contenders", default="", metavar="NAMES", help="only these, separated by commas")
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, meaningless figures; 1 round unless told")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"default: {value:,}")
    parser.add_argument("--json", metavar="FILE", help="write all figures there, too")
    options = parser.parse_args()
    unknown = [name for name in options.rows if name not in ROWS]
    known = {name for row in ROWS.values() for name in row.contenders}
    unknown += [name for name in filter(None, options.contenders.split(",")) if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; rows: {', '.join(ROWS)}; contenders: {', '.join(sorted(known))}")
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def main() -> int:
    """Run what the command line asks for; return 1 if anything could not be measured."""
    options = _options()
    settings = QUICK if options.quick else Settings()
    given = {name: getattr(options, name) for name in asdict(settings) if getattr(options, name) is not None}
    settings = Settings(**asdict(settings) | given)
    rows = [ROWS[name] for name in options.rows or ROWS]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # cleaning up behind what is measured
    adopt_orphans()
    facts = machine()
    cells = run(rows, list(filter(None, options.contenders.split(","))), options.rounds, settings)
    facts["load after"] = round(os.getloadavg()[0], 1)
    for row in rows:
        print(render(row, cells[row.key]))
    print(f"{options.rounds} rounds; {', '.join(f'{name} {value}' for name, value in asdict(settings).items())}")
    print(f"{json.dumps(facts)}")
    if options.json:
        figures = {
            key: {who: [asdict(each) for each in found] for who, found in row.items()} for key, row in cells.items()
        }
        kept = {"machine": facts, "rounds": options.rounds, "settings": asdict(settings), "rows": figures}
        Path(options.json).write_text(json.dumps(kept, indent=2) + "\n")
    return int(any(cell.problem for row in cells.values() for found in row.values() for cell in found))


if __name__ == "__main__":
    sys.exit(main())
