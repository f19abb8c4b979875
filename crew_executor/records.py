"""What users are told of a task when it is over. Imported when somebody asks."""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import tracebacks
from .calls import command_of
from .errors import TaskTimeoutError

if TYPE_CHECKING:
    from .futures import CrewFuture


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


def record_of(future: CrewFuture[Any]) -> TaskRecord:
    """Return what is known of a future's task now; does not wait."""
    command, worker = command_of(future._fn), future._worker
    name = future._name or command
    if future.cancelled():
        failure: BaseException | None = CancelledError(f"task {name} was cancelled")
    elif not future.done():
        return TaskRecord(name, command, submitted=future._submitted, seed=future._seed)
    else:
        failure = future._opened_exception()
    facts: dict[str, Any] = {"submitted": future._submitted, "attempts": 0}
    if worker is not None:
        task = future._task
        facts |= {"attempts": future._attempt if task is None else task.attempt}
        facts |= {"worker": worker.name, "host": worker.host, "pid": worker.pid, "seat": worker.seat}
    if future._times is not None:
        started, seconds, cpu_seconds, max_rss = future._times
        facts |= {"started": started, "finished": started + seconds, "seconds": seconds}
        facts |= {"queue_seconds": max(0.0, started - (future._submitted or started))}
        facts |= {"cpu_seconds": cpu_seconds, "max_rss": max_rss or None}
    return TaskRecord(
        name,
        command,
        "cancel" if future.cancelled() else _status(failure),
        result=None if failure is not None else future._result,
        error=failure,
        traceback=None if failure is None else tracebacks.describe(failure, future._frames)["traceback_text"],
        warnings=future._warnings,
        seed=future._seed,
        output=future._output,
        **facts,
    )


def _status(error: BaseException | None) -> str:
    if error is None:
        return "success"
    from .broken import WorkerCrashError  # late: see there

    if isinstance(error, WorkerCrashError):
        return "crash"
    return "timeout" if isinstance(error, TaskTimeoutError) else "error"
