"""joblib's backend "crew": joblib.Parallel, and with it scikit-learn, on a CrewExecutor. The only importer of joblib.

    joblib.Parallel -> CrewBackend, one for each Parallel -> _Call, one for each call of it -> the executor's futures

It is written against joblib's interface for backends (ParallelBackendBase and AutoBatchingMixin); only _Arrays uses
what joblib keeps to itself. A future that joblib never hears of again makes Parallel wait for ever: so whatever becomes
of a batch, its callback is called. Nothing else in the package may import this module.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

from joblib import cpu_count, register_parallel_backend
from joblib._memmapping_reducer import TemporaryResourcesManager, get_memmapping_reducers
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    ThreadingBackend,
)

from .cpus import usable_cpus
from .executor import THREAD_VARIABLES, CrewExecutor
from .futures import CrewFuture
from .joblib_worker import set_variables
from .launchers import LocalLauncher
from .options import TaskOptions
from .view import ExecutorView

NAME = "crew"
"""What the backend is called in parallel_config(backend="crew")."""

IDLE_SECONDS = 300.0
"""Time without work after which the workers of the backend's own executor leave; loky's are given as much."""

Callback = Callable[[Future[Any]], object]

_is_registered = False
_is_in_batch = False  # in a worker: whether it runs a batch of joblib's at this moment


def register(executor: CrewExecutor | ExecutorView | None = None) -> None:
    """Make "crew" a backend of joblib: afterwards parallel_config(backend="crew") runs Parallel on worker processes.

    Args:
        executor: what to run on: an executor, or a view of one, whose options then hold for each batch of joblib's.
            It stays yours to shut down. Default: the backend makes its own with as many workers as the jobs that are
            asked for, keeps it for later calls, and ends it with the interpreter; its workers leave after 300 s
            without work. parallel_config(backend="crew", executor=...) names another one for a block.

    Raises:
        TypeError: the executor is neither None, nor a CrewExecutor or a view of one.
    """
    global _is_registered
    register_parallel_backend(NAME, partial(CrewBackend, executor=_checked(executor)))
    _is_registered = True


def shutdown() -> None:
    """End the workers that the backend keeps between calls, and return when they are gone; a later call starts others.

    Call it when no Parallel runs on them. An executor that was given to register() is left alone.
    """
    global _kept
    with _keeping:
        kept, _kept = _kept, None
    if kept is not None:
        kept.executor.shutdown()


class CrewBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """What joblib.Parallel talks to. The instance of a parallel_config() only makes one of its own for each Parallel.

    Args:
        executor: as in register().
        nesting_level: how many Parallel calls are around this one; joblib sets it.
        inner_max_num_threads: threads that numeric libraries may use in each worker; default: the CPUs divided by the
            jobs, unless variables such as OMP_NUM_THREADS say otherwise.

    Raises:
        TypeError: as register() does.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1  # whoever names this backend wants more than one process

    def __init__(
        self,
        executor: CrewExecutor | ExecutorView | None = None,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._given = _checked(executor)
        self.parallel: Any = None
        self._executor: CrewExecutor | ExecutorView | None = None
        self._limit = 0
        self._arrays: _Arrays | None = None
        self._call: _Call | None = None
        self._failure: tuple[BaseException, TracebackType | None] | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many jobs run at a time where n_jobs are asked for; None stands for -1, all that is there."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        n_jobs = self.default_n_jobs if n_jobs is None else n_jobs
        most = _cpus() if self._given is None else self._given._max_workers
        if n_jobs < 0:
            return max(1, most + 1 + n_jobs)
        return n_jobs if self._given is None else min(n_jobs, most)

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **options: Any) -> int:
        """Get ready for calls of a Parallel and return the number of jobs.

        Args:
            n_jobs: as asked for.
            parallel: the Parallel.
            options: those of Parallel; of interest are the ones for memory-mapped arrays.

        Raises:
            FallbackToBackend: what joblib is to use instead.
            ValueError: inner_max_num_threads, and an executor whose workers have their limit already.
        """
        jobs = self.effective_n_jobs(n_jobs)
        if jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if _is_in_batch:  # this is a worker: no workers of workers
            kind = ThreadingBackend if (self.nesting_level or 0) <= 1 else SequentialBackend
            raise FallbackToBackend(kind(nesting_level=self.nesting_level))
        if self.parallel is not parallel:
            # Several Parallel objects can be at work in one parallel_config(): generators are read when the user likes.
            own = CrewBackend(self._given, self.nesting_level, self.inner_max_num_threads)
            own.parallel = parallel
            raise FallbackToBackend(own)
        if self._given is not None and self.inner_max_num_threads is not None:
            raise ValueError(
                "inner_max_num_threads is for the backend's own workers. Those of an executor that is given have their "
                "limit from their start: set OMP_NUM_THREADS in os.environ before you make it"
            )
        self._executor = self._given or _own_executor(jobs, self.inner_max_num_threads)
        self._limit = jobs
        self._arrays = _Arrays(**options) if _is_on_this_machine(self._executor) else None
        return jobs

    def start_call(self) -> None:
        """Begin a call of the Parallel."""
        assert self._executor is not None
        self._call = _Call(self._executor, self._limit, self._arrays)

    def submit(self, func: Any, callback: Callback) -> Future[Any] | None:
        """Let a batch run; never raises what the executor raises, for joblib may ask in a thread of ours.

        Args:
            func: the batch, a BatchedCalls.
            callback: called with the batch's future when that is done, here or in another thread.

        Returns:
            The future, or None if the batch has to wait for others, or will not run.
        """
        # Without a call, it was aborted while a thread of ours was about to send more of it.
        return None if self._call is None else self._call.add(func, callback)

    apply_async = submit  # its name until joblib 1.4

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the results of a batch that is done, or raise its exception."""
        error = out.exception()
        if error is not None:
            self._failure = error, error.__traceback__
            raise error
        return out.result()

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Give an exception its frames in the worker again, of which joblib strips it on the way to the caller."""
        try:
            yield
        except BaseException as error:
            if self._failure is not None and self._failure[0] is error and error.__traceback__ is not None:
                _last(error.__traceback__).tb_next = self._failure[1]
            raise
        finally:
            self._failure = None

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002  it always is
        """End the batches of this call, the running ones as well; the workers stay for the next call."""
        if self._call is not None:
            self._call.abort()

    def terminate(self) -> None:
        """Let go of what a Parallel needed; the workers stay."""
        self._executor = self._call = self._failure = None
        arrays, self._arrays = self._arrays, None
        if arrays is not None:
            arrays.remove()
        self.reset_batch_stats()


