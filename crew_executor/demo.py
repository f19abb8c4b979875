"""The command `demo`: analyse a source tree on a CrewExecutor, show what happened, and prove it against a serial run.

Rule: the demo invents nothing. The files, their errors and warnings, the timing and the processes are real, and what it
claims it has checked. Order: choose files, run on the pool, watch it shrink, run serially, show, judge.
"""

from __future__ import annotations

import argparse
import os
import signal
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from .cpus import usable_cpus
from .demo_show import (
    Crash,
    Outcome,
    PoolRun,
    records_of,
    remote_frames,
    show_crash,
    show_errors,
    show_load,
    show_slowest,
    show_speed,
    show_warnings,
    show_workers,
    workers_in_words,
)  # fmt: skip
from .demo_tasks import FileReport, analyse_file, hold_worker
from .errors import CrewError, WorkerCrashError
from .report import Report

if TYPE_CHECKING:
    from .executor import CrewExecutor
    from .futures import CrewFuture

__all__ = ["add_arguments", "run"]

FILES_DEFAULT = 600  # of the standard library's 1,700: about 20 s of work on one core
FILES_QUICK = 150
QUICK_BYTES = range(1_000, 16_001)  # a tiny file is no work
# Names of the standard library's test data that are there to fail or to warn. A sample always includes them.
TELLING_NAMES = ("bad", "grammar", "syntax")
SKIPPED_DIRECTORIES = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})

IDLE_SECONDS = 1.0
POLL_SECONDS = 0.1
SHRINK_SECONDS_MAX = 20.0
STALL_SECONDS_MAX = 120.0  # no file takes as long: then the pool hangs, and the demo must say so rather than hang too
VICTIM_SECONDS_MAX = 90.0
VICTIM_SECONDS_HELD = 0.3
WARNINGS_KEPT_MAX = 100  # a record keeps no more of one task


