"""Run one call: time it, catch its warnings and its error, and make an outcome of it.

Nothing here knows links or cells. Nothing a call raises leaves `run()`: neither SystemExit nor KeyboardInterrupt.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from typing import Any, TextIO

from .. import serialize, tracebacks
from ..core.messages import Outcome, OutcomeFlag, TaskItem

WARNINGS_MAX = 100
"""Warnings of one task that are kept (RULES 27)."""
WARNING_TEXT_MAX = 2000

RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def max_rss() -> int:
    """Return this process's high-water mark of resident memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception; Python 3.10 keeps it but does not print it."""
    if hasattr(error, "add_note"):
        error.add_note(note)
        return
    notes = [*getattr(error, "__notes__", []), note]
    error.__dict__["__notes__"] = notes


class CallRunner:
    """Run calls one after the other in this thread.

    Args:
        worker: the name of the worker, for notes on errors that happen around the user's code.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._pid = os.getpid()
        self._caught: list[dict[str, Any]] = []
        self._max_rss = max_rss()
        self._started = self._seconds = 0.0  # of the running task
        warnings.showwarning = self._catch_warning

    def run(self, task: TaskItem) -> Outcome:
        """Run one task to its outcome."""
        cpu_clock = time.process_time
        if self._caught:
            self._caught.clear()  # a thread that a former task left behind
        self._started, self._seconds = time.time(), 0.0
        cpu0 = cpu_clock()
        flags, parts = self._attempt(task)
        if os.getpid() != self._pid:
            os._exit(0)  # the task forked and its child came back: there is only one worker here
        started, seconds, cpu = self._started, self._seconds, cpu_clock() - cpu0
        if seconds > 0.001:
            self._max_rss = max_rss()  # what is shorter cannot have touched much
        if self._caught:
            flags |= OutcomeFlag.WARNINGS
            parts = (parts[0], json.dumps(self._caught).encode(), *parts[1:])
            self._caught = []
        return Outcome(task.task_id, task.attempt, flags, parts, started, seconds, cpu, self._max_rss)

    def _attempt(self, task: TaskItem) -> tuple[int, tuple[bytes, ...]]:
        doing = "unpickling the call"
        try:
            fn, args, kwargs = serialize.loads(task.parts[0])
            doing = ""
            t0 = time.perf_counter()
            try:
                value = fn(*args, **kwargs)
            finally:
                self._seconds = time.perf_counter() - t0
            doing = "pickling the result"
            return 0, (serialize.dumps(value),)
        except BaseException as error:
            return self._error(error, doing)

    def _error(self, error: BaseException, doing: str) -> tuple[int, tuple[bytes, ...]]:
        try:
            # The first frame is ours; the user's begin behind it.
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            if doing:
                add_note(error, f"raised while {doing} in worker {self._worker}")
        except BaseException as broken:  # an exception class that refuses attributes
            error = broken
        report = tracebacks.describe(error)
        report_part = json.dumps(report).encode()
        try:
            part = tracebacks.dumps_error(error)
        except BaseException as broken:
            stand_in = tracebacks.remote_error(report, f"it cannot be pickled: {type(broken).__name__}: {broken}")
            part = serialize.dumps(stand_in)
        return OutcomeFlag.ERROR | OutcomeFlag.REPORT, (part, report_part)

    def _catch_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG002  the hook's signature
        line: str | None = None,  # noqa: ARG002
    ) -> None:
        if len(self._caught) < WARNINGS_MAX:
            self._caught.append(
                {
                    "message": str(message)[:WARNING_TEXT_MAX],
                    "module": category.__module__,
                    "category": category.__qualname__,
                    "filename": filename,
                    "lineno": lineno,
                }
            )


def dump_initializer_error(error: BaseException, worker: str) -> tuple[bytes, bytes]:
    """Return an initializer's error and its report as parts of a READY frame."""
    _flags, parts = CallRunner(worker)._error(error, "running the initializer")
    return parts[0], parts[1]
