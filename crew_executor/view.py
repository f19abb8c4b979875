"""A light view on an executor: the same pool, with options for its tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from typing import Any, ParamSpec, TypeVar

from .callbacks import quick
from .executor import CrewExecutor
from .futures import CrewFuture
from .mapping import DEFAULT_CHUNKSIZE, check_map_arguments, map_in_order, run_chunk
from .options import ExceptionClasses, TaskOptions
from .stats import Stats

P = ParamSpec("P")
T = TypeVar("T")


class ExecutorView(Executor):
    """Submit to a CrewExecutor with options; made by its options().

    shutdown() ends the view and waits for its own tasks; the pool belongs to its executor.
    """

    def __init__(self, executor: CrewExecutor, options: TaskOptions) -> None:
        self._executor = executor
        self._options = options
        self._lock = threading.RLock()  # re-entrant for signal handlers and finalisers: they may submit, too
        self._open: set[Future[Any]] = set()
        self._is_shut_down = False
        self._max_workers = executor._max_workers

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> CrewFuture[T]:
        """Schedule fn(*args, **kwargs) with this view's options; see CrewExecutor.submit()."""
        return self._track(fn, args, kwargs, None)

    def _submit_chunk(self, fn: Callable[..., Any], chunk: list[tuple[Any, ...]]) -> CrewFuture[Any]:
        return self._track(run_chunk, (fn, chunk), {}, fn)

    def _track(
        self, fn: Callable[..., T], args: Any, kwargs: dict[str, Any], call: Callable[..., Any] | None
    ) -> CrewFuture[T]:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = self._executor._submit(self._options, fn, args, kwargs, call=call)
        with self._lock:
            self._open.add(future)
        future.add_done_callback(self._forget)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = DEFAULT_CHUNKSIZE,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Apply fn to the items with this view's options; see CrewExecutor.map()."""
        check_map_arguments(chunksize, buffersize)
        if self._options.has_limits:
            chunksize = DEFAULT_CHUNKSIZE  # the limits are those of each item, and a chunk is one task
        return map_in_order(
            self.submit, self._submit_chunk, fn, iterables, timeout=timeout, chunksize=chunksize, buffersize=buffersize
        )

    def options(
        self,
        *,
        name: str | None = None,
        priority: int | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        retry_on: ExceptionClasses | None = None,
        crash_retries: int | None = None,
        cancel_running: bool | None = None,
        capture_output: bool | None = None,
    ) -> ExecutorView:
        """Return a view with these options on top of this one's; see CrewExecutor.options()."""
        options = self._options.add(
            name=name, priority=priority, timeout=timeout, retries=retries, retry_on=retry_on,
            crash_retries=crash_retries, cancel_running=cancel_running, capture_output=capture_output,
        )  # fmt: skip
        return ExecutorView(self._executor, options)

    def stats(self) -> Stats:
        """Return a snapshot of the whole pool."""
        return self._executor.stats()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End this view; the pool goes on.

        Args:
            wait: return when the view's own tasks are done.
            cancel_futures: cancel those of them that no worker has yet.
        """
        with self._lock:
            self._is_shut_down = True
            futures = list(self._open)
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            _wait(futures)

    def __repr__(self) -> str:
        return f"<ExecutorView of {self._executor!r} with {self._options}>"

    @quick
    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._open.discard(future)


_wait = wait  # inside shutdown() the name is an argument
