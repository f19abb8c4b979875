"""What the demo shows of its run: the facts, and how they are told. It judges nothing; see demo.py."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import demo_tasks
from .cpus import usable_cpus
from .demo_tasks import FileReport
from .report import Report

if TYPE_CHECKING:
    from .records import TaskRecord
    from .timeline import Timeline

SHOWN_SLOWEST = 5
SHOWN_WITH_FRAMES = 3
SHOWN_MAX = 12
SHOWN_WORKERS = 32

# A warning as it is compared and shown: class name, text, line.
Warned = tuple[str, str, int]


@dataclass
class Outcome:
    """What became of one file: a report or an error, and the warnings; from the pool also the task's record."""

    value: FileReport | None
    error: BaseException | None
    warned: tuple[Warned, ...]
    record: TaskRecord | None = None

    def result(self) -> tuple[object, ...]:
        """Return what must be the same wherever the task ran; an exception counts as its type and text."""
        return (self.value, type(self.error), str(self.error))


@dataclass
class Crash:
    """What became of the task whose worker was killed."""

    error: BaseException | None
    record: TaskRecord
    pid_killed: int | None
    is_pool_usable: bool


@dataclass
class PoolRun:
    """Everything the pool's run left behind."""

    outcomes: dict[Path, Outcome] = field(default_factory=dict)
    seconds: float = 0.0
    workers_before: int = 0
    workers_peak: int = 0
    workers_left: int = 0
    pids: set[int] = field(default_factory=set)
    crash: Crash | None = None
    timeline: Timeline | None = None


def records_of(pool_run: PoolRun) -> list[TaskRecord]:
    """Return the records of all tasks, that of the victim as well."""
    records = [outcome.record for outcome in pool_run.outcomes.values() if outcome.record]
    return records + ([pool_run.crash.record] if pool_run.crash else [])


def show_speed(pool_run: PoolRun, serial_seconds: float, workers: int, report: Report) -> None:
    """Show the totals and the speed-up, the start of the workers included."""
    values = [outcome.value for outcome in pool_run.outcomes.values() if outcome.value]
    report.heading("Result")
    report.line(
        f"  {sum(value.lines for value in values):,} lines, {sum(value.tokens for value in values):,} tokens, "
        f"{sum(value.functions for value in values):,} functions, {sum(value.classes for value in values):,} classes, "
        f"nested {max((value.nesting for value in values), default=0)} deep at most, "
        f"{sum(value.branches for value in values):,} branches"
    )
    text_bytes = sum(value.text_bytes for value in values)
    zlib_bytes = sum(value.zlib_bytes for value in values)
    lzma_bytes = sum(value.lzma_bytes or 0 for value in values)
    packed = f"zlib {zlib_bytes / 1e6:.2f} MB, " + (f"lzma {lzma_bytes / 1e6:.2f} MB" if lzma_bytes else "no lzma here")
    report.line(f"  {text_bytes / 1e6:.2f} MB of text compressed to: {packed}")
    speedup = serial_seconds / pool_run.seconds if pool_run.seconds else 0.0
    held = ", although one worker was held and killed" if pool_run.crash else ""
    report.line(
        f"  speed-up {speedup:.2f}x on at most {workers_in_words(workers)}: {pool_run.seconds:.2f} s on the pool, "
        f"its start from 0 workers included; {serial_seconds:.2f} s serially{held}"
    )


def show_load(report: Report) -> None:
    """Say so when this machine is busy already: then the speed-up tells more about the others than about the pool."""
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > usable_cpus() / 2:
        cpus = usable_cpus()
        report.line(
            f"  this machine is busy already: a load of {load:.1f} on {cpus} CPUs; expect less speed-up than usual"
        )


def show_workers(pool_run: PoolRun, report: Report) -> None:
    """Show what each worker did, those that have left included: their tasks' records remember them."""
    tasks: dict[tuple[str, int], list[float]] = {}
    for record in records_of(pool_run):
        if record.worker:
            tasks.setdefault((record.worker, record.pid or 0), []).append(record.seconds or 0.0)
    report.heading("Workers")
    busiest = sorted(tasks.items(), key=lambda entry: -sum(entry[1]))
    report.table(
        ("name", "pid", "tasks", "busy s"),
        [(name, str(pid), str(len(busy)), f"{sum(busy):.2f}") for (name, pid), busy in busiest[:SHOWN_WORKERS]],
    )
    _show_rest(len(busiest) - SHOWN_WORKERS, report)


def show_slowest(outcomes: dict[Path, Outcome], report: Report) -> None:
    """Show the tasks that took longest, with their records' timing."""
    timed = [(file, outcome.record) for file, outcome in outcomes.items() if outcome.record]
    timed.sort(key=lambda entry: -(entry[1].seconds or 0.0))
    report.heading("Slowest tasks")
    rows = [
        (*map(_seconds, (one.seconds, one.cpu_seconds, one.queue_seconds)), one.worker or "-", _short(file))
        for file, one in timed[:SHOWN_SLOWEST]
    ]
    report.table(("seconds", "cpu s", "queued s", "worker", "file"), rows)


def show_errors(outcomes: dict[Path, Outcome], report: Report) -> None:
    """Show the files that failed, the first with the frames in which they failed, in the worker."""
    failed = [(file, outcome, outcome.error) for file, outcome in sorted(outcomes.items()) if outcome.error]
    report.heading(f"Errors that the files caused: {len(failed)}")
    if not failed:
        report.line("  every file could be read and compiled")
    for index, (file, outcome, error) in enumerate(failed[:SHOWN_MAX]):
        report.line(f"  {_short(file)}: {type(error).__name__}: {_first_line(error)}")
        if outcome.record and index < SHOWN_WITH_FRAMES:
            report.line(f"    raised in worker {outcome.record.worker}, process {outcome.record.pid}:")
            for frame in remote_frames(error):
                report.line(f"      {Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}")
    _show_rest(len(failed) - SHOWN_MAX, report)


def show_warnings(outcomes: dict[Path, Outcome], report: Report) -> None:
    """Show what compiling the files warned of, as the tasks' records tell it."""
    warned = [(file, outcome, one) for file, outcome in sorted(outcomes.items()) for one in outcome.warned]
    report.heading(f"Warnings that the files caused: {len(warned)}")
    if not warned:
        report.line("  no file made Python warn")
    for file, outcome, (category, text, lineno) in warned[:SHOWN_MAX]:
        worker = outcome.record.worker if outcome.record else None
        report.line(f"  {_short(file)}:{lineno}: {category}: {text} (worker {worker})")
    _show_rest(len(warned) - SHOWN_MAX, report)


def show_crash(pool_run: PoolRun, report: Report) -> None:
    """Show the error of the task whose worker was killed."""
    if pool_run.crash:
        error, record = pool_run.crash.error, pool_run.crash.record
        report.heading("The task whose worker was killed")
        report.line(f"  {type(error).__name__}: {error}")
        where = f"worker {record.worker}, pid {record.pid}, host {record.host}"
        report.line(f"  its record: status {record.status}, {where}")


def remote_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the traceback's frames from the demo's task on: those of the worker."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [index for index, frame in enumerate(frames) if Path(frame.filename).name == Path(demo_tasks.__file__).name]
    return list(frames[own[0] :]) if own else []


def _show_rest(count: int, report: Report) -> None:
    if count > 0:
        report.line(f"  and {count} more")


def workers_in_words(count: int) -> str:
    """Return "1 worker", or "3 workers"."""
    return "1 worker" if count == 1 else f"{count} workers"


def _short(file: Path) -> str:
    return str(Path(*file.parts[-3:]))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3f}"
