"""What all fronts of a pool have in common: submit(), map() and options(). Where a call goes is each one's own."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from . import late
from .calls import command_of
from .chunksize import DEFAULT_CHUNKSIZE, check_map_arguments
from .options import ExceptionClasses, TaskOptions

if TYPE_CHECKING:
    from .chunks import MapRun
    from .futures import CrewFuture
    from .stats import Stats
    from .view import ExecutorView

P = ParamSpec("P")
T = TypeVar("T")


class Pool(Protocol):
    """Where the tasks of a view go: an executor in the client, or what stands for it in a worker."""

    _max_workers: int

    def _submit(
        self, options: TaskOptions, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> CrewFuture[T]:
        """Submit a call."""

    def _make_map(
        self, options: TaskOptions, fn: Callable[..., Any], items: Iterator[tuple[Any, ...]], deadline: float | None,
        buffersize: int | None,
    ) -> MapRun | None:  # fmt: skip
        """Return a map() whose items travel together, or None if each must be a task of its own."""

    def stats(self) -> Stats:
        """Return a consistent, immutable snapshot of tasks, workers and scaling decisions."""

    def _is_a_parents(self) -> bool:
        """Answer whether this process is a forked child of the one that the pool belongs to."""


class TaskSubmitter(Executor):
    """An Executor whose tasks have options."""

    _options: TaskOptions

    @abstractmethod
    def _submit_call(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> CrewFuture[T]:
        """Submit a call with the options of this front."""

    @abstractmethod
    def _pool(self) -> Pool:
        """Return where the tasks of views on this front go."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> CrewFuture[T]:
        """Schedule fn(*args, **kwargs) and return its future; every keyword belongs to fn.

        The call is pickled now: later changes to its arguments do not matter. A call that cannot be pickled makes a
        future with the error.

        Raises:
            RuntimeError: the executor or the interpreter is shut down.
            BrokenCrewError: the pool cannot go on: the initializer failed, or workers never start.
        """
        return self._submit_call(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = DEFAULT_CHUNKSIZE,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over fn applied to the items of the iterables; see options(ordered=...) for their order.

        Args:
            fn: called with one item of each iterable.
            iterables: ends with the shortest.
            timeout: seconds from this call after which the iterator raises TimeoutError, None for ever.
            chunksize: items that travel and run as one task, up to the first that fails. Default: each is a task of
                its own, and they travel together.
            buffersize: read at most so many items ahead of the consumer, rounded up to whole chunks; None reads all at
                once.

        Raises:
            ValueError, TypeError: an argument is out of range.
        """
        check_map_arguments(chunksize, buffersize)
        if self._options.is_for_each:
            chunksize = 1  # a chunk is one task
        deadline = None if timeout is None else time.monotonic() + timeout
        items: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        if self._options.progress:
            items = self._watched(fn, items, iterables)
        if chunksize is DEFAULT_CHUNKSIZE and self._options.allows_chunks and not self._is_submit_replaced():
            results = self._map_chunks(fn, items, deadline, buffersize)
            if results is not None:
                return results
        with late.imports():
            from .mapping import map_by_submit  # late: see intake.py

        return map_by_submit(
            self.submit, fn, items, deadline=deadline, chunksize=chunksize, buffersize=buffersize,
            is_ordered=self._options.is_ordered,
        )  # fmt: skip

    def _watched(
        self, fn: Callable[..., Any], items: Iterator[tuple[Any, ...]], iterables: tuple[Iterable[Any], ...]
    ) -> Iterator[tuple[Any, ...]]:
        """Have it shown how far the items are."""
        with late.imports():
            from .gauge import Gauge, WatchedItems, length_of  # late: most programs show nothing

        name = self._options.name or command_of(fn).removeprefix("__main__.")
        return WatchedItems(items, Gauge(name, pool=self._pool()), length_of(iterables))

    def _is_submit_replaced(self) -> bool:
        """Answer whether each item must be seen by submit(), since a program has put something in its place."""
        return type(self).submit is not TaskSubmitter.submit or "submit" in self.__dict__

    @abstractmethod
    def _map_chunks(
        self, fn: Callable[..., T], items: Iterator[tuple[Any, ...]], deadline: float | None, buffersize: int | None
    ) -> Iterator[T] | None:
        """Submit several items as one task; None: this pool does not."""

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
        ordered: bool | None = None,
        seed: int | None = None,
        resources: Mapping[str, float] | None = None,
        progress: bool | None = None,
    ) -> ExecutorView:
        """Return a light view on this pool whose tasks have these options; None: as before.

        Args:
            name: the tasks' name, in records, errors and reports.
            priority: higher runs first; first in first out within one priority. Default 0.
            timeout: seconds that each run of a task may take, from the start of the call; to unpickle the call, with
                the imports that takes, it has 30 s more. Then it is interrupted by a KeyboardInterrupt, half a second
                later its worker is killed, and it fails with TaskTimeoutError. In map() it holds for each item.
                Default: no limit.
            retries: how often a task is run again after an exception of `retry_on`. Default 0.
            retry_on: an exception class or a tuple of them; TaskTimeoutError is an Exception, too. Default Exception.
            crash_retries: how often a task is run again after its worker died while it ran. Default 0. A worker that
                its launcher reports as taken away by a scheduler costs no retry, five times at most, if either number
                is above 0; local workers never are.
            cancel_running: cancel() of these tasks also ends a running one, as CrewFuture.kill() does. Default False.
            capture_output: what a task writes to stdout and stderr, with what its C code and child processes write,
                is kept as `output` of its record, the last megabyte of it, instead of being shown. Default False.
            ordered: map() gives its results in the order of the items; False: as they come. Default True.
            seed: an integer. Each task of the view, and each item of its map(), has random numbers of its own, the same
                ones in every run of the program, whatever worker it runs in, and when: `random` and, where it is
                loaded, the functions of numpy.random begin at a seed made of this one and of the task's number in the
                view. That seed is in the record, for generators that the task makes itself.
            resources: amounts by name, as {"gpus": 1}: a task is run by a worker that has at least so much of each; see
                gpus= and resources= of launchers. submit() and map() raise ValueError if no worker can have it.
                Default: any worker will do.
            progress: map() shows on stderr how far its items are, while its results are taken, as crew_executor.
                progress() does for futures; submit() shows nothing. Default False.

        Raises:
            ValueError, TypeError: an option is out of range.
        """
        from .view import ExecutorView  # late: it imports this module

        options = self._options.add(
            name=name, priority=priority, timeout=timeout, retries=retries, retry_on=retry_on,
            crash_retries=crash_retries, cancel_running=cancel_running, capture_output=capture_output, ordered=ordered,
            seed=seed, resources=resources, progress=progress,
        )  # fmt: skip
        return ExecutorView(self._pool(), options)