@dataclass
class Verdict:
    """The claims of the demo and whether each held."""

    report: Report
    failed: list[str] = field(default_factory=list)

    def check(self, claim: str, holds: bool, otherwise: str) -> None:
        """Show a claim that holds, or what was seen instead."""
        self.report.line(f"  ok      {claim}" if holds else f"  FAILED  {claim}: {otherwise}")
        if not holds:
            self.failed.append(f"{claim}: {otherwise}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `demo`."""
    path_help = "a directory of Python files, or one file (default: this Python's standard library)"
    parser.add_argument("path", nargs="?", type=_existing_path, metavar="PATH", help=path_help)
    workers_help = "the most workers at a time (default: one per CPU)"
    parser.add_argument("--workers", type=_positive, metavar="N", help=workers_help)
    parser.add_argument("--quick", action="store_true", help=f"only about {FILES_QUICK} small files")
    timeline_help = "where to write the timeline of the run, .html or .json (default: a page among the temporary files)"
    parser.add_argument("--timeline", metavar="FILE", help=timeline_help)
    parser.add_argument("--break", action="store_true", dest="breaks", help="also kill a worker in mid-task")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and return its exit status: 0 when every check holds, else 1."""
    report = Report()
    files = choose_files(arguments.path, arguments.quick, report)
    if not files:
        report.line("There is nothing to analyse: no Python file was found. Name a directory with some: demo PATH")
        return 1
    workers = arguments.workers or usable_cpus()
    try:
        pool_run = run_on_pool(files, workers, arguments.breaks, report)
    except CrewError as error:
        report.line(f"The demo failed: the pool cannot go on: {type(error).__name__}: {error}")
        return 1
    serial, serial_seconds = run_serially(files, report)
    show_speed(pool_run, serial_seconds, workers, report)
    show_workers(pool_run, report)
    show_slowest(pool_run.outcomes, report)
    show_errors(pool_run.outcomes, report)
    show_warnings(pool_run.outcomes, report)
    show_crash(pool_run, report)
    failed = judge(pool_run, serial, workers, report)
    report.line()
    report.line(save_timeline(pool_run, arguments.timeline))
    if failed:
        report.line(f"The demo failed: {failed[0]}." + (f" ({len(failed) - 1} more above)" if failed[1:] else ""))
        return 1
    report.line(f"The demo is done: {len(files)} files, every check holds, no worker is left.")
    return 0


def save_timeline(pool_run: PoolRun, path: str | None) -> str:
    """Write what every worker did; return where, in words."""
    assert pool_run.timeline is not None
    try:
        if path is None:
            descriptor, path = tempfile.mkstemp(prefix="crew-demo-", suffix=".html")
            os.close(descriptor)
        pool_run.timeline.save(path)
    except (OSError, ValueError) as error:
        return f"The timeline of the run could not be written: {error}"
    return f"What every worker did, to be opened in a browser: {path}"


# --- choosing files ---------------------------------------------------------------------------------------------------


def choose_files(path: Path | None, is_quick: bool, report: Report) -> list[Path]:
    """Return the files to analyse, the largest first, and say which they are of how many."""
    root = path or Path(sysconfig.get_path("stdlib"))
    found = sorted(find_sources(root))
    # Read once: the first run of the two must not be the one that pays for a cold disk.
    sizes = {file: _warm(file) for file in found}
    chosen = found
    if is_quick:
        small = [file for file in found if sizes[file] in QUICK_BYTES or is_telling(file)]
        chosen = sample(small or found, FILES_QUICK)
    elif path is None:
        chosen = sample(found, FILES_DEFAULT)
    kind = "small files" if is_quick else "files"
    report.line(f"{len(chosen)} {kind} of {len(found)} in {root}, {sum(sizes[file] for file in chosen) / 1e6:,.1f} MB")
    # The largest first: a large file that comes last would leave all workers but one with nothing to do.
    return sorted(chosen, key=lambda file: (-sizes[file], file))


def find_sources(root: Path) -> Iterable[Path]:
    """Yield the Python files below `root`, without installed packages, caches and hidden directories."""
    if root.is_file():
        yield root.absolute()
        return
    for directory, subdirectories, names in os.walk(root.absolute()):
        subdirectories[:] = (
            name for name in subdirectories if name not in SKIPPED_DIRECTORIES and not name.startswith(".")
        )
        yield from (Path(directory, name) for name in names if name.endswith(".py"))


def sample(files: Sequence[Path], count: int) -> list[Path]:
    """Return at most `count` files: the telling ones, and others spread evenly over the rest."""
    telling = [file for file in files if is_telling(file)][:count]
    rest = sorted(set(files) - set(telling))
    wanted = min(count - len(telling), len(rest))
    return telling + [rest[index * len(rest) // wanted] for index in range(wanted)]


def is_telling(file: Path) -> bool:
    """Tell whether a file's name says that it is there to fail or to warn."""
    return any(part in file.name for part in TELLING_NAMES)


def _warm(file: Path) -> int:
    try:
        return len(file.read_bytes())
    except OSError:  # its task will say so
        return 0


def _existing_path(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text!r} does not exist")
    return path


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of workers, 1 or more")
    return int(text)


# --- the pool ---------------------------------------------------------------------------------------------------------


def run_on_pool(files: Sequence[Path], workers_max: int, breaks: bool, report: Report) -> PoolRun:
    """Analyse the files on a pool that starts empty, and watch it grow and shrink."""
    from . import CrewExecutor
    from .launchers import LocalLauncher

    report.heading(f"On a CrewExecutor of at most {workers_in_words(workers_max)}")
    show_load(report)
    pool_run = PoolRun()
    # The pool shows each warning of a task in the client too; here they are shown from the records instead.
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="crew-demo-") as directory:
        warnings.simplefilter("ignore")
        with CrewExecutor(workers_max, launcher=LocalLauncher(), idle_timeout=IDLE_SECONDS, name="demo") as executor:
            pool_run.timeline = executor.timeline()
            watch = PoolWatch(executor, report, pool_run)
            pool_run.workers_before = watch.look()
            victim = Victim(executor, Path(directory, "pid")) if breaks else None
            collect(executor, files, victim, watch)
            report.line(f"  {watch.seconds():6.2f} s  all {len(pool_run.outcomes)} tasks are done")
            if victim is not None:
                pool_run.crash = victim.judge(files[-1], pool_run.outcomes)
                watch.look()
            watch.wait_until_empty()
    pool_run.pids |= {record.pid for record in records_of(pool_run) if record.pid}
    return pool_run


