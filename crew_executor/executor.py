"""CrewExecutor: the front door. Checks arguments, pickles calls, and hands them to its dispatcher."""

from __future__ import annotations

import atexit
import itertools
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from . import late, pools
from .core.scaling import SCALING_MODES, ScalingRules
from .core.stock import Stock
from .cpus import usable_cpus
from .launchers import BaseLauncher, Launcher, LocalLauncher, make_launcher
from .log import logger
from .options import TaskOptions
from .submitter import TaskSubmitter

if TYPE_CHECKING:
    from .checkup import Checkup
    from .chunks import MapRun
    from .dispatcher import Dispatcher
    from .employer import Employer
    from .events import Event
    from .futures import CrewFuture
    from .stats import Stats
    from .timeline import Timeline

T = TypeVar("T")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
"""Set in workers, unless the user has set them, so that all workers together use each CPU once."""

SECONDS_MAX = 1e9
"""30 years: what is more is taken for a mistake. For no limit there are None and math.inf."""
_INTERPRETER_SHUTDOWN = "cannot schedule new futures after interpreter shutdown"

_numbers = itertools.count(1)


class CrewExecutor(TaskSubmitter):
    """Run calls in worker processes that come and go with the work; a drop-in for ProcessPoolExecutor.

    Args:
        max_workers: at most so many workers, as far as the launcher has room; default: all that it has, or the CPUs
            this process may use (affinity, quota of its control groups, SLURM_CPUS_PER_TASK: the least of these).
        mp_context: accepted for compatibility: a multiprocessing context or its name. "spawn" starts a new interpreter
            for each worker; the others, and None, fork workers of a fresh supervisor process, never of this one.
        initializer: called in each worker before its first task; if it fails, the pool is broken.
        initargs: its arguments.
        max_tasks_per_child: tasks after which a worker is replaced, or None.
        launcher: where workers come from: a name ("local") or a Launcher.
        min_workers: so many workers are kept even without work; default 0.
        scaling: "demand": launch what is missing, in one decision; "one": one worker at a time; "none": a fixed pool
            of min_workers, or of max_workers if that is 0; "manual": min_workers, and what launch_workers() says.
        idle_timeout: seconds without work after which a worker leaves; default: the launcher's (local: None, it stays).
        max_pending: tasks submitted and not done above which submit() blocks, or None. In the thread of an event loop
            that would stop the loop; the log says so. Let coroutines take turns by an asyncio.Semaphore instead.
        name: shown in worker names, threads and errors; default "crew-1", "crew-2", ...

    Raises:
        ValueError, TypeError: as ProcessPoolExecutor does, naming the argument.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        launcher: str | BaseLauncher = "local",
        min_workers: int = 0,
        scaling: str = "demand",
        idle_timeout: float | None = None,
        max_pending: int | None = None,
        name: str | None = None,
    ) -> None:
        place = pools.birthplace()
        front = pools.front_for(place)
        if front is not None:
            # This process is one of its workers, and has imported the module that made the executor in the client.
            self.__class__, self.__dict__ = type(front), vars(front)
            return
        self._launcher = make_launcher(launcher)
        self._max_workers = _max_workers(max_workers, self._launcher)
        if self._max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        start_method = _start_method(mp_context)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        _check_tasks_per_child(max_tasks_per_child, start_method)
        _check_own_arguments(self._max_workers, min_workers, scaling, idle_timeout, max_pending)
        self._launcher = _with_start_method(self._launcher, start_method)
        self._name = f"crew-{next(_numbers)}" if name is None else _checked_name(name)
        self._options = TaskOptions()
        self._pid, self._forks = os.getpid(), _forks
        _check_not_forked()
        _fill_standard_descriptors()
        with late.imports():
            self._launcher.prepare()
            # Late, and so beside the imports of the supervisor that prepare() has started:
            from . import inheritance
            from .intake import Intake

        idle_timeout = _idle_timeout(idle_timeout, self._launcher)
        rules = ScalingRules(self._max_workers, min_workers, scaling, self._launcher.max_failed_launches, idle_timeout)
        run_id = int.from_bytes(os.urandom(8), "little")
        origin = pools.Origin(run_id, self._name, self._max_workers, place)
        first_words, courier = inheritance.dumps((origin, initializer, tuple(initargs)))
        hire = partial(
            _hire, self._launcher, self._name, run_id, self._max_workers, idle_timeout=idle_timeout,
            environment=_thread_limits(self._max_workers), courier=courier,
        )  # fmt: skip
        self._dispatcher = _make_dispatcher(
            self._name, run_id, hire, rules, tasks_max=max_tasks_per_child, max_pending=max_pending,
            initializer=first_words, stock=_stock(self._launcher, rules),
        )  # fmt: skip
        self._intake = Intake(self._dispatcher)
        pools.add(run_id, self)
        # A forgotten executor finishes its work, then its workers leave. The callback must not refer to the executor.
        weakref.finalize(self, self._dispatcher.shutdown).atexit = False
        self._dispatcher.start_workers()

    _timeline: Timeline | None = None

    def stats(self) -> Stats:
        """Return a consistent, immutable snapshot of tasks, workers and scaling decisions."""
        self._check_process()
        return self._dispatcher.stats()

    def launch_workers(self, number: int) -> None:
        """Launch so many workers more, whatever there is to do, as far as max_workers allows.

        Does not wait until they have come: stats() has them as starting.

        Raises:
            ValueError, TypeError: the number is below 1, or no integer.
            RuntimeError, BrokenCrewError: as submit() does.
        """
        if not isinstance(number, int):
            raise TypeError(f"the number of workers to launch must be an integer, not {number!r}")
        if number < 1:
            raise ValueError(f"the number of workers to launch must be at least 1, not {number!r}")
        self._check_submit()
        self._dispatcher.check_open()
        self._dispatcher.start_workers(number)

    def share(self, obj: T) -> T:
        """Send a constant to each worker once, instead of with every call; return what stands for it in calls.

        Tasks that are given the returned handle, as an argument or inside one, get the object: the same one for all
        tasks of a worker, its large buffers (numpy arrays and the like) in memory that all workers of this machine
        have in common and nobody can write to. The object is pickled now; later changes to it do not matter. When the
        handle is dropped, and the tasks that were given it are done, workers forget the object.

        Args:
            obj: anything that can be pickled.

        Returns:
            The handle. Its type is declared as that of the object, as which it arrives.

        Raises:
            whatever pickling raises; RuntimeError, BrokenCrewError: as submit() does.
        """
        self._check_submit()
        return self._intake.share(obj)

    def check(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Checkup:
        """Say whether a call can be sent: what of it cannot be pickled, and how large its parts are; fn is not called.

        In the end a worker reads the call, so that modules which are missing there are named; one is started if there
        is none.

        Returns:
            What was found: true if all is well; str() of it says it in words.

        Raises:
            RuntimeError, BrokenCrewError: as submit() does.
        """
        from . import checkup  # late: most need none

        self._check_submit()
        with self._dispatcher.shares.collecting():  # handles of share() are pickled as in a call
            found = checkup.look(fn, args, kwargs)
        if not found:
            return found
        future = self._submit(TaskOptions(name="check"), checkup.arrive, (fn, args, kwargs), {})
        error = future.exception()
        return checkup.judge(found, error, None if error is not None else future.result())

    def timeline(self) -> Timeline:
        """Record from now on what tasks and workers do; return the recording, the same one each time.

        It costs some microseconds a task, and a few hundred bytes. It can be saved at any time, also when the executor
        is shut down: as a page for a browser, or for Perfetto.

        Raises:
            RuntimeError: in a forked child of the executor's process.
        """
        self._check_process()
        if self._timeline is None:
            from .timeline import Timeline  # late: most need none

            self._timeline = Timeline(self._name, self._dispatcher.run_id, self._max_workers)
            self._dispatcher.events.listen(self._timeline.take)
        return self._timeline

    def on_event(self, fn: Callable[[Event], object]) -> None:
        """Call fn(event) for all that happens from now on: for metrics, traces, a log of your own.

        Args:
            fn: called with a TaskEvent, WorkerEvent or PoolEvent (see crew_executor.events), one after the other, in a
                thread of its own: it may take its time, but what waits for it is kept. What it raises is logged.
                shutdown() waits until it has been told all.

        Raises:
            RuntimeError: in a forked child of the executor's process.
            TypeError: fn cannot be called.
        """
        if not callable(fn):
            raise TypeError(f"on_event() needs a function to call, not {fn!r}")
        self._check_process()
        self._dispatcher.events.hook(self._name, fn)

    def run_on_all(self, fn: Callable[..., T], /, *args: Any) -> list[CrewFuture[T]]:
        """Run a function once on every worker, also on those that come later: to set something up there.

        A worker runs it behind the tasks that it has been given already, and before all that are submitted afterwards.
        Those that join later run it behind the initializer, before their first task; a failure there breaks the pool,
        as that of an initializer does. Every call is kept for them as long as the executor lives.

        Args:
            fn: called as fn(*args). It cannot submit tasks, and has no timeout.
            args: its arguments.

        Returns:
            A future of each worker that is there, in the order of their launches; they cannot be cancelled. There may
            be no worker yet: the first ones come with the first tasks.

        Raises:
            whatever pickling raises; RuntimeError, BrokenCrewError: as submit() does. RuntimeError: called in a
            callback of a future, or in a signal handler. TypeError: fn cannot be called.
        """
        if not callable(fn):
            raise TypeError(f"run_on_all() needs a function to call, not {fn!r}")
        self._check_submit()
        return self._intake.run_on_all(fn, args)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, finish those submitted, then let the workers go.

        Args:
            wait: return when all that is done; else at once, while it goes on.
            cancel_futures: cancel what no worker has yet.
        """
        if self._is_a_parents():
            return
        self._dispatcher.shutdown(cancel_futures=cancel_futures)
        if wait:
            self._dispatcher.join()

    def terminate_workers(self) -> None:
        """End the workers with SIGTERM, whatever they run, and close the executor."""
        self._end_workers("SIGTERM")

    def kill_workers(self) -> None:
        """End the workers with SIGKILL, whatever they run, and close the executor."""
        self._end_workers("SIGKILL")

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut down and wait; on the way out of the program, by Ctrl-C or sys.exit(), end what runs instead."""
        # A generator that is closed with the block in it is no such way.
        is_leaving = exc_type is not None and not issubclass(exc_type, (Exception, GeneratorExit))
        if exc_type is not None and is_leaving and not self._is_a_parents():
            stats = self.stats()
            if issubclass(exc_type, SystemExit) and stats.running + stats.queued:  # the others do not come unawares
                logger.warning(
                    "the with block of executor %s is left by SystemExit: %d running tasks are ended and %d queued "
                    "ones cancelled; to wait for them, call shutdown() before",
                    self._name, stats.running, stats.queued,
                )  # fmt: skip
            self.kill_workers()
            self._dispatcher.join()
        else:
            self.shutdown(wait=True)

    @property
    def _broken(self) -> BaseException | bool:
        """What ProcessPoolExecutor calls it; callers that look at it exist."""
        return self._dispatcher.broken or False

    def __repr__(self) -> str:
        if self._is_a_parents():
            return f"<CrewExecutor {self._name} of process {self._pid}>"
        stats = self.stats()
        return (
            f"<CrewExecutor {self._name}: {stats.queued} queued, {stats.running} running, {stats.done} done;"
            f" {len(stats.workers)} of at most {self._max_workers} workers>"
        )

    def _end_workers(self, signal_name: str) -> None:
        import signal

        self._check_process()
        self._dispatcher.kill_workers(signal.Signals[signal_name])

    def _submit_call(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> CrewFuture[T]:
        if _is_interpreter_ending or self._forks != _forks:
            self._check_submit()
        return self._intake.submit(self._options, fn, args, kwargs)

    def _map_chunks(
        self, fn: Callable[..., T], items: Iterator[tuple[Any, ...]], deadline: float | None, buffersize: int | None
    ) -> Iterator[T] | None:
        run = self._make_map(self._options, fn, items, deadline, buffersize)
        if run is None:
            return None
        run.submit()
        return run.results(self)

    def _make_map(
        self, options: TaskOptions, fn: Callable[..., Any], items: Iterator[tuple[Any, ...]], deadline: float | None,
        buffersize: int | None,
    ) -> MapRun | None:  # fmt: skip
        """Return a map() whose items travel together, or None if each must be a task of its own."""
        if self._is_submit_replaced() or self._dispatcher.max_pending is not None:
            return None
        self._check_submit()
        return self._intake.make_map(options, fn, items, deadline, buffersize)

    def _pool(self) -> CrewExecutor:
        return self

    def __reduce__(self) -> Any:
        return pools.find, (self._dispatcher.run_id, self._name, self._max_workers)

    def _is_a_parents(self) -> bool:
        """Answer whether this process is a forked child of the executor's: the pool is not ours to end."""
        return self._pid != os.getpid()

    def _check_process(self) -> None:
        if self._is_a_parents():
            raise RuntimeError(
                f"executor {self._name} belongs to process {self._pid}; this is its forked child {os.getpid()}, where "
                "NNG cannot be used: start this process with the spawn or forkserver method to make an executor here"
            )

    def _check_submit(self) -> None:
        if _is_interpreter_ending:
            raise RuntimeError(_INTERPRETER_SHUTDOWN)
        self._check_process()

    def _submit(
        self,
        options: TaskOptions,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        call: Callable[..., Any] | None = None,
        reduce: Callable[[Any], Any] | None = None,
    ) -> CrewFuture[T]:
        """Submit a call. `call` is the user's function where fn is one of ours that calls it; `reduce` as pickle's."""
        self._check_submit()
        return self._intake.submit(options, fn, args, kwargs, call, reduce)


