"""Measures CrewExecutor against ProcessPoolExecutor in one run and prints absolute figures and their ratios.

Each figure comes from a fresh process of its own; the contenders take turns, so a slow minute of the machine hits both,
and ratios are taken within each turn. Every workload checks its results. Nothing here asserts a time. README.md says
what the rows mean.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import multiprocessing
import operator
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BASELINE = "pool"
SECONDS_PER_MEASUREMENT = 600

# By row and contender, one figure per repetition.
Figures = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Settings:
    """What the measuring processes are told."""

    workers: int = 2
    tasks: int = 20_000
    prototype: str | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    unit: str
    better: str
    measure: Callable[[str, Settings], float]


# ---------------------------------------------------------------------------------------------------------- contenders


def make_executor(contender: str, settings: Settings) -> Executor:
    """Make a contender with the given number of workers."""
    if contender == BASELINE:
        return ProcessPoolExecutor(settings.workers, mp_context=multiprocessing.get_context("fork"))
    if contender == "crew":
        from crew_executor import CrewExecutor

        return CrewExecutor(settings.workers)
    assert contender == "prototype", contender
    assert settings.prototype is not None
    prototype: Executor = _load_prototype(settings.prototype).Prototype(settings.workers)
    return prototype


def _load_prototype(path: str) -> Any:
    specification = importlib.util.spec_from_file_location("prototype", path)
    assert specification is not None, path
    assert specification.loader is not None, path
    module = importlib.util.module_from_spec(specification)
    # Its workers are not forked and its tasks are not its own functions, but pickle may look for the module.
    sys.modules["prototype"] = module
    specification.loader.exec_module(module)
    return module


def warm_up(executor: Executor, settings: Settings) -> None:
    """Have every worker started and every path used once, so that a figure is about the steady state."""
    naps = [executor.submit(time.sleep, 0.05) for _ in range(4 * settings.workers)]
    adds = [executor.submit(operator.add, 1, number) for number in range(500)]
    assert [future.result() for future in naps] == [None] * len(naps)
    assert [future.result() for future in adds] == list(range(1, 501))


# ----------------------------------------------------------------------------------------------------------- workloads


def measure_throughput(contender: str, settings: Settings) -> float:
    """No-op tasks per second: submit all, then ask for all results."""
    with make_executor(contender, settings) as executor:
        warm_up(executor, settings)
        began = time.perf_counter()
        futures = [executor.submit(operator.add, 1, number) for number in range(settings.tasks)]
        results = [future.result() for future in futures]
        seconds = time.perf_counter() - began
    assert results == list(range(1, settings.tasks + 1))
    return settings.tasks / seconds


def measure_round_trip(contender: str, settings: Settings) -> float:
    """Median microseconds from submit to result, one task at a time."""
    trips = []
    with make_executor(contender, settings) as executor:
        warm_up(executor, settings)
        for number in range(1500):
            began = time.perf_counter()
            result = executor.submit(operator.add, 1, number).result()
            trips.append(time.perf_counter() - began)
            assert result == number + 1
    return statistics.median(trips) * 1e6


def measure_start_up(contender: str, settings: Settings) -> float:
    """Milliseconds from constructing the executor to its first result; the imports are done, all else is cold."""
    if contender == "crew":
        importlib.import_module("crew_executor")
    elif contender == "prototype":
        assert settings.prototype is not None
        _load_prototype(settings.prototype)
    began = time.perf_counter()
    with make_executor(contender, settings) as executor:
        result = executor.submit(operator.add, 1, 1).result()
        seconds = time.perf_counter() - began
    assert result == 2
    return seconds * 1e3


def measure_map(contender: str, settings: Settings, **arguments: int) -> float:
    """Items per second through map."""
    with make_executor(contender, settings) as executor:
        warm_up(executor, settings)
        began = time.perf_counter()
        results = list(executor.map(operator.add, itertools.repeat(1), range(settings.tasks), **arguments))
        seconds = time.perf_counter() - began
    assert results == list(range(1, settings.tasks + 1))
    return settings.tasks / seconds


def measure_map_in_chunks(contender: str, settings: Settings) -> float:
    """Items per second through map with chunksize=100."""
    return measure_map(contender, settings, chunksize=100)


def measure_efficiency(contender: str, settings: Settings) -> float:
    """Percent of the ideal speed-up with tasks that compute for 1 ms: serial seconds / workers / seconds here."""
    size, seconds_each = _size_of_one_millisecond()
    expected, count = sum(range(size)), 500 * settings.workers
    with make_executor(contender, settings) as executor:
        warm_up(executor, settings)
        began = time.perf_counter()
        futures = [executor.submit(sum, range(size)) for _ in range(count)]
        results = [future.result() for future in futures]
        seconds = time.perf_counter() - began
    assert results == [expected] * count
    return 100 * count * seconds_each / settings.workers / seconds


def _size_of_one_millisecond() -> tuple[int, float]:
    """Find the n for which sum(range(n)) takes about a millisecond here, and how long it then takes."""

    def seconds_of(size: int) -> float:
        began = time.perf_counter()
        for _ in range(50):
            sum(range(size))
        return (time.perf_counter() - began) / 50

    size = 20_000
    for _ in range(3):
        size = max(1, round(size * 0.001 / seconds_of(size)))
    return size, statistics.median(seconds_of(size) for _ in range(5))


ROWS: dict[str, Row] = {
    "throughput": Row("no-op submit", "tasks/s", "higher", measure_throughput),
    "round-trip": Row("round trip p50", "us", "lower", measure_round_trip),
    "start-up": Row("start-up", "ms", "lower", measure_start_up),
    "map": Row("map", "items/s", "higher", measure_map),
    "map-chunks": Row("map, chunksize=100", "items/s", "higher", measure_map_in_chunks),
    "efficiency": Row("1 ms tasks", "% of ideal", "higher", measure_efficiency),
}


# ------------------------------------------------------------------------------------------------------------- the run


def measure_in_fresh_process(row: str, contender: str, settings: Settings) -> float:
    """Return one figure, measured by this script in a process of its own."""
    command = [sys.executable, __file__, "--measure", row, contender, json.dumps(asdict(settings))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=SECONDS_PER_MEASUREMENT, check=False)
    if done.returncode:
        raise SystemExit(f"{row} of {contender} ended with exit code {done.returncode}; its words are above")
    return float(done.stdout.splitlines()[-1])


def run(rows: list[str], contenders: list[str], repetitions: int, settings: Settings) -> Figures:
    """Measure every row with every contender, in turns."""
    figures: Figures = {row: {name: [] for name in contenders} for row in rows}
    for repetition in range(repetitions):
        # Who goes first changes, for the second may find a warmer machine.
        order = contenders if repetition % 2 == 0 else contenders[::-1]
        for row, contender in itertools.product(rows, order):
            figures[row][contender].append(measure_in_fresh_process(row, contender, settings))
            if sys.stderr.isatty():
                print(f"{repetition + 1}/{repetitions} {row:12} {contender:10}", end="\r", file=sys.stderr, flush=True)
    return figures


def ratios(figures: dict[str, list[float]], contender: str) -> list[float]:
    """Divide a contender's figures by those of ProcessPoolExecutor of the same turn."""
    return [own / base for own, base in zip(figures[contender], figures[BASELINE], strict=True)]


