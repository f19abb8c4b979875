"""Controller: push tasks, wait, pop their records as they come. Everything else is the executor's business.

    push()  users' threads --> executor.submit() --> future --its callback--> clerk: judged, numbered, put into `_done`
    pop()   users' threads <-- the oldest of `_done`

One condition for each controller: whoever waits is woken by a result, nobody polls. What becomes of a task is judged by
the clerk's thread alone. A Ctrl-C may strike users' threads anywhere: so each of their steps that changes something is
one operation, or can be done again, and counters are sums of what is there.
"""

from __future__ import annotations

import itertools
import math
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..condition import FutureCondition, may_hold
from ..errors import TOLD_TO_END, CrewError
from ..executor import CrewExecutor
from ..launchers import BaseLauncher
from ..records import TaskRecord
from ..stats import SeatStats, Stats
from .arguments import INLINE, callable_task, executor_maker, keywords, name_of, whole
from .backlog import Backlog
from .engines import Engines
from .inline import InlineExecutor
from .pushed import Call, Handle, MapResults, Pushed, calls_of
from .result import MapError, Result, Results
from .summary import Summary
from .tally import Tally
from .waiting import check_error_mode, describe, heed, wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

CATCH_UP_SECONDS = 0.1
"""How long pop() waits for the clerk, which may be unpickling something."""
_numbers = itertools.count(1)
_results_numbers = itertools.count(1)
may_hold(__file__)


