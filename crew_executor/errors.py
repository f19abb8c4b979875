"""Every exception that crew_executor raises, split by whose fault it is.

A leaf module: it imports nothing of ours. Each message says who failed, in what state, and what to do.
All of them survive pickling with their attributes.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from typing import Any

__all__ = [
    "BrokenCrewError",
    "CrewError",
    "LaunchError",
    "ProtocolError",
    "RemoteTaskError",
    "TaskTimeoutError",
    "WorkerCrashError",
]


class CrewError(Exception):
    """The root of all exceptions of crew_executor."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only attributes live in __dict__; __init__ is not called again on the other side.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(cls: type[CrewError], args: tuple[Any, ...], attributes: dict[str, Any]) -> CrewError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class WorkerCrashError(CrewError, BrokenProcessPool):
    """One task's worker process died while it ran the task; the pool goes on.

    A BrokenProcessPool, so that handlers written for ProcessPoolExecutor still catch it.

    Attributes:
        task: the name of the task.
        worker: the name of the worker that died.
        pid: its process id, or None when it never told.
        host: the name of the machine it ran on.
        exitcode: as in multiprocessing: the exit status, or minus the signal number, or None when unknown.
        signal: the name of the signal that killed it ("SIGKILL"), or None.
        stderr: the last lines that the worker wrote through sys.stderr or faulthandler.
        max_rss: the most memory the worker had in its life, in bytes; 0 when unknown.
        verdict: what its launcher knows beside that: "by the kernel for memory ...", or "".
    """

    def __init__(
        self,
        message: str,
        *,
        task: str = "",
        worker: str = "",
        pid: int | None = None,
        host: str = "",
        exitcode: int | None = None,
        signal: str | None = None,
        stderr: str = "",
        max_rss: int = 0,
        verdict: str = "",
    ) -> None:
        super().__init__(message)
        self.task = task
        self.worker = worker
        self.pid = pid
        self.host = host
        self.exitcode = exitcode
        self.signal = signal
        self.stderr = stderr
        self.max_rss = max_rss
        self.verdict = verdict


class TaskTimeoutError(CrewError, TimeoutError):
    """The task ran longer than options(timeout=...) allows and was ended.

    Its frames are those of the task where it was interrupted. When it did not heed the interrupt (it was in C code, or
    caught it), its worker was killed; then there are none.
    """


class RemoteTaskError(CrewError):
    """The task's own exception or result could not travel to the client; here is what is known of it.

    Attributes:
        type_name: the qualified name of the original exception's class.
        text: str() of the original exception.
        traceback_text: the formatted traceback of the worker.
    """

    def __init__(self, message: str, *, type_name: str = "", text: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.text = text
        self.traceback_text = traceback_text


class BrokenCrewError(CrewError, BrokenProcessPool):
    """The pool itself cannot go on: an initializer failed, or workers never start. `__cause__` says why."""


class LaunchError(CrewError):
    """A launcher could not bring a worker up; the text holds the command, the exit code and the tail of its output."""


class ProtocolError(CrewError):
    """The peer of a link broke the rules of the wire; the link is closed and its worker counts as lost."""