# ---------------------------------------------------------------------- checks


def _start_method(mp_context: Any) -> str | None:
    if mp_context is None:
        return None
    method = mp_context
    if hasattr(mp_context, "get_start_method"):
        method = mp_context.get_start_method(allow_none=False)
    if method not in ("fork", "forkserver", "spawn"):
        raise ValueError(f"mp_context must be None, a multiprocessing context or its name, not {mp_context!r}")
    return str(method)


def _checked_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {type(name).__name__}")
    if not (0 < len(name) <= 100 and name.isprintable()):
        raise ValueError(f"name must have 1 to 100 printable characters, not {name[:100]!r}")
    return name


def _check_tasks_per_child(number: int | None, start_method: str | None) -> None:
    if number is None:
        return
    if not isinstance(number, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if number <= 0:
        raise ValueError("max_tasks_per_child must be >= 1")
    if start_method == "fork":
        raise ValueError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method; "
            "supply a different mp_context."
        )


def _check_own_arguments(
    max_workers: int, min_workers: int, scaling: str, idle_timeout: float | None, max_pending: int | None
) -> None:
    if not hasattr(min_workers, "__index__") or not 0 <= min_workers <= max_workers:
        text = f"min_workers must be between 0 and max_workers={max_workers}, and a whole number, not {min_workers!r}"
        raise ValueError(text)
    if scaling not in SCALING_MODES:
        raise ValueError(f"scaling must be one of {', '.join(SCALING_MODES)}, not {scaling!r}")
    if idle_timeout is not None and not 0 < idle_timeout < SECONDS_MAX and idle_timeout != math.inf:
        raise ValueError(f"idle_timeout must be None or a number of seconds above 0, not {idle_timeout!r}")
    if max_pending is not None and max_pending < 1:
        raise ValueError(f"max_pending must be None or at least 1, not {max_pending!r}")


