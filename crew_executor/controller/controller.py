"""Controller: push tasks, wait, pop their records as they come. Everything else is the executor's business.

    push()  users' threads --> executor.submit() --> future --> its callback: judged, numbered, put into `done`
    pop()   users' threads <-- the oldest of `done`

One condition for each controller: whoever waits is woken by a result, nobody polls.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import CrewError
from ..executor import CrewExecutor
from ..launchers import Launcher, LocalLauncher
from ..seeding import SeedStream
from ..stats import SeatStats, Stats
from .inline import InlineExecutor
from .pushed import Call, Pushed
from .result import MapError, Result, Results
from .summary import Summary
from .waiting import check_error_mode, describe, heed, wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

AUTO_SCALE = {"demand": "demand", "one": "one", "none": "manual"}
"""crew's words for how workers are launched, and the executor's."""

_numbers = itertools.count(1)
_results_numbers = itertools.count(1)


class Popped:
    """What was popped of the tasks of a seat."""

    __slots__ = ("errors", "seconds", "tasks", "warnings")

    def __init__(self) -> None:
        self.tasks = self.errors = self.warnings = 0
        self.seconds = 0.0


class Controller:
    """Push tasks, wait for them, pop their records.

    Args:
        name: shown in records, worker names and errors; default "controller-1", "controller-2", ...
        workers: at most so many.
        tasks_max: tasks after which a worker is replaced, or None: 1 for transient, None for persistent workers.
        seconds_idle: without work for so long, a worker leaves; default: the launcher's (local: None, it stays).
        seconds_start: within this time a launched worker must have joined; default: the launcher's.
        seconds_wall: a worker leaves after this time, when its task is done; default: the launcher's.
        auto_scale: "demand": as many workers as there are tasks, up to `workers`; "one": one more at a time; "none":
            only those of launch() and scale().
        launcher: "local", another launcher's name, a Launcher, or "inline": no workers, tasks run in push().
        crashes_max: so many times in a row the worker of a task of the same name may die. See push().
        backup: the controller that runs those that have reached crashes_max. It may have a backup, too.
        workers_min: so many workers are kept even without work; default 0.
        initializer, initargs: called in each worker before its first task.

    Raises:
        ValueError, TypeError: an argument is out of range.
    """

    def __init__(
        self,
        name: str | None = None,
        workers: int = 1,
        tasks_max: int | None = None,
        seconds_idle: float | None = None,
        seconds_start: float | None = None,
        seconds_wall: float | None = None,
        auto_scale: str = "demand",
        launcher: str | Launcher = "local",
        crashes_max: int = 5,
        backup: Controller | None = None,
        *,
        workers_min: int = 0,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if auto_scale not in AUTO_SCALE:
            raise ValueError(f"auto_scale must be one of {', '.join(AUTO_SCALE)}, not {auto_scale!r}")
        if crashes_max < 1:
            raise ValueError(f"crashes_max must be at least 1, not {crashes_max!r}")
        if backup is not None and not isinstance(backup, Controller):
            raise TypeError(f"backup must be a Controller, not {type(backup).__name__}")
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers!r}")
        self.name = f"controller-{next(_numbers)}" if name is None else name
        self.workers = 1 if launcher == "inline" else workers
        self.crashes_max = crashes_max
        self.backup = backup
        self._auto_scale = auto_scale
        self._launcher = _with_times(launcher, seconds_start, seconds_wall)
        self._make = partial(
            CrewExecutor, workers, initializer=initializer, initargs=initargs, max_tasks_per_child=tasks_max,
            min_workers=workers_min, scaling=AUTO_SCALE[auto_scale], idle_timeout=seconds_idle, name=self.name,
        )  # fmt: skip
        self._executor: CrewExecutor | InlineExecutor | None = None
        self._condition = threading.Condition()
        self._listeners: list[threading.Condition] = []  # of groups
        self._done: deque[Result] = deque()
        self._open: dict[str, Pushed] = {}
        self._waiting: Counter[str] = Counter()  # names of results that are not popped
        self._crashes: Counter[str] = Counter()
        self._popped: dict[int | None, Popped] = {}
        self._earlier: tuple[SeatStats, ...] = ()  # of executors that were terminated
        self._names = itertools.count(1)
        self.pushed = 0
        self.popped = 0

    # ------------------------------------------------------------------ life

    @property
    def started(self) -> bool:
        """Whether there is an executor, which push() makes if need be."""
        return self._executor is not None

    def start(self) -> None:
        """Make the executor, if there is none: no worker yet, unless workers_min says so."""
        with self._condition:
            if self._executor is None:
                launcher = self._launcher
                is_inline = launcher == "inline"
                self._executor = InlineExecutor(self.name) if is_inline else self._make(launcher=launcher)

    def terminate(self) -> None:
        """End the workers, whatever they run, and wait for their end. What is not done is cancelled.

        Results can still be popped. The next push() starts the controller again.
        """
        with self._condition:
            executor = self._executor
        if executor is None:
            return
        self.cancel(all=True)  # else the end of the workers would count as crashes
        executor.kill_workers()
        executor.shutdown(wait=True)
        with self._condition:
            if self._executor is executor:
                self._earlier = self._seats()
                self._executor = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Terminate: call wait() before if the tasks are to be done."""
        self.terminate()

    # ------------------------------------------------------------------ tasks

    def push(
        self, fn: Callable[..., Any], /, *args: Any, name: str | None = None, seed: int | None = None,
        timeout: float | None = None, kwargs: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Submit a call; return its future, of which only those need to know who do not use pop().

        A crash, the death of the worker that runs a task, gives a record with the status "crash". Push the call again
        under its name to try again. The crash that makes it crashes_max in a row sends the task to the backup at once,
        and so goes what is pushed under that name later. Without a backup, such a push is refused.

        Args:
            fn: called in a worker, with args.
            name: of the task; no other one that is not popped may have it. Default: a number.
            seed: where its random numbers begin: see CrewExecutor.options().
            timeout: seconds that it may run.
            kwargs: keyword arguments of fn.

        Raises:
            ValueError: there is a task of that name, not done or not popped.
            CrewError: tasks of that name have crashed crashes_max times in a row, and there is no backup.
            whatever CrewExecutor.submit() raises.
        """
        return self._push(name, None, Call(fn, args, kwargs or {}, seed, timeout)).future

    def _push(self, name: str | None, done: deque[Result] | None, call: Call) -> Pushed:
        self.start()
        with self._condition:
            pushed = Pushed(self._checked_name(name), self, self._done if done is None else done, call)
            pushed.is_plain = name is None and call.seed is None and call.timeout is None
            runner = self._runner(pushed.name)
            self._open[pushed.name] = pushed
            self.pushed += 1
        try:
            runner._submit(pushed)
        except BaseException:
            with self._condition:
                if self._open.get(pushed.name) is pushed:  # else it ran, and a callback or a Ctrl-C raised
                    del self._open[pushed.name]
                    self.pushed -= 1
            raise
        return pushed

    def _checked_name(self, name: str | None) -> str:
        if name is None:
            name = next(free for number in self._names if (free := str(number)) not in self._open)
        if name in self._open or self._waiting[name]:
            state = "not done" if name in self._open else "done and not popped"
            raise ValueError(
                f"controller {self.name} has a task named {name!r} already, which is {state}: give this one another "
                "name, or pop that one first"
            )
        del self._waiting[name]  # the look has made an entry
        return name

    def _runner(self, name: str) -> Controller:
        """Return who is to run tasks of that name: this controller, or the one behind it."""
        if self._crashes[name] < self.crashes_max:
            return self
        if self.backup is None:
            raise CrewError(
                f"the worker of task {name!r} has died {self._crashes[name]} times in a row in controller {self.name} "
                f"(crashes_max={self.crashes_max}): give the controller a backup with other workers, or push the task "
                "under another name"
            )
        return self.backup._runner(name)

    def _submit(self, pushed: Pushed) -> None:
        """Run a task here, for whomever."""
        self.start()
        executor, call = self._executor, pushed.call
        assert executor is not None
        assert call is not None
        if isinstance(executor, InlineExecutor):
            future: Any = executor.run(call.fn, call.args, call.kwargs, name=pushed.name, seed=call.seed)
        else:
            to: Executor = executor
            if not pushed.is_plain:  # views cost more than the submit
                to = executor.options(name=pushed.name, seed=call.seed, timeout=call.timeout)
            future = to.submit(call.fn, *call.args, **call.kwargs)
        pushed.future = future
        if self.backup is None:
            pushed.call = None  # nobody runs it again: a large argument need not stay
        future.add_done_callback(partial(self._judge, pushed))

    def _judge(self, pushed: Pushed, future: Any) -> None:
        """Take what became of a task that was run here; in the thread of callbacks, mostly."""
        record = future.record()
        with self._condition:
            if record.status == "crash":
                self._crashes[pushed.name] += 1
            elif record.status != "cancel":
                self._crashes.pop(pushed.name, None)
            is_for_backup = record.status == "crash" and self._crashes[pushed.name] >= self.crashes_max
        if is_for_backup and self.backup is not None:
            try:
                self.backup._runner(pushed.name)._submit(pushed)
            except Exception as error:
                record.error.__context__ = error  # the backup is full of crashes, too, or shut down: the crash stands
            else:
                return
        changes = {"name": pushed.name, "command": pushed.command, "seed": pushed.seed, "controller": self.name}
        pushed.owner._take(pushed, Result.of(record, **changes, number=next(_results_numbers)))

    def _take(self, pushed: Pushed, result: Result) -> None:
        """Let the result of a task be popped."""
        with self._condition:
            del self._open[pushed.name]
            if pushed.done is self._done:
                self._waiting[pushed.name] += 1
            pushed.done.append(result)
            self._condition.notify_all()
            listeners = list(self._listeners)
        for condition in listeners:
            with condition:
                condition.notify_all()

    def pop(self, error: str = "silent") -> Result | None:
        """Return the record that came first of those not popped, or None. Does not wait.

        Args:
            error: what to do if the task did not succeed: "silent": just return the record; "warn": warn, too; "stop":
                raise its error instead. The record is popped in any case.

        Raises:
            ValueError: error is something else.
        """
        check_error_mode(error)
        with self._condition:
            if not self._done:
                return None
            result = self._done.popleft()
            del self._waiting[result.name]
            self._count_popped(result)
        return heed(result, error)

    def collect(self, error: str = "silent") -> Results:
        """Return all records that are there, in the order they came. Does not wait.

        Args:
            error: as for pop(); with "stop", the first error is raised, and nothing is popped.
        """
        check_error_mode(error)
        with self._condition:
            if error == "stop":
                self.check()
            results = Results(self._done)
            self._done.clear()
            self._waiting.clear()
            for result in results:
                self._count_popped(result)
        for result in results:
            heed(result, error)
        return results

    def check(self) -> None:
        """Raise the error of the first record that pop() has of a task that did not succeed, if there is one."""
        with self._condition:
            for result in self._done:
                heed(result, "stop")

    def first_number(self) -> int | None:
        """Return the number of the record that pop() would return, or None."""
        with self._condition:
            return self._done[0].number if self._done else None

    def tell(self, condition: threading.Condition) -> None:
        """Notify this condition, too, whenever a task is done."""
        with self._condition:
            self._listeners.append(condition)

    def _count_popped(self, result: Result) -> None:
        self.popped += 1
        # A backup has seats of its own, and did the work for this controller.
        seat = result.seat if result.controller == self.name else None
        counts = self._popped.setdefault(seat, Popped())
        counts.tasks += 1
        counts.seconds += result.seconds or 0.0
        counts.errors += result.status != "success"
        counts.warnings += bool(result.warnings)

    def wait(self, mode: str = "all", seconds_timeout: float | None = None) -> bool:
        """Wait for tasks; return whether they are done.

        Args:
            mode: "all": until all are; "one": until pop() has something.
            seconds_timeout: at most so long, or None for as long as it takes.

        Returns:
            Whether that is so. Of a controller without any task it is.
        """
        return wait_for(self._condition, partial(self._is_waited_for, mode), mode, seconds_timeout)

    def _is_waited_for(self, mode: str) -> bool:
        with self._condition:
            return not self._open or (mode == "one" and bool(self._done))

    def map(
        self, fn: Callable[..., Any], /, *iterables: Iterable[Any], names: Iterable[str] | None = None,
        seed: int | None = None, timeout: float | None = None, error: str = "stop",
    ) -> Results:  # fmt: skip
        """Call a function for each item, wait, and return the records in the order of the items.

        They have nothing to do with pop(), and are not counted as popped.

        Args:
            fn, iterables: as for the built-in map().
            names: of the tasks, one each; default: numbers.
            seed: each task has random numbers of its own, made of this one and the item's number.
            timeout: seconds that each may run.
            error: what to do if one does not succeed: "stop": raise MapError, which has all records; "warn": warn;
                "silent": just return.

        Raises:
            MapError: see `error`.
        """
        check_error_mode(error)
        done: deque[Result] = deque()
        pushed: list[Pushed] = []
        try:
            for name, call in self._calls(fn, iterables, names, seed, timeout):
                pushed.append(self._push(name, done, call))
            wait_for(self._condition, lambda: len(done) == len(pushed))
        except BaseException:  # a Ctrl-C, mostly: what nobody will look at need not run
            for one in pushed:
                one.future.kill()
            raise
        by_name = {result.name: result for result in done}
        results = Results([by_name[one.name] for one in pushed])
        failed = [result for result in results if result.status != "success"]
        if failed and error != "silent":
            text = f"{len(failed)} of {len(results)} tasks of map() did not succeed; the first: {describe(failed[0])}"
            if error == "stop":
                raise MapError(text, results) from failed[0].error
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return results

    def walk(
        self, fn: Callable[..., Any], /, *iterables: Iterable[Any], names: Iterable[str] | None = None,
        seed: int | None = None, timeout: float | None = None,
    ) -> list[Any]:  # fmt: skip
        """Push a call for each item, with one decision on how many workers to launch; return the futures.

        Args:
            fn, iterables, names, seed, timeout: as for map(). Wait and pop as after push().
        """
        calls = list(self._calls(fn, iterables, names, seed, timeout))
        self.start()
        if calls and self._auto_scale == "demand":
            self._launch_missing(self.unresolved() + len(calls))
        return [self._push(name, None, call).future for name, call in calls]

    def _calls(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], names: Iterable[str] | None,
        seed: int | None, timeout: float | None,
    ) -> Iterable[tuple[str | None, Call]]:  # fmt: skip
        stream = None if seed is None else SeedStream(seed)
        items = list(zip(*iterables, strict=False))
        words = [None] * len(items) if names is None else list(names)
        if len(words) != len(items) or len({*words}) < (names is not None) * len(words):
            raise ValueError(f"names must be as many as the items, {len(items)}, and no two the same")
        for name, args in zip(words, items, strict=True):
            yield name, Call(fn, args, {}, None if stream is None else stream.next(), timeout)

    def cancel(self, names: str | Iterable[str] = (), *, all: bool = False) -> int:  # noqa: A002  crew's word
        """Cancel tasks, those that run as well; each gives a record with the status "cancel". Return how many.

        Args:
            names: of tasks, or of one; those that are done or unknown do not matter.
            all: every one that is not done.
        """
        with self._condition:
            wanted = list(self._open) if all else [names] if isinstance(names, str) else list(names)
            futures = [self._open[name].future for name in wanted if name in self._open]
        # The last first: a running task that is cancelled makes room for a queued one.
        return sum([future is not None and future.kill() for future in reversed(futures)])

    # ------------------------------------------------------------------ workers

    def launch(self, n: int = 1) -> None:
        """Launch so many workers more, whatever there is to do, as far as `workers` allows. Does not wait for them."""
        self.start()
        executor = self._executor
        assert executor is not None
        executor.launch_workers(n)

    def scale(self) -> int:
        """Launch the workers that are missing for the tasks there are; return how many.

        That goes by itself, always. Only with auto_scale="none" it needs this call.
        """
        self.start()
        return self._launch_missing(self.unresolved())

    def _launch_missing(self, tasks: int) -> int:
        executor = self._executor
        assert executor is not None
        there = [worker for worker in executor.stats().workers if worker.state != "leaving"]
        missing = max(0, min(tasks, self.workers) - len(there))
        if missing:
            executor.launch_workers(missing)
        return missing

    # ------------------------------------------------------------------ what there is

    def unresolved(self) -> int:
        """Return how many tasks are not done."""
        return len(self._open)

    def resolved(self) -> int:
        """Return how many tasks were pushed and are done, popped or not."""
        with self._condition:
            return self.pushed - len(self._open)

    def unpopped(self) -> int:
        """Return how many records pop() has."""
        return len(self._done)

    def size(self) -> int:
        """Return how many tasks there are: not done, or not popped."""
        with self._condition:
            return len(self._open) + len(self._done)

    def empty(self) -> bool:
        """Return whether there is no task: all are done and popped."""
        return not self.size()

    def nonempty(self) -> bool:
        """Return whether there is a task, not done or not popped."""
        return not self.empty()

    def saturated(self) -> bool:
        """Return whether there are as many tasks not done as workers: more would wait."""
        return len(self._open) >= self.workers

    def crashes(self, name: str) -> int:
        """Return how many times in a row the worker of a task of this name has died, here and at the backups."""
        with self._condition:
            return self._crashes.get(name, 0) + (self.backup.crashes(name) if self.backup is not None else 0)

    def stats(self) -> Stats:
        """Return what the executor says of itself: workers that are there now, decisions on how many to launch."""
        self.start()
        executor = self._executor
        assert executor is not None
        return executor.stats()

    def summary(self, columns: str | Iterable[str] | None = None) -> Summary:
        """Return a table of what was done, a row for each of the `workers` seats, which workers have in turn.

        Args:
            columns: names, or patterns as "tasks_*"; None: all of summary.COLUMNS.

        What was popped without having been at a worker of this controller, cancelled before, or run by a backup, is in
        no row; `popped` counts it.
        """
        return Summary(self._rows(), columns)

    def _rows(self) -> list[dict[str, Any]]:
        with self._condition:
            rows = []
            for seat in self._seats():
                popped = self._popped.get(seat.number) or Popped()
                rows.append({
                    "controller": self.name, "worker_name": seat.worker, "worker_connected": seat.is_connected,
                    "worker_busy": seat.is_busy, "worker_launches": seat.launches, "worker_instances": seat.instances,
                    "tasks_assigned": seat.tasks_assigned, "tasks_complete": seat.tasks_complete,
                    "popped_tasks": popped.tasks, "popped_seconds": popped.seconds, "popped_errors": popped.errors,
                    "popped_warnings": popped.warnings,
                })  # fmt: skip
            return rows

    def _seats(self) -> tuple[SeatStats, ...]:
        """Return what the seats did, with this executor and earlier ones."""
        earlier = self._earlier or tuple([SeatStats(n + 1, "", False, False, 0, 0, 0, 0) for n in range(self.workers)])
        if self._executor is None:
            return tuple([seat._replace(is_connected=False, is_busy=False) for seat in earlier])
        return tuple([_add(*pair) for pair in zip(earlier, self._executor.stats().seats, strict=True)])

    def __repr__(self) -> str:
        state = f"{len(self._open)} tasks not done, {len(self._done)} not popped"
        return f"<Controller {self.name}: {state}{'' if self.started else ', not started'}>"


def _add(before: SeatStats, now: SeatStats) -> SeatStats:
    return now._replace(
        worker=now.worker or before.worker,
        launches=before.launches + now.launches,
        instances=before.instances + now.instances,
        tasks_assigned=before.tasks_assigned + now.tasks_assigned,
        tasks_complete=before.tasks_complete + now.tasks_complete,
    )


def _with_times(launcher: str | Launcher, seconds_start: float | None, seconds_wall: float | None) -> str | Launcher:
    if launcher == "inline" or (seconds_start is None and seconds_wall is None):
        return launcher
    if launcher != "local":
        raise ValueError(
            f"seconds_start and seconds_wall belong to the launcher, and this one is made already: {launcher!r}; give "
            "it startup_timeout and walltime instead"
        )
    if seconds_start is None:
        return LocalLauncher(walltime=seconds_wall)
    return LocalLauncher(startup_timeout=seconds_start, walltime=seconds_wall)
