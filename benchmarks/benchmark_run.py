"""Runs measurements, one at a time, each in a fresh process with a time limit; the contenders take turns.

A measurement that fails costs its cell, not the run. Whatever it has started is killed after it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from benchmark_contenders import CONTENDERS
from benchmark_processes import MARK
from benchmark_results import Cell, Results, RowResults, Who
from benchmark_row import Settings
from benchmark_rows import ROWS
from leftovers import adopt_orphans, collect_children, kill_marked

CELL_SCRIPT = Path(__file__).with_name("benchmark_cell.py")
TIMED_OUT = "timed out"
NOT_OFFERED = "not offered"


def run(
    rows: Sequence[str],
    contenders: Sequence[str],
    rounds: int,
    settings: Settings,
    keep: Callable[[Results], None],
    remark: str = "",
) -> Results:
    """Measure every row with every contender so many times; after each row the results so far are kept."""
    adopt_orphans()
    here = {name: Who(CONTENDERS[name].title, CONTENDERS[name].version_or_none()) for name in contenders}
    facts = {**asdict(settings), "rounds": 0}
    results = Results(
        time.strftime("%Y-%m-%d"), _machine(), facts, here, {key: RowResults.of(ROWS[key]) for key in rows}
    )
    results.machine["remark"] = remark
    load = [os.getloadavg()[0]]
    for done in range(rounds):
        # Who goes first changes, for the second may find a warmer machine.
        order = contenders if done % 2 == 0 else contenders[::-1]
        facts["rounds"] = done + 1
        for row in rows:
            for contender in (name for name in order if CONTENDERS[name].takes_part_in(row)):
                cell = _cell(results, row, contender, settings)
                results.rows[row].cells.setdefault(contender, []).append(cell)
                _tell(f"{done + 1}/{rounds} {row:16} {contender:12} {cell.problem or f'{cell.figure:,.4g}'}")
            results.machine["load"] = [round(value, 1) for value in [*load, os.getloadavg()[0]]]
            keep(results)
    return results


def _cell(results: Results, row: str, contender: str, settings: Settings) -> Cell:
    """Measure, unless it is known that there is nothing to measure."""
    if results.contenders[contender].version is None:
        return Cell(problem="not installed")
    earlier = results.rows[row].cells.get(contender, [])
    if earlier and earlier[-1].problem.startswith((NOT_OFFERED, TIMED_OUT)):
        return earlier[-1]
    return measure_in_fresh_process(row, contender, settings)


def measure_in_fresh_process(row: str, contender: str, settings: Settings) -> Cell:
    """Return what one process measured; it and all that it has started are gone then."""
    mark = f"benchmark-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as directory:
        told = Path(directory) / "told"
        command = [sys.executable, str(CELL_SCRIPT), row, contender, json.dumps(asdict(settings)), str(told)]
        with (Path(directory) / "output").open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=os.environ | {MARK: mark}, start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = process.wait(ROWS[row].seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                kill_marked(MARK, mark)
                process.wait()
                collect_children()
        if told.exists():
            cell = Cell(**json.loads(told.read_text()))
        elif code is None:
            cell = Cell(problem=f"{TIMED_OUT} after {ROWS[row].seconds:g} s")
        else:
            cell = Cell(problem=f"failed: the process ended with exit code {code}")
        if cell.figure is None and not cell.problem.startswith(NOT_OFFERED):
            _tell((Path(directory) / "output").read_text(errors="replace")[-3000:])
    return cell


def _machine() -> dict[str, Any]:
    """Say what it is measured on, without a name of the machine."""
    return {
        "processor": _processor(),
        "cpus": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Return the processor's name as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
