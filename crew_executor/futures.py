"""What a user holds: a standard Future that also knows what happened to its task.

An outcome arrives as bytes and is unpickled by whoever asks for it first, once: a huge or malicious result costs the
asker, never the threads that serve all. Nothing here knows dispatchers or sockets; cancelling goes through a callable.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as _FuturesTimeoutError  # another class than the built-in before 3.11
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from . import serialize, tracebacks
from .buffers import incoming
from .calls import command_of
from .condition import FutureCondition, may_hold
from .core.messages import Outcome, OutcomeFlag
from .handlers import is_from_handler
from .notes import add_note
from .task_warnings import show_warnings
from .waiting import wait_at_hatch, wait_for_bell

if TYPE_CHECKING:
    from .callbacks import CallbackThread
    from .records import TaskRecord, TaskWarning
    from .ticket import Ticket

T = TypeVar("T")


class WorkerFacts(NamedTuple):
    """Which worker ran a task."""

    name: str = ""
    host: str = ""
    pid: int | None = None
    seat: int | None = None


_EXTRAS = OutcomeFlag.WARNINGS | OutcomeFlag.OUTPUT
ATTEMPT_TEXT_MAX = 200
"""Characters of an earlier attempt's error that are told with the last one."""

_ENDS = (FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED)

_making = threading.RLock()
"""Held while a future's condition is made, and while a future without one is finished: see _LazyCondition. Users'
threads call nothing while they hold it, so that no signal handler comes in: one that waits would wait for ever."""

_generation = 0
"""How many forks lie between this process and the first that imported this: futures of an earlier one end there."""


class _LazyCondition:
    """Make a future's condition when somebody first asks for it, so: to wait.

    Most futures are done before anybody waits, and a condition costs more than all the rest of a future. The race is
    between a waiter and the finish; both take the same lock:
    1. waiter: makes the condition    2. finisher: finds it, takes it, wakes the waiter
    or 1. finisher: finds none, sets the state    2. waiter: makes the condition, sees the state, does not wait
    The same lock is enough for callbacks as long as there is no condition.
    """

    def __get__(self, future: CrewFuture[Any] | None, owner: type) -> Any:
        if future is None:
            return self
        condition = future._made_condition
        if condition is None:
            made = FutureCondition()
            with _making:
                condition = future._made_condition
                if condition is None:
                    condition = future._made_condition = made
        return condition

    def __set__(self, future: CrewFuture[Any], condition: FutureCondition) -> None:
        future._made_condition = condition


