"""An executor without processes: a call runs in submit(), in the caller's thread, and gives the same kind of record.

For debuggers and tests. Nothing is pickled, nothing is isolated, no time limit holds, and what a task breaks is broken.
Tasks of several threads take turns.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from .. import errors, tracebacks
from ..calls import command_of
from ..log import logger
from ..options import TaskOptions
from ..records import TaskRecord, TaskWarning
from ..seeding import Seeded
from ..stats import SeatStats, Stats, WorkerStats

T = TypeVar("T")
WARNINGS_MAX = 100
"""As many as a worker keeps."""


class InlineFuture(Future[T]):
    """The future of a call that has run."""

    def __init__(self, record: TaskRecord) -> None:
        super().__init__()
        self._record = record
        if record.error is None:
            self.set_result(record.result)
        else:
            self.set_exception(record.error)

    def record(self) -> TaskRecord:
        """Return what became of the call."""
        return self._record

    def kill(self) -> bool:
        """Return False: it is done."""
        return False

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # late: for those who run a loop anyway

        return asyncio.wrap_future(self).__await__()


class InlineExecutor(Executor):
    """Run each call at once, here.

    Args:
        name: shown in records.
        initializer, initargs: called before the first task.
    """

    def __init__(
        self, name: str, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
    ) -> None:
        self._name = name
        self._initializer = initializer
        self._initargs = initargs
        self._lock = threading.Lock()
        self._turn = threading.RLock()  # one at a time: to catch warnings is the whole process's business
        self._tasks = 0
        self._seconds = 0.0
        self._is_shut_down = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> InlineFuture[T]:
        """Run the call, and return its future.

        Raises:
            RuntimeError: the executor is shut down.
            BrokenCrewError: the initializer failed.
            KeyboardInterrupt: a Ctrl-C came while it ran; the call is over.
        """
        return self.run(fn, args, kwargs, TaskOptions())

    def run(
        self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions
    ) -> InlineFuture[T]:
        """Run a call with a name and a seed; as submit()."""
        with self._turn:
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._initialize()
            return self._run(fn, args, kwargs, options)

    def _run(
        self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions
    ) -> InlineFuture[T]:
        called = fn if options.seed_stream is None else Seeded(options.seed_stream.next(), fn)
        result: Any = None
        error: BaseException | None = None
        started, begun, cpu_begun = time.time(), time.perf_counter(), time.process_time()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = called(*args, **kwargs)
            except KeyboardInterrupt:
                raise
            except BaseException as failure:  # SystemExit as well: in a worker it is the task's error, too
                error = failure.with_traceback(failure.__traceback__ and failure.__traceback__.tb_next)
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
        noted = [_note(warning) for warning in caught[:WARNINGS_MAX]]
        with self._lock:
            self._tasks += 1
            self._seconds += seconds
        command = command_of(fn)
        record = TaskRecord(
            options.name or command, command, "success" if error is None else "error", result, seconds, error,
            None if error is None else tracebacks.describe(error)["traceback_text"],
            tuple(noted), f"{self._name}-inline", socket.gethostname(), os.getpid(), started, started,
            started + seconds, 0.0, cpu_seconds, None, 1, options.seed, 1,
        )  # fmt: skip
        return InlineFuture(record)

    def _initialize(self) -> None:
        initializer, self._initializer = self._initializer, None
        if initializer is not None:
            try:
                initializer(*self._initargs)
            except Exception as error:
                self._initializer = initializer  # as a pool that is broken: the next task does not run either
                raise errors.BrokenCrewError(f"the initializer failed in {self._name}") from error

    def stats(self) -> Stats:
        """Return a snapshot: one worker, this process."""
        with self._lock:
            tasks, seconds = self._tasks, self._seconds
        state = "leaving" if self._is_shut_down else "idle"
        name = f"{self._name}-inline"
        worker = WorkerStats(name, socket.gethostname(), os.getpid(), state, tasks, seconds)
        seat = SeatStats(1, name, not self._is_shut_down, False, 1, 1, tasks, tasks)
        return Stats(0, 0, tasks, (worker,), 1, (seat,), ("everything runs in the caller's thread",))

    def launch_workers(self, number: int) -> None:
        """Do nothing: the caller is the worker."""

    def kill_workers(self) -> None:
        """Take no more tasks."""
        self._is_shut_down = True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  Executor's
        """Take no more tasks."""
        self._is_shut_down = True


def _note(warning: warnings.WarningMessage) -> TaskWarning:
    """Show a warning that a task has caused, and return what the record has of it."""
    try:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    except Exception as error:  # a filter that makes errors of warnings: a task's are in its record
        logger.warning("a task's warning was turned into an error by a filter: %s", error)
    return TaskWarning(str(warning.message), warning.category.__name__, warning.filename, warning.lineno)
