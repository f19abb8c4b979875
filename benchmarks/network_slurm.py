"""The row `slurm` of network.py: from nothing to the first result of a job's worker, against a bare job.

The cluster is that of tests/clusters/slurm.py, new for each measurement; one job has run there, and none is left. Slurm
starts jobs once a second. So several are measured, spread evenly over that second; of each figure the median counts.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from network_hosts import HOSTS, host_module
from network_row import Figures, Settings

from crew_executor import CrewExecutor
from crew_executor.dispatcher import Dispatcher
from crew_executor.fleet import Fleet
from crew_executor.launchers import Job
from crew_executor.launchers.slurm import SlurmLauncher

THERE_AND_BACK = "s there and back"
FROM_SUBMIT = "s there and back, from submit()"
MADE = "s for making the executor"
SUBMITTED = "s for sbatch"
BEGAN = "s until the job begins"
ENDED = "s until its end is seen"
RESULT = "s until the result is there"
LOOK_SECONDS = 0.05
"""From one squeue to the next."""
GLANCE_SECONDS = 0.002
"""From one look for a file to the next."""
REST_SECONDS = 1.0
"""After a job, at least, for what the controller does behind it."""
TURN_SECONDS = 1.0
"""From one look of Slurm's scheduler at its queue to the next."""
WAIT_SECONDS = 60.0


class Marks:
    """When what has happened first; any thread."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Count from now."""
        self._began = time.perf_counter()

    def note(self, what: str) -> None:
        """Note that it happened now, unless it did before."""
        self._at.setdefault(what, time.perf_counter())

    def at(self, what: str) -> float:
        """Return when it happened, by the clock of all processes of this machine."""
        return self._at[what]

    def figures(self) -> Figures:
        """Return how long all took, then the parts: each from what happened before it."""
        before, submit_at, end = self._began, self._at.get(MADE, self._began), max(self._at.values())
        figures = {THERE_AND_BACK: end - before, FROM_SUBMIT: end - submit_at}
        for what, at in sorted(self._at.items(), key=lambda item: item[1]):
            figures[what] = at - before
            before = at
        return figures


@contextlib.contextmanager
def _noted(kind: type, method: str, marks: Marks, what: str) -> Iterator[None]:
    """Note the first call of a method of our own."""
    original: Callable[..., Any] = getattr(kind, method)

    def noting(*arguments: Any) -> Any:
        marks.note(what)
        return original(*arguments)

    setattr(kind, method, noting)
    try:
        yield
    finally:
        setattr(kind, method, original)


@contextlib.contextmanager
def _begin_noted(folder: Path, marks: Marks) -> Iterator[None]:
    """Note when the job's output is there: the node makes it just before it runs the script. By a thread that looks."""
    is_over = threading.Event()

    def look() -> None:
        while not (folder.exists() and any(folder.iterdir())):
            if is_over.wait(GLANCE_SECONDS):
                return
        marks.note(BEGAN)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextlib.contextmanager
def _cluster() -> Iterator[tuple[Any, Path]]:
    """Make hosts and a cluster for this process; return the hosts, and a folder that they share; wait for its end."""
    slurm = host_module("slurm")
    if reason := slurm.missing():
        raise RuntimeError(f"no Slurm can be run: {reason}")
    with host_module("hosts").Hosts(HOSTS) as hosts, slurm.Slurm(hosts) as cluster, tempfile.TemporaryDirectory() as at:
        os.environ.update(cluster.environment)
        yield hosts, Path(at)
        _wait(_is_idle, "no job is left")


def _medians(measure: Callable[[Path], Marks], folder: Path, number: int) -> Figures:
    """Measure so often on an idle cluster, each time in a folder of its own; return the median of each figure."""
    own = folder / "first"
    own.mkdir()
    began = _bare_job(own).at(BEGAN)
    found = []
    for count in range(number):
        _wait(_is_idle, "no job is left")
        turn = began + TURN_SECONDS * (count + random.random()) / number
        turns = math.ceil((time.perf_counter() + REST_SECONDS - turn) / TURN_SECONDS)
        time.sleep(turn + turns * TURN_SECONDS - time.perf_counter())
        own = folder / str(count)
        own.mkdir()
        marks = measure(own)
        found.append(marks.figures())
        began = marks.at(BEGAN)
    return {name: statistics.median(figures[name] for figures in found) for name in found[0]}


def _sbatch(folder: Path) -> str:
    """Submit a job that does nothing; return its number."""
    return _said("sbatch", "--parsable", f"--output={folder}/%j.log", "--wrap=true").strip()


def _state(job: str) -> str:
    return _said("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").strip()


def _is_idle() -> bool:
    return not _said("squeue", "--noheader")


def _said(*command: str) -> str:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout


def _wait(is_so: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError(f"after {WAIT_SECONDS:g} s still not: {what}")
        time.sleep(LOOK_SECONDS)


def bare_job(settings: Settings) -> Figures:
    """Measure sbatch --wrap=true: until squeue, asked every 50 ms, says that the script has ended.

    That is the first that Slurm tells of it: the state is COMPLETING, or COMPLETED already. The job's output, which is
    there as soon as it begins, would tell nothing of its end.
    """
    with _cluster() as (_hosts, folder):
        return _medians(_bare_job, folder, settings.jobs)


def _bare_job(folder: Path) -> Marks:
    marks = Marks()
    with _begin_noted(folder, marks):
        job = _sbatch(folder)
        marks.note(SUBMITTED)
        _wait(lambda: _state(job) in {"COMPLETING", "COMPLETED"}, "the job has ended")
        marks.note(ENDED)
    _wait(lambda: _state(job) == "COMPLETED", "the job has ended well")
    return marks


class _MarkingLauncher(SlurmLauncher):
    """Notes when it submits."""

    def __init__(self, marks: Marks, **options: Any) -> None:
        super().__init__(**options)
        self._marks = marks

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Submit, as ever."""
        self._marks.note("s until sbatch is called")
        handles = super().submit(job, number)
        self._marks.note(SUBMITTED)
        return handles


def crew_job(settings: Settings) -> Figures:
    """Measure the first result of an executor, each in a new process: what it imports when it needs it counts."""

    def measure(folder: Path) -> Marks:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            return fresh.submit(_crew_job, folder, hosts.head, hosts.names).result()

    with _cluster() as (hosts, folder):
        return _medians(measure, folder, settings.jobs)


def _crew_job(folder: Path, head: str, names: Sequence[str]) -> Marks:
    """Measure one, and how far it has come when; nobody is asked for that."""
    marks = Marks()
    with contextlib.ExitStack() as exits:
        exits.enter_context(_noted(Fleet, "_joined", marks, "s until the agent joins"))
        exits.enter_context(_noted(Dispatcher, "worker_joined", marks, "s until the worker joins"))
        launcher = _MarkingLauncher(marks, host=head, folder=folder / "jobs", log_folder=folder / "logs")
        exits.enter_context(_begin_noted(folder / "logs", marks))
        marks.start()
        executor = exits.enter_context(CrewExecutor(1, launcher=launcher))
        marks.note(MADE)
        result = executor.submit(int).result(WAIT_SECONDS)
        marks.note(RESULT)
        (worker,) = executor.stats().workers
        if result != 0 or worker.host not in names:
            raise AssertionError(f"a wrong result, or from another host: {result!r}, {worker.host}")
    return marks