class PoolWatch:
    """Says whenever the number of workers changed, and remembers the most."""

    def __init__(self, executor: CrewExecutor, report: Report, pool_run: PoolRun) -> None:
        self.report = report
        self.pool_run = pool_run
        self._executor = executor
        self._started = time.perf_counter()
        self._looked = 0.0
        self._workers = 0

    def seconds(self) -> float:
        """Return the seconds since the watch began."""
        return time.perf_counter() - self._started

    def look(self) -> int:
        """Return how many workers there are, and say so if the number is new."""
        present = self._executor.stats().workers
        self.pool_run.pids |= {worker.pid for worker in present if worker.pid}
        self.pool_run.workers_peak = max(self.pool_run.workers_peak, len(present))
        if len(present) != self._workers:
            verb = "grew" if len(present) > self._workers else "shrank"
            self.report.line(f"  {self.seconds():6.2f} s  the pool {verb} from {self._workers} to {len(present)}")
            self._workers = len(present)
        return self._workers

    def show_progress(self, files: int) -> None:
        """Show how far the work is; called after each task, but too seldom to cost anything."""
        now = time.monotonic()
        if now - self._looked >= POLL_SECONDS:
            self._looked = now
            workers = self.look()
            done = len(self.pool_run.outcomes)
            self.report.progress(f"  {self.seconds():6.2f} s  {done}/{files} files, {workers_in_words(workers)}")

    def wait_until_empty(self) -> None:
        """Wait until the idle workers have left by themselves."""
        deadline = time.monotonic() + SHRINK_SECONDS_MAX
        while self.look() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        self.pool_run.workers_left = self._workers


class Victim:
    """A task that holds its worker, and the hand that kills this worker in the middle of it."""

    def __init__(self, executor: CrewExecutor, pid_path: Path) -> None:
        self.future: CrewFuture[Any] | None = None
        self.pid_killed: int | None = None
        self._executor = executor
        self._pid_path = pid_path
        self._held_since = 0.0

    def submit(self) -> CrewFuture[Any]:
        """Submit the task that will be killed."""
        view = self._executor.options(name="held on purpose")
        self.future = view.submit(hold_worker, str(self._pid_path), VICTIM_SECONDS_MAX)
        return self.future

    def kill_when_held(self, report: Report) -> None:
        """Kill the worker once the task has run for a moment; a real SIGKILL, nothing is told to the pool."""
        if self.pid_killed is not None or not self._pid_path.exists():
            return
        self._held_since = self._held_since or time.monotonic()
        if time.monotonic() - self._held_since >= VICTIM_SECONDS_HELD:
            self.pid_killed = int(self._pid_path.read_text(encoding="ascii"))
            report.line(f"           killing worker process {self.pid_killed} in mid-task")
            # Windows has no SIGKILL; there SIGTERM ends a process just as bluntly.
            os.kill(self.pid_killed, getattr(signal, "SIGKILL", signal.SIGTERM))

    def judge(self, file: Path, outcomes: dict[Path, Outcome]) -> Crash | None:
        """Return how the killed task ended, and whether the pool still works a file out as before."""
        if self.future is None or not self.future.done():
            return None
        again = _outcome_of(self._executor.submit(analyse_file, str(file)), timeout=STALL_SECONDS_MAX)
        is_usable = file in outcomes and again.result() == outcomes[file].result()
        return Crash(self.future.exception(), self.future.record(), self.pid_killed, is_usable)


def collect(executor: CrewExecutor, files: Sequence[Path], victim: Victim | None, watch: PoolWatch) -> None:
    """Submit every file and take the outcomes as they come; the victim goes in the middle of them."""
    # Callbacks run in a thread of the pool: they only put on a queue.
    done: SimpleQueue[Any] = SimpleQueue()
    paths: dict[CrewFuture[Any], Path] = {}
    started = time.perf_counter()
    for index, file in enumerate(files):
        if victim is not None and index == len(files) // 2:
            victim.submit().add_done_callback(done.put)
        future = executor.submit(analyse_file, str(file))
        paths[future] = file
        future.add_done_callback(done.put)
    waiting = len(files) + (victim is not None)
    last_done = time.monotonic()
    while waiting:
        try:
            future = done.get(timeout=POLL_SECONDS)
        except Empty:
            if time.monotonic() - last_done > STALL_SECONDS_MAX:
                executor.kill_workers()
                return
        else:
            waiting -= 1
            last_done = time.monotonic()
            if future in paths:
                watch.pool_run.outcomes[paths[future]] = _outcome_of(future)
        if victim is not None:
            victim.kill_when_held(watch.report)
        watch.show_progress(len(files))
    watch.pool_run.seconds = time.perf_counter() - started


def _outcome_of(future: CrewFuture[Any], timeout: float | None = 0) -> Outcome:
    error: BaseException | None
    try:
        error = future.exception(timeout)
    except (CancelledError, TimeoutError, FutureTimeoutError) as not_done:
        error = not_done
    value = future.result() if error is None else None
    record = future.record()
    warned = tuple((warning.category, warning.message, warning.lineno) for warning in record.warnings)
    return Outcome(value, error, warned, record)