class _LazyList:
    """Make a list when it is first asked for; whoever asks holds the condition, or _making while there is none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, future: CrewFuture[Any] | None, owner: type) -> Any:
        if future is None:
            return self
        return future.__dict__.setdefault(self._name, [])


class CrewFuture(Future[T]):
    """The future of one task; made by CrewExecutor.submit(). `await` works on it as well."""

    # Plain class attributes stand for what most instances never set: asking an instance for its __dict__ would make
    # one, and a tracked object more for the garbage collector.
    _made_condition: FutureCondition | None = None
    _bells: dict[Any, None] | None = None  # of those who wait in result() or exception(); see waiting.py
    _condition = _LazyCondition()
    _waiters = _LazyList()
    _done_callbacks = _LazyList()
    _state = PENDING
    _result: T | None = None
    _exception: BaseException | None = None

    _name: str | None = None
    _task: Any = None  # while it is not done
    _ticket: Ticket | None = None  # with which it was sent, as long as who waits at the hatch may finish this
    _attempt = 0  # the last one's number, when it is
    _unopened: Outcome | None = None  # an outcome that nobody has unpickled yet
    _is_open = False  # whether what came of the task stands in _result and _exception
    _times: tuple[float, float, float | None, int] | None = (
        None  # started, seconds, cpu seconds, max_rss of the outcome
    )
    _worker: WorkerFacts | None = None
    _warnings: tuple[TaskWarning, ...] = ()
    _frames: TracebackType | None = None  # the exception's own frames, before any raise in this process
    _failed_attempts: tuple[Outcome | str, ...] = ()  # how earlier runs ended: outcomes, or words on a lost worker
    _output: str | None = None
    _has_callbacks = False
    _seed: int | None = None
    _call: bytes | None = None  # pickled, for replay(), while it may have failed
    _head = b""  # the pickle of the function, if that is without it
    _cancels_running = False  # options(cancel_running=True)
    _caller: CallbackThread | None = None  # who is to run the callbacks, until they have run
    _generation = 0  # that of the process which made it

    def __init__(
        self,
        fn: Any = None,
        submitted: float | None = None,
        cancel_task: Callable[[CrewFuture[Any], bool], None] | None = None,
    ) -> None:
        # Not Future.__init__(): what it sets are class attributes here, made for an instance when needed.
        self._fn = fn
        self._submitted = submitted
        self._cancel_task = cancel_task
        if _generation:
            self._generation = _generation

    # ------------------------------------------------------------------ for users

    def cancel(self) -> bool:
        """Cancel the task if it has not been sent to a worker; return whether it is cancelled.

        With options(cancel_running=True), cancel it also if a worker has it; see kill(). When this returns True,
        whoever waits for the future has been woken, and the work does not happen, or is being ended.
        """
        return self._cancel(self._cancels_running)

    def kill(self) -> bool:
        """Cancel the task wherever it is; return whether it is cancelled: False if it was done before.

        A running task is interrupted: a KeyboardInterrupt is raised in it. If it still runs half a second later, its
        worker is killed and replaced. What the worker holds besides runs elsewhere; no other task is harmed.
        """
        return self._cancel(True)

    def _cancel(self, is_running_included: bool) -> bool:
        if self._cancel_task is None:
            is_cancelled = super().cancel()
            if is_cancelled:
                self._ring()
            return is_cancelled
        self._cancel_task(self, is_running_included)
        return self.cancelled()

    def result(self, timeout: float | None = None) -> T:
        """Return what the call returned, or raise what it raised.

        Args:
            timeout: seconds to wait, None for ever.

        Raises:
            CancelledError: the future was cancelled.
            TimeoutError: it is not done in time.
            WorkerCrashError: the worker died while it ran the task.
            TaskTimeoutError: the task ran longer than options(timeout=...) allows.
            RemoteTaskError: the task failed and its exception could not travel.
            BaseException: whatever the call raised, with the worker's frames.
        """
        try:
            if self._state != FINISHED:
                self._wait_done(timeout)
            if (caller := self._caller) is not None:
                caller.wait_for(self, timeout)
            if not self._is_open:
                self._open()
            error = self._exception
            if error is not None:
                # Each raise adds frames to the exception: begin from the worker's every time.
                raise error.with_traceback(self._frames)
            return self._result  # type: ignore[return-value]  # a cast() would be a call
        finally:
            error = None
            self = None  # type: ignore[assignment]  # noqa: PLW0642  break the cycle exception -> frame -> future

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None; raise CancelledError or TimeoutError as result() does."""
        if self._state != FINISHED:
            self._wait_done(timeout)
        if (caller := self._caller) is not None:
            caller.wait_for(self, timeout)
        return self._opened_exception()

    def done(self) -> bool:
        """Return whether the task has ended or was cancelled."""
        return self._state in _ENDS

    def cancelled(self) -> bool:
        """Return whether the task was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def set_result(self, result: T) -> None:
        """Finish a future that no worker finishes; as the standard's."""
        super().set_result(result)
        self._ring()

    def set_exception(self, exception: BaseException | None) -> None:
        """Finish a future that no worker finishes; as the standard's."""
        super().set_exception(exception)
        self._ring()

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call fn(future) when the future is done, at once if it is: see callbacks.py for the thread."""
        callbacks = self._done_callbacks
        with _making:
            self._has_callbacks = True
            if self._made_condition is None and self._state not in _ENDS:
                callbacks += (fn,)  # no call
                return
        super().add_done_callback(fn)

    def record(self) -> TaskRecord:
        """Return what is known of the task now; does not wait."""
        from .records import record_of  # late: dataclasses, with inspect and more, would be a quarter of our import

        return record_of(self)

    def report(self) -> str:
        """Return in words what became of the task, as far as it has come: for people who want to know why.

        Attempts, times, the worker and how it ended, warnings, what the task has written, the traceback.
        """
        from .post_mortem import tell  # late: nobody reads it while all is well

        return tell(self.record(), self._failed_attempts, is_running=self.running())

    def replay(self) -> T:
        """Run the call of a failed task again, here and now, and return or raise what it does: for a debugger.

        Its arguments are what they were when it was submitted, its seed as well; globals are as they are now. It has no
        time limit. What has killed a worker may kill this process.

        Raises:
            RuntimeError: the task has not failed, or its call is not kept: it was above 1 MB, or had large buffers or
                constants beside it.
            BaseException: whatever the call raises.
        """
        from .post_mortem import replay  # late: see report()

        return cast(T, replay(self))

    def name(self) -> str:
        """Return the name of the task: as given by options(name=...), else its function's."""
        return self._name or command_of(self._fn)

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # late: 30 ms, and only for those who run a loop anyway

        return asyncio.wrap_future(self).__await__()

    def __reduce__(self) -> Any:
        raise TypeError("a future cannot be sent to a worker or pickled: pass its result, future.result()")

    # ------------------------------------------------------------------ for the dispatcher

    def _sent(self) -> None:
        if self._ticket is not None:
            with _making:
                if self._state is not FINISHED:
                    self._state = RUNNING
        elif self._state is not FINISHED:  # by _finish_early(), which changes the state before the ticket
            self._state = RUNNING  # a plain write: nobody waits for this state

    def _unsent(self) -> bool:
        if self._state == FINISHED:  # by _finish_early()
            return False
        self._state = PENDING
        return True

    def _failed_once(self, how: Outcome | str) -> None:
        """Remember how an attempt ended that is not the last; called under the dispatcher's lock."""
        self._failed_attempts = (*self._failed_attempts, how)

    def _finish(self, outcome: Outcome, worker: WorkerFacts, callbacks: CallbackThread | None = None) -> None:
        """Take the outcome and wake whoever waits, unless _finish_early() has. Called once, outside every lock of ours.

        Args:
            outcome: what the worker reported.
            worker: which one.
            callbacks: runs the callbacks of this future, here or later; None: here. So in the methods below.
        """
        if (self._ticket is not None or self._state is FINISHED) and self._was_finished_early():
            return
        self._worker = worker
        if (task := self._task) is not None:  # a program may keep a million futures
            self._attempt, self._task = task.attempt, None
        if self._failed_attempts:
            self._show_attempts_warnings()
        if outcome.flags:
            if outcome.flags & _EXTRAS:
                outcome = self._take_extras(outcome)
            if not outcome.flags & OutcomeFlag.ERROR:
                self._call, self._head = None, b""
        else:
            self._call, self._head = None, b""
        self._unopened = outcome
        with _making:
            is_awaited = self._made_condition is not None
            if not is_awaited:
                if self._has_callbacks:
                    self._note_caller(callbacks)
                self._state = FINISHED
        if self._bells and not is_awaited:
            self._ring()
        if is_awaited:
            self._announce("add_exception" if outcome.flags & OutcomeFlag.ERROR else "add_result", callbacks)
        elif self._has_callbacks:
            self._call_back() if callbacks is None else callbacks.run(self)

    def _finish_early(self, outcome: Outcome, worker: WorkerFacts) -> bool:
        """Take an outcome of which the dispatcher has not heard; return False if that is left to it.

        For a thread of a user, where a handler may come in after each call: so all happens without one, or nothing.
        Who waits with wait(), and callbacks, are the dispatcher's business, and whatever comes with an outcome.
        """
        if outcome.flags:
            return False
        with _making:
            is_mine = self._ticket is not None and self._made_condition is None and not self._has_callbacks
            if is_mine:
                self._worker, self._attempt, self._unopened = worker, outcome[1], outcome
                self._state = FINISHED
                self._ticket = self._task = self._call = None
                self._head = b""
        return is_mine

    def _was_finished_early(self) -> bool:
        """Answer whether who waited at the hatch has finished this; he cannot do so any more."""
        with _making:
            self._ticket = None
        if self._state != FINISHED:
            return False
        self._ring()  # he may have been interrupted before he did
        return True

    def _note_caller(self, callbacks: CallbackThread | None) -> None:
        """Say who will run the callbacks, before the last state is set: who sees that sees this as well."""
        if callbacks is not None and callbacks.is_needed(self):
            self._caller = callbacks

    def _take_extras(self, outcome: Outcome) -> Outcome:
        """Keep what travels between the result and the report; return the outcome without it."""
        first, *rest = outcome.parts
        if outcome.flags & OutcomeFlag.WARNINGS:
            self._warnings += show_warnings(rest.pop(0))
        if outcome.flags & OutcomeFlag.OUTPUT:
            self._output = rest.pop(0).decode(errors="replace")
        return outcome._replace(parts=(first, *rest), flags=outcome.flags & ~_EXTRAS)

    def _announce(self, how: str, callbacks: CallbackThread | None) -> None:
        """Set the last state, tell the waiters, have the callbacks run."""
        condition = self._condition
        condition.take()
        try:
            if self._has_callbacks:
                self._note_caller(callbacks)
            self._state = FINISHED
            for waiter in self._waiters:
                getattr(waiter, how)(self)
            condition.notify_all()
        finally:
            condition.release()
        self._ring()
        if self._has_callbacks:
            self._call_back() if callbacks is None else callbacks.run(self)

    def _call_back_some(self, is_wanted: Callable[[Any], bool]) -> None:
        """Run those of the callbacks here."""
        for callback in list(filter(is_wanted, self._done_callbacks)):
            try:
                self._done_callbacks.remove(callback)  # each runs once, also if this is begun again after a Ctrl-C
            except ValueError:  # another thread has it
                continue
            try:
                callback(self)
            except BaseException as error:  # not even a SystemExit may end the thread that serves a worker
                is_ctrl_c = isinstance(error, KeyboardInterrupt)
                if is_ctrl_c and threading.current_thread() is threading.main_thread():
                    raise
                logging.getLogger("concurrent.futures").exception("exception calling callback for %r", self)

    def _call_back(self) -> None:
        """Run the callbacks here."""
        try:
            self._call_back_some(lambda _callback: True)
        finally:
            if self._caller is not None:
                with self._condition:
                    self._caller = None
                    self._condition.notify_all()

    def _show_attempts_warnings(self) -> None:
        for how in self._failed_attempts:
            if isinstance(how, Outcome) and how.flags & OutcomeFlag.WARNINGS:
                self._warnings += show_warnings(how.parts[1])

    def _finish_lost(
        self,
        error: BaseException,
        worker: WorkerFacts | None = None,
        times: tuple[float, float, float | None, int] | None = None,
        callbacks: CallbackThread | None = None,
    ) -> None:
        """Fail the future with an error of ours; `times` as those of an outcome."""
        if self._was_finished_early():
            return  # what is lost is only the report
        self._worker = worker
        if self._task is not None:
            self._attempt, self._task = self._task.attempt, None
        self._times = times
        self._show_attempts_warnings()
        self._note_attempts(error)
        self._exception = error
        self._frames = error.__traceback__
        self._is_open = True
        self._announce("add_exception", callbacks)

    def _finish_cancelled(self, callbacks: CallbackThread | None = None) -> None:
        """Go straight to the last state: no worker will ever look at this future and notify its waiters.

        May be done again, where a Ctrl-C has ended it early.
        """
        condition = self._condition
        condition.take()
        try:
            if self._state not in _ENDS:
                self._state = CANCELLED_AND_NOTIFIED
                self._call, self._head = None, b""
                for waiter in self._waiters:
                    waiter.add_cancelled(self)
            condition.notify_all()
        finally:
            condition.release()
        self._ring()
        if self._has_callbacks and self.cancelled():  # those that a Ctrl-C has kept from running, the second time
            self._call_back() if callbacks is None else callbacks.run(self)

    # ------------------------------------------------------------------ inside

    def _wait_done(self, timeout: float | None) -> None:
        """Wait for the last state; raise TimeoutError or CancelledError if that is not that it is finished."""
        if self._generation != _generation and not self.done():
            raise RuntimeError(
                f"task {self.name()} belongs to the process that this one, {os.getpid()}, was forked from: its result "
                "will not arrive here; start this process with the spawn or forkserver method"
            )
        bells = self._bells
        if bells is None:
            with _making:
                if (bells := self._bells) is None:
                    bells = self._bells = {}
        until = None if timeout is None else time.monotonic() + timeout
        if (ticket := self._ticket) is not None:
            wait_at_hatch(self, ticket, bells, until)
        if self._state not in _ENDS:
            wait_for_bell(self, bells, until)
        if self._state not in _ENDS:
            raise _FuturesTimeoutError
        if self._state != FINISHED:
            raise CancelledError

    def _ring(self) -> None:
        """Wake those who wait in result() or exception(): the last state is set. May be done again."""
        if self._bells:
            for bell in list(self._bells):
                try:  # noqa: SIM105  as in Inbox.put(): contextlib.suppress() has calls within
                    bell.release()
                except RuntimeError:  # rung already
                    pass

    def _opened_exception(self) -> BaseException | None:
        if not self._is_open:
            self._open()
        return self._exception

    def _open(self) -> None:
        """Unpickle the outcome, once: by the thread that takes it; others wait for that one.

        A future that was finished by set_result() or set_exception() has no outcome, and nothing to open.
        """
        outcome = None
        try:
            while not self._is_open:
                with _making:
                    outcome, self._unopened = self._unopened, None
                if outcome is not None:
                    self._unpickle(outcome)
                elif not self._wait_opened():
                    return
        finally:
            if not self._is_open and outcome is not None:  # a Ctrl-C: whoever asks next tries again
                self._unopened = outcome
            if self._made_condition is not None and outcome is not None:
                with self._condition:
                    self._condition.notify_all()

    def _unpickle(self, outcome: Outcome) -> None:
        result: T | None = None
        error: BaseException | None = None
        frames = None
        if outcome.flags and outcome.is_error:
            error = tracebacks.loads_error(outcome.parts[0], json.loads(outcome.parts[-1]))
            frames = error.__traceback__
            self._note_attempts(error)
        else:
            try:
                if outcome.beside is None:
                    result = serialize.loads(outcome.parts[0])
                else:
                    with incoming(outcome.beside):
                        result = serialize.loads(outcome.parts[0])
            except BaseException as failure:
                if isinstance(failure, KeyboardInterrupt) or is_from_handler(failure):
                    raise  # meant for the asker
                error, frames = failure, failure.__traceback__
                add_note(error, f"raised while unpickling the result of {command_of(self._fn)} in the client")
        # No call in between: a handler that raises finds the future open or not.
        if error is not None:
            self._exception, self._frames = error, frames
        self._result, self._times = result, outcome[4:8]
        self._is_open = True

    def _note_attempts(self, error: BaseException) -> None:
        """Say on the error of the last attempt how the earlier ones ended."""
        for number, how in enumerate(self._failed_attempts, 1):
            text = how
            if isinstance(how, Outcome):
                report = json.loads(how.parts[-1])
                text = f"{report['type_name']}: {report['text'][:ATTEMPT_TEXT_MAX]}"
            add_note(error, f"attempt {number} failed, too: {text}")

    def _wait_opened(self) -> bool:
        """Wait for another thread that opens the future; return False if there is nothing to open."""
        if self._worker is None:
            return False
        with self._condition:
            while not self._is_open and self._unopened is None:
                self._condition.wait()
        return True


may_hold(__file__)


# CPython keeps in the instance what the first thirty or so of a class have, all else in a dictionary beside each. A
# burst of submits makes thousands before any is done: without this all would have one in the end, for the garbage
# collector to go through, which took a tenth of the client's time for a task without work.
_planned: CrewFuture[Any] = CrewFuture()
_planned._task = _planned._call = _planned._worker = _planned._unopened = _planned._times = _planned._bells = None
_planned._head, _planned._ticket = b"", None
_planned._result = _planned._exception = _planned._frames = None
_planned._state, _planned._attempt, _planned._is_open = PENDING, 0, False
del _planned


def _after_fork_in_child() -> None:
    global _generation, _making
    _generation += 1
    _making = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