def _checked(executor: Any) -> CrewExecutor | ExecutorView | None:
    pool = executor._executor if isinstance(executor, ExecutorView) else executor
    if executor is None or isinstance(pool, CrewExecutor):  # not one that came as an argument into a worker
        return executor  # type: ignore[no-any-return]
    raise TypeError(f"executor must be a CrewExecutor or a view of one, not {type(executor).__name__}")


def _pool_of(executor: CrewExecutor | ExecutorView) -> tuple[CrewExecutor, TaskOptions]:
    pool = executor._executor if isinstance(executor, ExecutorView) else executor
    assert isinstance(pool, CrewExecutor)  # _checked() has seen to it
    return pool, executor._options


def _is_on_this_machine(executor: CrewExecutor | ExecutorView) -> bool:
    return isinstance(_pool_of(executor)[0]._launcher, LocalLauncher)


def _last(traceback: TracebackType) -> TracebackType:
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback


# ---------------------------------------------------------------------- one call


class _Call:
    """The batches of one call of Parallel: at most `limit` of them at the executor, and none once it is aborted.

    Args:
        executor: where they run.
        limit: how many at a time.
        arrays: reduces large arrays, or None.
    """

    def __init__(self, executor: CrewExecutor | ExecutorView, limit: int, arrays: _Arrays | None) -> None:
        self._executor, self._options = _pool_of(executor)
        # All are sent where no more than the limit can run anyway: a worker then need not wait for our answer.
        self._limit: float = limit if limit < self._executor._max_workers else float("inf")
        self._reduce = None if arrays is None else arrays.reduce
        self._lock = threading.RLock()  # never held while a callback runs: joblib's take a lock of joblib's
        self._waiting: deque[tuple[Any, Callback]] = deque()
        self._sent: dict[CrewFuture[Any], None] = {}  # in this order
        self._is_aborted = False

    def add(self, batch: Any, callback: Callback) -> Future[Any] | None:
        """Send a batch, now or when there is room; return its future if it is sent now."""
        with self._lock:
            self._waiting.append((batch, callback))
        return self._send()

    def abort(self) -> None:
        """Send nothing more, and end what was sent."""
        with self._lock:
            self._is_aborted = True
            sent = list(self._sent)
        # The last one first: a worker whose task is ended must not find the next one still there.
        for future in reversed(sent):
            future.kill()

    def _send(self) -> Future[Any] | None:
        """Send one batch if one waits and there is room."""
        with self._lock:
            if self._is_aborted or not self._waiting or len(self._sent) >= self._limit:
                return None
            batch, callback = self._waiting.popleft()
            future = self._submit(batch)
            self._sent[future] = None
        future.add_done_callback(partial(self._done, callback))
        return future

    def _submit(self, batch: Any) -> CrewFuture[Any]:
        task = _Batch(batch)
        try:
            return self._executor._submit(self._options, task, (), {}, call=task.func, reduce=self._reduce)
        except Exception as error:  # shut down, or broken: as a result, where joblib sees it
            future: CrewFuture[Any] = CrewFuture(task.func)
            future._finish_lost(error)
            return future

    def _done(self, callback: Callback, future: Future[Any]) -> None:
        with self._lock:
            self._sent.pop(future, None)  # type: ignore[call-overload]
        self._send()
        callback(future)