# --- the serial run ---------------------------------------------------------------------------------------------------


def run_serially(files: Sequence[Path], report: Report) -> tuple[dict[Path, Outcome], float]:
    """Analyse the same files here, one after the other; return the outcomes and the seconds it took."""
    report.heading("Serially, in this process, to compare")
    outcomes: dict[Path, Outcome] = {}
    started = time.perf_counter()
    for file in files:
        outcomes[file] = analyse_here(file)
        report.progress(f"  {time.perf_counter() - started:6.2f} s  {len(outcomes)}/{len(files)} files")
    seconds = time.perf_counter() - started
    report.line(f"  {seconds:6.2f} s  all {len(outcomes)} files are done")
    return outcomes, seconds


def analyse_here(file: Path) -> Outcome:
    """Analyse one file in this process, its warnings and its error caught."""
    value: FileReport | None = None
    error: Exception | None = None
    with warnings.catch_warnings(record=True) as caught:
        try:
            value = analyse_file(str(file))
        except Exception as raised:
            error = raised
    warned = tuple((warning.category.__name__, str(warning.message), warning.lineno) for warning in caught)
    return Outcome(value, error, warned)


# --- what must hold ---------------------------------------------------------------------------------------------------


def judge(pool_run: PoolRun, serial: dict[Path, Outcome], workers_max: int, report: Report) -> list[str]:
    """Check every claim, show them, and return those that do not hold."""
    report.heading("Checks")
    verdict = Verdict(report)
    judge_results(pool_run.outcomes, serial, verdict)
    peak = pool_run.workers_peak
    verdict.check(
        f"the pool grew from 0 to at most {workers_in_words(workers_max)}",
        pool_run.workers_before == 0 and 1 <= peak <= workers_max,
        f"{pool_run.workers_before} at the start, {peak} at most",
    )
    verdict.check("the idle pool shrank to 0", not pool_run.workers_left, f"{pool_run.workers_left} workers stayed")
    if pool_run.crash:
        judge_crash(pool_run.crash, verdict)
    alive = wait_for_ends(pool_run.pids) if os.name == "posix" else []
    verdict.check("every worker process has ended", not alive, f"still there: {', '.join(map(str, alive))}")
    return verdict.failed


def judge_results(outcomes: dict[Path, Outcome], serial: dict[Path, Outcome], verdict: Verdict) -> None:
    """Check that the pool found for each file what the serial run found."""
    missing = len(serial) - len(outcomes)
    verdict.check("every task came to an end", not missing, f"{missing} of {len(serial)} never did")
    differing = [(file, outcome) for file, outcome in outcomes.items() if outcome.result() != serial[file].result()]
    first = ""
    if differing:
        file, outcome = differing[0]
        first = f"{len(differing)} differ, first {file}: pool {outcome.result()}, serial {serial[file].result()}"
    verdict.check("every result and every error is the serial run's", not differing, first)
    strange = [file for file, outcome in outcomes.items() if outcome.warned != serial[file].warned[:WARNINGS_KEPT_MAX]]
    verdict.check("every warning is the serial run's", not strange, f"not for {len(strange)}, first {strange[:1]}")
    errors = [outcome for outcome in outcomes.values() if outcome.error]
    bare = [one for one in errors if one.error and not (remote_frames(one.error) and one.record and one.record.worker)]
    if errors:
        verdict.check("every error has its frames in the worker", not bare, f"{len(bare)} of {len(errors)} have none")


def judge_crash(crash: Crash, verdict: Verdict) -> None:
    """Check that the killed worker cost its own task and nothing else."""
    verdict.check(
        "the task whose worker was killed failed with WorkerCrashError",
        isinstance(crash.error, WorkerCrashError) and crash.error.pid == crash.pid_killed,
        f"killed process {crash.pid_killed}, got {crash.error!r}",
    )
    verdict.check("the pool took new work afterwards", crash.is_pool_usable, "a task submitted after it went wrong")


def wait_for_ends(pids: Iterable[int], seconds_max: float = 5.0) -> list[int]:
    """Wait until the processes have ended; return those that have not (POSIX only)."""
    deadline = time.monotonic() + seconds_max
    alive = sorted(pids)
    while alive := [pid for pid in alive if _is_alive(pid)]:
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    return alive


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the number already belongs to somebody else's process
        return False
    return True