class Controller:
    """Push tasks, wait for them, pop their records.

    Args:
        name: shown in records, worker names and errors; default "controller-1", "controller-2", ...
        workers: at most so many.
        tasks_max: tasks after which a worker is replaced, or None: 1 for transient, None for persistent workers.
        seconds_idle: without work for so long, a worker leaves; default: the launcher's (local: None, it stays).
            Where None is no limit, math.inf is none, too.
        seconds_start: within this time a launched worker must have joined; default: the launcher's.
        seconds_wall: a worker leaves after this time, when its task is done; default: the launcher's.
        auto_scale: "demand": as many workers as there are tasks, up to `workers`; "one": one more at a time; "none":
            only those of launch() and scale().
        launcher: "local", another launcher's name, a Launcher, or "inline": no workers, tasks run in push(), with the
            caller's own objects and without time limits.
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
        launcher: str | BaseLauncher = "local",
        crashes_max: int = 5,
        backup: Controller | None = None,
        *,
        workers_min: int = 0,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if backup is not None and not isinstance(backup, Controller):
            raise TypeError(f"backup must be a Controller, not {type(backup).__name__}")
        self.name = name_of("name", f"controller-{next(_numbers)}" if name is None else name)
        self.workers = 1 if launcher == INLINE else whole("workers", workers, 1)
        self.crashes_max = crashes_max if crashes_max == math.inf else whole("crashes_max", crashes_max, 1)
        self._auto_scale = auto_scale
        self._backup = backup
        if len({controller.name for controller in self.chain()}) < len(self.chain()):
            raise ValueError(f"a backup must have another name than {self.name!r}: records tell them apart by it")
        make = executor_maker(
            self.name, self.workers, tasks_max, seconds_idle, seconds_start, seconds_wall, auto_scale, launcher,
            workers_min, initializer, initargs,
        )  # fmt: skip
        self._engines = Engines(self.name, self, make)
        self._condition = FutureCondition()
        self._listeners: weakref.WeakSet[threading.Condition] = weakref.WeakSet()  # of groups
        self._tasks = Backlog(self.name)
        self._guests: set[Pushed] = set()  # of other controllers, run here because this is their backup
        self._crashes: Counter[str] = Counter()
        self._tally = Tally(self.name, self.workers)
        self._me = weakref.ref(self)

    # ------------------------------------------------------------------ life

    @property
    def backup(self) -> Controller | None:
        """The controller that runs what has crashed here too often."""
        return self._backup

    @property
    def started(self) -> bool:
        """Whether there is an executor, which push() makes if need be."""
        return self._engines.now is not None

    @property
    def executor(self) -> CrewExecutor | InlineExecutor:
        """What runs the tasks, started if need be: for run_on_all(), share(), options(). terminate() ends it."""
        return self._engines.get().executor

    def start(self) -> None:
        """Make the executor, if there is none: no worker yet, unless workers_min says so."""
        self._engines.start()

    def terminate(self) -> None:
        """End the workers, whatever they run, and wait for their end. What is not done is cancelled.

        Results can still be popped. The next push() starts the controller again. If this is interrupted, call it again.
        """
        if self._engines.is_a_parents:
            return
        past = self._engines.retire()
        executors = [engine.executor for engine in past]
        # Before the workers end, which would count as crashes. A backup's workers do not end: what they do for us does.
        self._kill([one for one in self._all_open() if one.executor in executors or one.runner() is not self])
        self._engines.end(past, self._tally)

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
        return self._push(name, None, Call(callable_task(fn), args, keywords(kwargs), seed, timeout)).handle

    def _push(self, name: str | None, results: MapResults | None, call: Call) -> Pushed:
        pushed = Pushed("" if name is None else name, self._me, results, call)
        pushed.is_plain = name is None and call.seed is None and call.timeout is None
        if self._backup is not None:
            pushed.handle = Handle(pushed)
        place = self._tasks.open if results is None else self._tasks.mapped
        runner = self
        try:
            with self._condition:
                pushed.name = self._tasks.free_name(name)
                runner = self._runner(pushed.name)
                place[pushed.name] = pushed
            runner._submit(pushed)
        except BaseException:
            if pushed.future is None and place.get(pushed.name) is pushed:
                del place[pushed.name]
                runner._guests.discard(pushed)
            raise
        return pushed

    def _runner(self, name: str) -> Controller:
        """Return who is to run tasks of that name: this controller, or the one behind it."""
        if self._crashes[name] < self.crashes_max:
            return self
        if self._backup is None:
            raise CrewError(
                f"the worker of task {name!r} has died {self._crashes[name]} times in a row in controller {self.name} "
                f"(crashes_max={self.crashes_max}): give the controller a backup with other workers, or push the task "
                "under another name"
            )
        return self._backup._runner(name)

    def _submit(self, pushed: Pushed) -> None:
        """Run a task here, for whomever."""
        while True:
            engine = executor, clerk = self._engines.get()
            pushed.runner, pushed.executor, pushed.clerk = self._me, executor, clerk
            try:
                future = pushed.submit_to(executor)
            except RuntimeError:
                if self._engines.now is engine:
                    raise
                continue  # it was terminated meanwhile: the next one may have the task
            break
        if pushed.owner() is not self:
            self._guests.add(pushed)
        if self._backup is None:
            pushed.call = None  # nobody runs it again: a large argument need not stay
        pushed.handle = pushed.handle or future
        if clerk is None:
            self._judge(pushed, future)
        else:
            future.add_done_callback(clerk.teller(pushed.judge))
        pushed.future = future  # last: a push() that is interrupted before is forgotten, and so is what becomes of it

    def _judge(self, pushed: Pushed, future: Any) -> None:
        """Take what became of a run of a task here; in the clerk's thread, perhaps more than once."""
        if any(judged is future for judged in pushed.judged):
            return
        pushed.judged.append(future)
        record = _record_of(future)
        if record.status == "crash" and TOLD_TO_END in str(record.error):
            # 1. push() submits it   2. terminate() looks which tasks there are   3. push() notes its future   4. the
            # workers are ended: it was cancelled, like those that terminate() has seen.
            record = replace(
                record, status="cancel", error=CancelledError(f"{pushed.name} was cancelled"), traceback=None
            )
        pushed.attempts += record.attempts
        self._guests.discard(pushed)
        if record.status == "crash":
            self._crashes[pushed.name] += 1
        elif record.status != "cancel":
            self._crashes.pop(pushed.name, None)
        is_too_often = record.status == "crash" and self._crashes[pushed.name] >= self.crashes_max
        if is_too_often and self._backup is not None and not pushed.is_cancelled:
            try:
                self._backup._runner(pushed.name)._submit(pushed)
            except Exception as error:
                assert record.error is not None
                record.error.__context__ = error  # the backup is full of crashes, too, or shut down: the crash stands
            else:
                return
        pushed.is_judged = True
        owner = pushed.owner()
        if isinstance(pushed.handle, Handle):
            pushed.handle.finish(record)
        if owner is not None:
            changes = {"command": pushed.command, "seed": pushed.seed, "attempts": pushed.attempts}
            number = next(_results_numbers)
            owner._take(pushed, Result.of(record, name=pushed.name, controller=self.name, number=number, **changes))

    def _take(self, pushed: Pushed, result: Result) -> None:
        """Let the result of a task be had; in the clerk's thread."""
        with self._condition:
            if self._tasks.finish(pushed, result):
                self._tally.count(result)  # map() has it
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
        self.catch_up()
        with self._condition:
            if not self._tasks.done:
                return None
            result = self._tasks.first()
            self._tally.count(result)
            self._tasks.remove_first()
        return heed(result, error)

    def catch_up(self) -> None:
        """Let the clerk take what has come, since a caller may know it from the future; not for ever."""
        engine = self._engines.now
        if engine is not None and self._tasks.open and not self._engines.is_a_parents:
            engine.catch_up(CATCH_UP_SECONDS)

    def collect(self, error: str = "silent") -> Results:
        """Return all records that are there, in the order they came. Does not wait.

        Args:
            error: as for pop(); with "stop", the first error is raised, and nothing is popped.
        """
        check_error_mode(error)
        self.catch_up()
        with self._condition:
            self.check(error)
            return self.take_until(math.inf)

    def check(self, error: str = "stop", until: float = math.inf) -> None:
        """Raise the error, or warn, of what pop() has that did not succeed, up to a number; see Result.number."""
        with self._condition:
            for result in self._tasks.done:
                if result.number <= until:
                    heed(result, error, 4)

    def take_until(self, number: float) -> Results:
        """Pop all that pop() has up to a number, and return it."""
        results = Results()
        with self._condition:
            while self._tasks.done and self._tasks.done[0].number <= number:
                results.append(self._tasks.first())
                self._tally.count(results[-1])
                self._tasks.remove_first()
        return results

    def last_number(self) -> int | None:
        """Return the number of the newest record that pop() has, or None."""
        with self._condition:
            return self._tasks.done[-1].number if self._tasks.done else None

    def first_number(self) -> int | None:
        """Return the number of the record that pop() would return, or None."""
        with self._condition:
            return self._tasks.done[0].number if self._tasks.done else None

    def tell(self, condition: threading.Condition) -> None:
        """Notify this condition, too, whenever a task is done, as long as it lives."""
        with self._condition:
            self._listeners.add(condition)

    def wait(self, mode: str = "all", seconds_timeout: float | None = None) -> bool:
        """Wait for tasks that were pushed; return whether they are done.

        Args:
            mode: "all": until all are; "one": until pop() has something.
            seconds_timeout: at most so long, or None for as long as it takes.

        Returns:
            Whether that is so. Of a controller without any task it is, and pop() has nothing then.
        """
        self.check_before_wait()
        return wait_for(self._condition, partial(self.is_waited_for, mode), mode, seconds_timeout)

    def check_before_wait(self) -> None:
        """Say what would make a wait last for ever: no worker where none comes unless it is called; another process."""
        if self.unresolved():
            self._engines.check_process()
        if self._auto_scale == "none" and self.unresolved() and self.started and not self.stats().workers:
            text = f"controller {self.name} has tasks, no worker, and auto_scale='none': call launch() or scale()"
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def is_waited_for(self, mode: str) -> bool:
        """Answer whether a wait in this mode is over."""
        return not self._tasks.open or (mode == "one" and bool(self._tasks.done))

    def map(
        self, fn: Callable[..., Any], /, *iterables: Iterable[Any], names: Iterable[Any] | None = None,
        seed: int | None = None, timeout: float | None = None, error: str = "stop",
        kwargs: dict[str, Any] | None = None,
    ) -> Results:  # fmt: skip
        """Call a function for each item, wait, and return the records in the order of the items.

        They do not go through pop(), but are counted as popped.

        Args:
            fn, iterables: as for the built-in map().
            names: of the tasks, one each; default: numbers.
            seed: each task has random numbers of its own, made of this one and the item's number.
            timeout: seconds that each may run.
            error: what to do if one does not succeed: "stop": raise MapError, which has all records; "warn": warn;
                "silent": just return.
            kwargs: keyword arguments, the same in each call.

        Raises:
            MapError: see `error`.
        """
        check_error_mode(error)
        mapped = MapResults()
        pushed: list[Pushed] = []
        try:
            for name, call in calls_of(fn, iterables, names, seed, timeout, kwargs):
                pushed.append(self._push(name, mapped, call))
            self.check_before_wait()
            wait_for(self._condition, lambda: len(mapped.by_name) == len(pushed))
        except BaseException:  # a Ctrl-C, mostly: what nobody will look at need not run
            self._kill(pushed)
            raise
        results = Results([mapped.by_name[one.name] for one in pushed])
        failed = [result for result in results if result.status != "success"]
        if failed and error != "silent":
            text = f"{len(failed)} of {len(results)} tasks of map() did not succeed; the first: {describe(failed[0])}"
            if error == "stop":
                raise MapError(text, results) from failed[0].error
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return results

    def walk(
        self, fn: Callable[..., Any], /, *iterables: Iterable[Any], names: Iterable[Any] | None = None,
        seed: int | None = None, timeout: float | None = None, kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:  # fmt: skip
        """Push a call for each item, with one decision on how many workers to launch; return the futures.

        Args:
            fn, iterables, names, seed, timeout, kwargs: as for map(). Wait and pop as after push().

        Raises:
            as push(), and nothing is pushed if one of the names is taken.
        """
        calls = list(calls_of(fn, iterables, names, seed, timeout, kwargs))
        with self._condition:
            for name, _call in calls:
                if name is not None:
                    self._runner(self._tasks.free_name(name))
        if calls and self._auto_scale == "demand":
            self._launch_missing(self.unresolved() + len(calls))
        return [self._push(name, None, call).handle for name, call in calls]

    def cancel(self, names: str | Iterable[str] = (), *, all: bool = False) -> int:  # noqa: A002  crew's word
        """Cancel tasks, those that run as well; each gives a record with the status "cancel". Return how many.

        Args:
            names: of tasks, or of one; those that are done or unknown do not matter.
            all: every one that is not done.
        """
        if names is True:  # type: ignore[comparison-overlap]
            raise TypeError("names are those of tasks; to cancel every one, say cancel(all=True)")
        tasks = self._all_open()
        if not all:
            wanted = dict.fromkeys([names] if isinstance(names, str) else names)
            tasks = [pushed for pushed in tasks if pushed.name in wanted]
        number = self._kill(tasks)
        for clerk in {pushed.clerk for pushed in tasks if pushed.clerk is not None}:
            clerk.flush(CATCH_UP_SECONDS)  # so that the records are there
        return number

    def _all_open(self) -> list[Pushed]:
        with self._condition:
            return [*self._tasks.open.values(), *self._tasks.mapped.values(), *self._guests]

    def _kill(self, tasks: list[Pushed]) -> int:
        """End tasks, and return how many; the last first: a running task that is cancelled makes room for a queued one.

        A callback is lost if a Ctrl-C strikes just before it is called: so clerks hear again of those that are over.
        """
        if self._engines.is_a_parents:
            return 0
        for pushed in tasks:
            pushed.is_cancelled = True  # a crash that is not judged yet sends none of them to a backup
        known = [(pushed, pushed.future) for pushed in reversed(tasks) if pushed.future is not None]
        try:
            return sum([future.kill() for _, future in known if not future.done()])
        finally:
            for pushed, future in known:
                if pushed.clerk is not None and not pushed.is_judged and future.done():
                    pushed.clerk.put(pushed.judge, future)

    # ------------------------------------------------------------------ workers

    def launch(self, n: int = 1) -> None:
        """Launch so many workers more, whatever there is to do, as far as `workers` allows. Does not wait for them."""
        self.executor.launch_workers(whole("n", n, 1))

    def scale(self) -> int:
        """Launch the workers that are missing for the tasks there are; return how many.

        That goes by itself; only with auto_scale="none" it needs this call.
        """
        return self._launch_missing(self.unresolved() + len(self._guests))

    def _launch_missing(self, tasks: int) -> int:
        if not tasks:
            return 0
        executor = self.executor
        there = [worker for worker in executor.stats().workers if worker.state != "leaving"]
        missing = max(0, min(tasks, self.workers) - len(there))
        if missing:
            executor.launch_workers(missing)
        return missing

    # ------------------------------------------------------------------ what there is

    @property
    def popped(self) -> int:
        """How many records were popped, collected or returned by map()."""
        with self._condition:
            return self._tally.popped

    @property
    def pushed(self) -> int:
        """How many tasks were pushed, by whatever method."""
        with self._condition:
            return self.popped + self.size()

    def unresolved(self) -> int:
        """Return how many tasks are not done."""
        return len(self._tasks.open) + len(self._tasks.mapped)

    def resolved(self) -> int:
        """Return how many tasks were pushed and are done, popped or not."""
        with self._condition:
            return self.popped + len(self._tasks.done)

    def unpopped(self) -> int:
        """Return how many records pop() has."""
        return len(self._tasks.done)

    def size(self) -> int:
        """Return how many tasks there are: not done, or not popped."""
        with self._condition:
            return self.unresolved() + len(self._tasks.done)

    def empty(self) -> bool:
        """Return whether there is no task: all are done and popped."""
        return not self.size()

    def nonempty(self) -> bool:
        """Return whether there is a task, not done or not popped."""
        return not self.empty()

    def saturated(self) -> bool:
        """Return whether there are as many tasks not done as workers, those run as a backup too: more would wait."""
        return self.unresolved() + len(self._guests) >= self.workers

    def crashes(self, name: str) -> int:
        """Return how many times in a row the worker of a task of that name has died, here and at the backups."""
        return sum([controller._crashes.get(name, 0) for controller in self.chain()])

    def chain(self) -> list[Controller]:
        """Return this controller, its backup, the backup of that, and so on."""
        return [self, *([] if self._backup is None else self._backup.chain())]

    def stats(self) -> Stats:
        """Return what the executor says of itself: workers that are there now, decisions on how many to launch."""
        engine = self._engines.now
        return Stats(0, 0, 0, (), 0, self._seats(), ()) if engine is None else engine.executor.stats()

    def summary(self, columns: str | Iterable[str] | None = None) -> Summary:
        """Return a table of what was done, a row for each of the `workers` seats, which workers have in turn.

        Args:
            columns: names, or patterns as "tasks_*"; None: all of summary.COLUMNS.

        What was popped without having been at a worker of this controller is in no row; `popped` counts it.
        """
        with self._condition:
            return Summary(self._tally.rows(self._seats()), columns)

    def _seats(self) -> tuple[SeatStats, ...]:
        with self._condition:
            return self._tally.seats(self._engines.seats())

    def __reduce__(self) -> Any:
        raise TypeError(
            f"controller {self.name} cannot be pickled or sent to a worker: give a task that submits tasks its executor"
        )

    def __repr__(self) -> str:
        state = f"{len(self._tasks.open)} tasks not done, {len(self._tasks.done)} not popped"
        return f"<Controller {self.name}: {state}{'' if self.started else ', not started'}>"


def _record_of(future: Any) -> TaskRecord:
    """Return the record of a future that is done; if that cannot be made, one that says so."""
    try:
        record: TaskRecord = future.record()
    except BaseException as error:  # of a user's class that raises what nobody catches when it is unpickled
        record = TaskRecord("", "", "error", error=error)
    return record