class _Batch:
    """A batch of joblib's on its way, and in the worker. Parallel calls in it use threads, those in them none."""

    def __init__(self, calls: Any) -> None:
        self.calls = calls

    @property
    def func(self) -> Any:
        """The function of its first call, which records and errors name, as for a partial."""
        return self.calls.items[0][0]

    def __call__(self) -> Any:
        global _is_in_batch
        if not _is_registered:
            register()  # a task may name this backend
        _is_in_batch = True
        try:
            return self.calls()
        finally:
            _is_in_batch = False


class _Arrays:
    """Large arrays as files that workers map into their memory, by the means of joblib's own backends.

    Args:
        max_nbytes: size in bytes above which an array travels as a file, or None.
        mmap_mode: as numpy's.
        temp_folder: where to put the files, or None for joblib's choice.
        verbose: joblib's level.
    """

    def __init__(
        self,
        max_nbytes: int | None = None,
        mmap_mode: str | None = "r",
        temp_folder: str | None = None,
        verbose: int = 0,
        **_others: Any,
    ) -> None:
        self._folder = temp_folder
        self._manager: Any = None
        self._reducers, _for_results = get_memmapping_reducers(
            temp_folder_resolver=self._resolve_folder, max_nbytes=max_nbytes, mmap_mode=mmap_mode, verbose=verbose,
            unlink_on_gc_collect=False,
        )  # fmt: skip

    def reduce(self, item: Any) -> Any:
        """Reduce an array as joblib does; as pickle's reducer_override."""
        reducer = self._reducers.get(type(item))
        return NotImplemented if reducer is None else reducer(item)

    def remove(self) -> None:
        """Remove the files. What workers have mapped they keep."""
        if self._manager is not None:
            self._manager._clean_temporary_resources(force=True)

    def _resolve_folder(self) -> str:
        if self._manager is None:  # late: it starts joblib's resource tracker, a process
            self._manager = TemporaryResourcesManager(self._folder)
        return str(self._manager.resolve_temp_folder_name())


# ---------------------------------------------------------------------- the backend's own executor


class _Kept(NamedTuple):
    executor: CrewExecutor
    variables: dict[str, str]  # what its workers have in their environment
    pid: int

    def is_fit(self, jobs: int, variables: dict[str, str]) -> bool:
        """Answer whether a Parallel can run on it."""
        if self.pid != os.getpid() or self.executor._max_workers < jobs or self.variables != variables:
            return False
        try:
            self.executor._dispatcher.check_open()
        except RuntimeError:  # it broke, or somebody has found and ended it
            return False
        return True


_kept: _Kept | None = None
_keeping = threading.RLock()


def _own_executor(jobs: int, threads: int | None) -> CrewExecutor:
    """Return the kept executor, or a new one if that does not fit.

    The former one ends when nobody runs on it any more: it is forgotten then, and collected.
    """
    global _kept
    share = str(max(1, _cpus() // jobs))
    variables = {name: str(threads or os.environ.get(name, share)) for name in THREAD_VARIABLES}
    with _keeping:
        if _kept is None or not _kept.is_fit(jobs, variables):
            executor = CrewExecutor(
                jobs, initializer=set_variables, initargs=(variables,), idle_timeout=IDLE_SECONDS, name="joblib"
            )
            _kept = _Kept(executor, variables, os.getpid())
        return _kept.executor


def _cpus() -> int:
    """Return the CPUs to be used by both our count and joblib's, which heeds LOKY_MAX_CPU_COUNT."""
    return min(usable_cpus(), int(cpu_count()))


def _after_fork_in_child() -> None:
    global _keeping
    _keeping = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
