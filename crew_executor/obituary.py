"""What is said about a worker that died or never came: who, in what state, and why. Decides nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from . import errors, tracebacks
from .connection import Connection
from .core.task import Task
from .errors import CrewError, TaskTimeoutError
from .launchers import WorkerExit

if TYPE_CHECKING:
    from .errors import WorkerCrashError

Times = tuple[float, float, None, int]
"""When the task started (Unix seconds), how long it ran (seconds), its CPU time (unknown), the worker's peak memory."""


def describe_loss(connection: Connection) -> str:
    """Return in words how a worker came to its end: "worker w (pid 1 on h) was lost: killed by SIGKILL"."""
    facts, end = connection.facts, connection.exit or WorkerExit(connection.worker.name)
    why = end.describe() + (f" ({connection.killed_because})" if connection.killed_because else "")
    memory = f", having used at most {in_words(end.max_rss)} of memory" if end.max_rss else ""
    return f"worker {facts.name} (pid {facts.pid} on {facts.host}) was lost: {why}{memory}"


def loss_error(name: str, task: Task, connection: Connection) -> tuple[CrewError, Times | None]:
    """Return the error of a task whose worker died while it ran the task, and when that was.

    Args:
        name: the task's.
        task: the task; its ordinal tells whether the worker was killed for its timeout.
        connection: that of the dead worker; its exit is known.
    """
    end = connection.exit or WorkerExit(connection.worker.name)
    if task.budget is not None and task.ordinal == connection.timed_out:
        error: CrewError = TaskTimeoutError(
            f"task {name} took longer than timeout={task.budget.timeout:g} s; it did not heed the interrupt, so worker "
            f"{connection.facts.name} was killed"
        )
    else:
        error = _crash_error(name, task, connection, end)
    return error, run_times(connection) if task.ordinal == connection.cell.started else None


def run_times(connection: Connection) -> Times:
    """Return since when the task runs that the worker has started last, as the times of an outcome."""
    seconds = max(0.0, time.monotonic() - connection.cell.started_at)
    return time.time() - seconds, seconds, None, 0 if connection.exit is None else connection.exit.max_rss


def _crash_error(name: str, task: Task, connection: Connection, end: WorkerExit) -> WorkerCrashError:
    facts = connection.facts
    tail = connection.log_tail()
    attempt = f" (attempt {task.attempt})" if task.attempt > 1 else ""
    text = f"task {name}{attempt}: {describe_loss(connection)}"
    if tail:
        text += f"; the end of its stderr:\n{tracebacks.without_worker(tail)}"
    return errors.WorkerCrashError(
        text,
        task=name,
        worker=facts.name,
        pid=facts.pid,
        host=facts.host,
        exitcode=end.exitcode,
        signal=end.signal_name,
        stderr=tail,
        max_rss=end.max_rss,
        verdict=end.verdict,
    )


def launch_failure(connection: Connection, how: str) -> str:
    """Return what is known of a worker that never became ready.

    Args:
        connection: that of the worker; its exit is known.
        how: how the launcher starts workers: a command, or words.
    """
    end = connection.exit or WorkerExit(connection.worker.name)
    why = f"{connection.killed_because} ({end.describe()})" if connection.killed_because else end.describe()
    tail = connection.log_tail()
    what = "ended before it started a task" if connection.is_ready else "did not come up"
    text = f"worker {connection.worker.name} {what}: {why}; it was {how}"
    if tail:
        return f"{text}; the end of its output:\n{tail}"
    return text if connection.is_far else f"{text}; it printed nothing"


def in_words(size: int) -> str:
    """Return a number of bytes, rounded down."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size //= 1000
    return f"{size:.0f} GB"
