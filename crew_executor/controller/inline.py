"""An executor without processes: a call runs in submit(), in the caller's thread, and gives the same kind of record.

For debuggers and tests. Nothing is pickled, nothing is isolated, no time limit holds, and what a task breaks is broken.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from ..calls import command_of
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


class InlineExecutor(Executor):
    """Run each call at once, here.

    Args:
        name: shown in records.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._tasks = 0
        self._seconds = 0.0
        self._is_shut_down = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> InlineFuture[T]:
        """Run the call, and return its future.

        Raises:
            RuntimeError: the executor is shut down.
            KeyboardInterrupt: a Ctrl-C came while it ran; the call is over.
        """
        return self.run(fn, args, kwargs)

    def run(
        self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str | None = None,
        seed: int | None = None,
    ) -> InlineFuture[T]:  # fmt: skip
        """Run a call with options; as submit()."""
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        called = fn if seed is None else Seeded(seed, fn)
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
        noted = []
        for warning in caught[:WARNINGS_MAX]:
            category = warning.category.__name__
            noted.append(TaskWarning(str(warning.message), category, warning.filename, warning.lineno))
        with self._lock:
            self._tasks += 1
            self._seconds += seconds
        command = command_of(fn)
        record = TaskRecord(
            name or command, command, "success" if error is None else "error", result, seconds, error,
            None if error is None else "".join(traceback.format_exception(type(error), error, error.__traceback__)),
            tuple(noted), f"{self._name}-inline", socket.gethostname(), os.getpid(), started, started,
            started + seconds, 0.0, cpu_seconds, None, 1, seed, 1,
        )  # fmt: skip
        return InlineFuture(record)

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
