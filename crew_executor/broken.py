"""Exceptions that are BrokenProcessPools, so that handlers written for ProcessPoolExecutor catch them.

Part of errors.py, apart from it because that base class takes concurrent.futures.process, with multiprocessing, to be
imported: as long as all the rest. Whoever wants to catch one names it, and has it then.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

from .errors import CrewError


class WorkerCrashError(CrewError, BrokenProcessPool):
    """One task's worker process died while it ran the task; the pool goes on.

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


class BrokenCrewError(CrewError, BrokenProcessPool):
    """The pool itself cannot go on: an initializer failed, or workers never start. `__cause__` says why."""


for _error in (WorkerCrashError, BrokenCrewError):
    _error.__module__ = "crew_executor.errors"  # where users find them, and pickles
