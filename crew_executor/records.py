"""What users are told of a task when it is over. Imported when somebody asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskWarning:
    """A warning that a task caused: its text, the name of its category, and where."""

    message: str
    category: str
    filename: str
    lineno: int


@dataclass(frozen=True)
class TaskRecord:
    """What is known of one task. Times are Unix seconds; durations are seconds.

    Attributes:
        name: as given by options(name=...), else the function's qualified name.
        command: the function's qualified name.
        status: "success", "error", "crash", "timeout", "cancel", or None while pending.
        result: the value, when status is "success".
        seconds: how long the call ran.
        error: the exception, unless status is "success" or None.
        traceback: the exception's formatted traceback, with the worker's frames.
        warnings: at most 100 that the task caused.
        worker, host, pid: where it ran.
        submitted, started, finished: when.
        queue_seconds: from submit to start.
        cpu_seconds: CPU time of the whole worker process while the task ran.
        max_rss: the worker's high-water mark of memory in bytes, this task's or an earlier one's.
        attempts: how often it was started.
        seed: where its random numbers began, with options(seed=...); else None.
        seat: the worker's place in the pool, from 1; see stats().
        output: what it has written to stdout and stderr, with options(capture_output=True); else None.
    """

    name: str
    command: str
    status: str | None = None
    result: Any = None
    seconds: float | None = None
    error: BaseException | None = None
    traceback: str | None = None
    warnings: tuple[TaskWarning, ...] = ()
    worker: str = ""
    host: str = ""
    pid: int | None = None
    submitted: float | None = None
    started: float | None = None
    finished: float | None = None
    queue_seconds: float | None = None
    cpu_seconds: float | None = None
    max_rss: int | None = None
    attempts: int = 0
    seed: int | None = None
    seat: int | None = None
    output: str | None = None