def spread(values: list[float], digits: int) -> str:
    """Write min, median and max."""
    return " / ".join(f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))


def print_table(figures: Figures) -> None:
    """Print each row: figures of each contender, and ratios to ProcessPoolExecutor, as min / median / max."""
    print(f"{'':20} {'contender':10} {'min / median / max':>32} {'unit':12} {'better':7} {f'ratio to {BASELINE}':>22}")
    for key, by_contender in figures.items():
        row = ROWS[key]
        for contender, values in by_contender.items():
            title = row.title if contender == next(iter(by_contender)) else ""
            digits = 0 if statistics.median(values) >= 100 else 1
            ratio = "" if contender == BASELINE else spread(ratios(by_contender, contender), 2)
            print(f"{title:20} {contender:10} {spread(values, digits):>32} {row.unit:12} {row.better:7} {ratio:>22}")


def as_json(figures: Figures, repetitions: int, settings: Settings) -> dict[str, Any]:
    """Return all that is needed to compare this run with another one."""
    return {
        "machine": {
            "python": platform.python_version(),
            "system": platform.system(),
            "architecture": platform.machine(),
            "cpus": os.cpu_count(),
        },
        "settings": {"workers": settings.workers, "tasks": settings.tasks, "repetitions": repetitions},
        "rows": {
            key: {
                "unit": ROWS[key].unit,
                "better": ROWS[key].better,
                "figures": by_contender,
                "ratios": {name: ratios(by_contender, name) for name in by_contender if name != BASELINE},
            }
            for key, by_contender in figures.items()
        },
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"which rows (default: all of {', '.join(ROWS)})")
    parser.add_argument("--repetitions", type=int, default=5, help="turns of each contender (default: 5)")
    parser.add_argument("--workers", type=int, default=Settings.workers, help="workers of each pool (default: 2)")
    parser.add_argument("--tasks", type=int, default=Settings.tasks, help="tasks of a throughput row (default: 20000)")
    parser.add_argument("--prototype", metavar="PATH", help="also measure the Prototype class of this script")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures to this file")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        row, contender, settings = options.measure
        print(ROWS[row].measure(contender, Settings(**json.loads(settings))))
        return
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if options.repetitions < 1:
        parser.error("--repetitions must be 1 or more")
    settings = Settings(options.workers, options.tasks, options.prototype)
    contenders = ["crew", BASELINE, *(["prototype"] if options.prototype else [])]
    figures = run(options.rows or list(ROWS), contenders, options.repetitions, settings)
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {settings.workers} workers, "
          f"{options.repetitions} turns; pool is ProcessPoolExecutor (fork)")  # fmt: skip
    print_table(figures)
    if options.json:
        options.json.write_text(json.dumps(as_json(figures, options.repetitions, settings), indent=2) + "\n")


if __name__ == "__main__":
    main()
