"""A light view on an executor: the same pool, with options for its tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar
from weakref import WeakSet

from .callbacks import quick
from .chunks import MapRun
from .futures import CrewFuture
from .options import TaskOptions
from .stats import Stats
from .submitter import Pool, TaskSubmitter

T = TypeVar("T")


class ExecutorView(TaskSubmitter):
    """Submit to a pool with options; made by options() of a CrewExecutor.

    shutdown() ends the view and waits for its own tasks; the pool belongs to its executor.
    """

    def __init__(self, executor: Pool, options: TaskOptions) -> None:
        self._executor = executor
        self._options = options
        self._lock = threading.RLock()  # re-entrant for signal handlers and finalisers: they may submit, too
        self._open: set[Future[Any]] = set()
        self._maps: WeakSet[MapRun] = WeakSet()  # one that nobody knows has no item out
        self._is_shut_down = False
        self._max_workers = executor._max_workers

    def _submit_call(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> CrewFuture[T]:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = self._executor._submit(self._options, fn, args, kwargs)
        with self._lock:
            self._open.add(future)
        future.add_done_callback(self._forget)
        return future

    def _map_chunks(
        self, fn: Callable[..., T], items: Iterator[tuple[Any, ...]], deadline: float | None, buffersize: int | None
    ) -> Iterator[T] | None:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        run = self._executor._make_map(self._options, fn, items, deadline, buffersize)
        if run is None:
            return None
        self._maps.add(run)
        run.submit()
        return run.results(self._executor)

    def _pool(self) -> Pool:
        return self._executor

    def __reduce__(self) -> Any:
        return ExecutorView, (self._executor, self._options)

    def stats(self) -> Stats:
        """Return a snapshot of the whole pool."""
        return self._executor.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End this view; the pool goes on.

        Args:
            wait: return when the view's own tasks are done.
            cancel_futures: cancel those of them that no worker has yet.
        """
        if self._executor._is_a_parents():
            return
        with self._lock:
            self._is_shut_down = True
            futures = list(self._open)
        maps = list(self._maps)
        if cancel_futures:
            for future in futures:
                future.cancel()
            for run in maps:
                run.drop()
        if wait:
            _wait(futures)
            for run in maps:
                run.wait()

    def __repr__(self) -> str:
        return f"<ExecutorView of {self._executor!r} with {self._options}>"

    @quick
    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._open.discard(future)


_wait = wait  # inside shutdown() the name is an argument
