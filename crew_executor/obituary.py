"""What is said about a worker that died or never came: who, in what state, and why. Decides nothing."""

from __future__ import annotations

from .connection import Connection
from .errors import WorkerCrashError
from .launchers import WorkerExit


def crash_error(task: str, connection: Connection) -> WorkerCrashError:
    """Return the error of a task whose worker died while it ran.

    Args:
        task: the task's name.
        connection: that of the dead worker; its exit is known.
    """
    facts = connection.facts
    end = connection.exit or WorkerExit(facts.name)
    why = end.describe() + (f" ({connection.killed_because})" if connection.killed_because else "")
    tail = connection.log_tail()
    text = f"worker {facts.name} (pid {facts.pid} on {facts.host}) was lost while it ran task {task}: {why}"
    if tail:
        text += f"; the end of its stderr:\n{tail}"
    return WorkerCrashError(
        text,
        task=task,
        worker=facts.name,
        pid=facts.pid,
        host=facts.host,
        exitcode=end.exitcode,
        signal=end.signal_name,
        stderr=tail,
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
    output = f"the end of its output:\n{tail}" if tail else "it printed nothing"
    return f"worker {connection.worker.name} did not come up: {why}; it was {how}; {output}"