def _with_start_method(launcher: BaseLauncher, start_method: str | None) -> BaseLauncher:
    if start_method == "spawn" and isinstance(launcher, LocalLauncher) and launcher.python is None:
        return launcher.with_python(sys.executable)
    return launcher


def _max_workers(number: int | None, launcher: BaseLauncher) -> int:
    """Return how many workers there may be: what is asked for, as far as the launcher has room."""
    capacity = launcher.capacity
    if number is None:
        return usable_cpus() if capacity is None else capacity
    if not hasattr(number, "__index__"):
        raise TypeError(f"max_workers must be an integer, not {number!r}")
    if capacity is not None and number > capacity:
        logger.warning("max_workers=%d is more than the launcher has room for: %d", number, capacity)
        return capacity
    return number


def _idle_timeout(seconds: float | None, launcher: BaseLauncher) -> float | None:
    """Return after how long an idle worker leaves, or None: it stays."""
    if seconds is None:
        seconds = launcher.idle_timeout
    return None if seconds in (None, math.inf) else float(seconds or 0.0)


def _thread_limits(max_workers: int) -> dict[str, str]:
    share = str(max(1, usable_cpus() // max_workers))
    return dict.fromkeys(THREAD_VARIABLES, share)


# ---------------------------------------------------------------------- the end of the interpreter

LAST_WAIT_SECONDS = 2.0
"""How long a client that was interrupted at its end waits for its threads: a callback may take for ever."""

_is_interpreter_ending = False
_forks = 0
"""How many forks lie between this process and the first that imported this; asking for the pid is a system call."""


def _check_not_forked() -> None:
    transport = sys.modules.get("crew_executor.transport")
    if transport is not None and transport.was_forked_from_user():
        raise RuntimeError(
            f"process {os.getpid()} was forked from one that used a CrewExecutor; NNG cannot be used here: start this "
            "process with the spawn or forkserver method of multiprocessing"
        )


def _hire(launcher: BaseLauncher, name: str, run: int, workers_max: int, home: Dispatcher, **told: Any) -> Employer:
    """Return where the workers of a dispatcher come from."""
    if isinstance(launcher, LocalLauncher):
        from .employer import LocalEmployer

        return LocalEmployer(launcher, run, **told, workers_max=workers_max)
    from .fleet import Fleet

    return Fleet(home, cast("Launcher", launcher), name, run, **told, workers_max=workers_max)


def _stock(launcher: BaseLauncher, rules: ScalingRules) -> Stock:
    outfit = launcher.outfit(rules.max_workers)
    size = rules.min_workers or rules.max_workers if rules.mode == "none" else rules.max_workers
    sets = [each.resources for each in outfit.sets]
    return Stock(outfit.resources, sets, size, is_set_first=rules.mode in ("none", "manual"))


def _make_dispatcher(*args: Any, **kwargs: Any) -> Dispatcher:
    from .dispatcher import Dispatcher  # late: pynng takes 70-100 ms to import

    dispatcher = Dispatcher(*args, **kwargs)
    pools.add_dispatcher(dispatcher.run_id, dispatcher)
    if os.environ.get("CREW_EXECUTOR_LOG"):
        from . import event_log  # late: most need none

        event_log.begin(dispatcher.name, dispatcher.events)
    atexit.unregister(_end_without_hooks)
    atexit.register(_end_without_hooks)  # after pynng's own, which was registered when it was imported: so before it
    return dispatcher


def _fill_standard_descriptors() -> None:
    """Open /dev/null where the program has closed 0, 1 or 2, or was started without.

    The next descriptor opened would get that number, and be a link of ours: what anything prints goes into it, and a
    child process has it as its stdout, so that its end is never seen.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free


def _end_of_interpreter() -> None:
    """Finish what was submitted, then end every worker and the supervisor.

    Runs as a threading exit hook: before atexit, so before pynng's own, and before daemon threads are frozen. After a
    KeyboardInterrupt, or when one comes here, nobody wants to wait: what runs is ended.
    """
    global _is_interpreter_ending
    _is_interpreter_ending = True
    dispatchers = pools.dispatchers()
    # In a shell that is what ended some earlier line, not the program.
    is_interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")
    try:
        for dispatcher in dispatchers:
            if is_interrupted:
                dispatcher.kill_workers()
            else:
                dispatcher.shutdown()
        for dispatcher in dispatchers:
            dispatcher.join_lending_this_thread()
    except BaseException:
        _end_at_once(dispatchers)
        raise
    finally:
        supervisor_handle = sys.modules.get("crew_executor.launchers.supervisor_handle")
        if supervisor_handle is not None:
            supervisor_handle.close()


def _end_without_hooks() -> None:
    """End what runs, if a Ctrl-C has struck just before threading called its exit hooks, and then it calls none."""
    if not _is_interpreter_ending:
        _end_at_once(pools.dispatchers())


def _end_at_once(dispatchers: list[Dispatcher]) -> None:
    """End what runs. NNG must not be closed while threads of ours are in it: if one cannot end, it is left open."""
    for dispatcher in dispatchers:
        dispatcher.kill_workers()
    until = time.monotonic() + LAST_WAIT_SECONDS
    if not all(dispatcher.join(max(0.0, until - time.monotonic())) for dispatcher in dispatchers):
        sys.modules["crew_executor.transport"].leave_open()


def _forget_in_child() -> None:
    """A forked child ends without waiting for its parent's workers."""
    global _forks
    _forks += 1
    for dispatcher in pools.dispatchers():
        # Another thread of the parent may have held it; a cancel() takes it.
        dispatcher._lock = dispatcher.canceller._lock = threading.RLock()
    pools.forget_dispatchers()


threading._register_atexit(_end_of_interpreter)  # type: ignore[attr-defined]  # what concurrent.futures itself uses
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
