"""The books of a chaos run: what became of each future, what each task did, and whether the two agree.

The client writes verdicts while it runs, tasks their marks (tasks.py); the test reads both when all is over. Must not
keep anything per task in the client's memory, for that is watched for leaks.
"""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .tasks import ENDED, STARTED

OK, OWN_ERROR, CANCELLED, CRASH, TIMEOUT, UNKNOWN, UNRESOLVED, WRONG = (
    "ok", "own_error", "cancelled", "crash", "timeout", "unknown", "unresolved", "wrong",
)  # fmt: skip
"""Verdicts. UNKNOWN: an item of a map() whose iterator ended before it; its result was never to be seen."""

BY_SUPERVISOR = "supervisor"
"""The cause of a crash whose worker went down with its supervisor."""

RETRIED, CALLED_OFF, OVERRUN, LEAVING = "retried", "called_off", "overrun", "leaving"
"""Kinds of tasks to which other rules apply: crash_retries, cancel_running, timeout, those that end their worker."""
CRASH_RETRIES = 2
_STARTS_MAX = 1 + CRASH_RETRIES + 5
"""Starts of a task with crash_retries; the 5 are for deaths that are not counted against it."""

_PROBLEMS_MAX = 20
"""Problems of one sort that are told in full."""


class Problems:
    """What went wrong, from several threads; the first of a sort in full, all of them counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._texts: list[str] = []

    def add(self, sort: str, text: str) -> None:
        """Note one problem."""
        with self._lock:
            self._counts[sort] += 1
            if self._counts[sort] <= _PROBLEMS_MAX:
                self._texts.append(f"{sort}: {text}")

    def told(self) -> list[str]:
        """Return all that is to be told."""
        with self._lock:
            more = [f"{sort}: {count} in all" for sort, count in self._counts.items() if count > _PROBLEMS_MAX]
            return [*self._texts, *more]


class Verdicts:
    """Write one line for each task: number, kind, verdict, and for a crash pid, worker and cause."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = path.open("w")
        self.counts: Counter[str] = Counter()

    def add(self, number: int, kind: str, verdict: str, crash: tuple[int | None, str, str] | None = None) -> None:
        """Write down what became of a task."""
        pid, worker, cause = crash or (None, "-", "-")
        with self._lock:
            self.counts[f"{kind} {verdict}"] += 1
            self._file.write(f"{number} {kind} {verdict} {pid or 0} {worker} {cause}\n")

    def close(self) -> None:
        """Bring everything to the file."""
        self._file.close()


class Marks:
    """How often each task started, and ended where it says so."""

    def __init__(self, path: Path) -> None:
        self.starts, self.ends = array("B"), array("B")
        for line in _lines(path):
            letter, number = line.split()
            counts = {STARTED: self.starts, ENDED: self.ends}[letter]
            _count(counts, int(number))

    def of(self, number: int) -> tuple[int, int]:
        """Return how many starts and ends of a task were seen."""
        return _at(self.starts, number), _at(self.ends, number)


def check_books(
    marks: Marks, verdicts: Path, killed: set[int], supervisors_killed: int
) -> tuple[list[str], Counter[str]]:
    """Compare what futures said with what tasks did.

    Args:
        marks: what tasks did.
        verdicts: the file of a Verdicts.
        killed: process ids of workers that the monkey has tried to end.
        supervisors_killed: how many supervisors it has ended.

    Returns:
        The problems, and counts for the report.
    """
    problems, counts = Problems(), Counter[str]()
    culprits: dict[str, int] = {}  # worker -> the task that its death cost
    known = array("B")
    for line in _lines(verdicts):
        number_text, kind, verdict, pid, worker, cause = line.split()
        number = int(number_text)
        starts, ends = marks.of(number)
        counts[verdict] += 1
        _count(known, number)
        if not _fits(kind, verdict, starts, ends):
            problems.add("side effects", f"task {number} ({kind}): {verdict}, but {starts} starts and {ends} ends")
        if verdict != CRASH:
            continue
        counts["crashes before the mark"] += not starts
        if worker in culprits:
            problems.add("one death, two tasks", f"worker {worker} cost task {culprits[worker]} and task {number}")
        culprits[worker] = number
        by_monkey = int(pid) in killed or (cause == BY_SUPERVISOR and supervisors_killed > 0)
        if not by_monkey and kind not in {LEAVING, OVERRUN, CALLED_OFF}:
            problems.add("crash without a kill", f"task {number} ({kind}), worker {worker}, pid {pid}, {cause}")
    for number in range(max(len(known), len(marks.starts))):
        if _at(known, number) != 1 and (_at(known, number) or marks.of(number)[0]):
            problems.add("books", f"task {number} has {_at(known, number)} verdicts, {marks.of(number)[0]} starts")
    return problems.told(), counts


def _fits(kind: str, verdict: str, starts: int, ends: int) -> bool:
    """Answer whether the marks agree with the verdict."""
    if kind == RETRIED:
        return (verdict != OK or starts >= 1) and starts <= _STARTS_MAX
    if kind in {CALLED_OFF, OVERRUN} and verdict != OK:
        return starts <= 1 and ends == 0
    if verdict in {OK, OWN_ERROR}:
        return starts == 1
    if verdict == CANCELLED:
        return starts == 0
    return starts <= 1


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        with path.open() as file:
            yield from file


def _count(counts: array[int], number: int) -> None:
    if number >= len(counts):
        counts.frombytes(bytes(number + 1 - len(counts)))
    counts[number] = min(counts[number] + 1, 255)


def _at(counts: array[int], number: int) -> int:
    return counts[number] if number < len(counts) else 0
