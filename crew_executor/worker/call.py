"""Run one call: time it, catch its warnings and its error, and make an outcome of it.

Nothing here knows links or cells. Nothing a call raises leaves `run()`: neither SystemExit nor KeyboardInterrupt.

A call is stopped by a signal whose handler raises in the midst of it. A signal may be late. So the handler raises only
while the very task that it is meant for runs users' code, and at most once for it: `_armed` holds that task's ordinal
then, 0 otherwise. It is set and cleared inside the `try` that catches what the handler raises, wherever it strikes.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal.getsignal() takes a microsecond more, to make an enum of it
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, TextIO

from .. import serialize, tracebacks
from ..calls import command_of
from ..core.messages import Outcome, OutcomeFlag, TaskFlag, TaskItem
from ..errors import TaskTimeoutError
from ..notes import add_note
from ..seeding import Seeded
from ..segment_port import SegmentPort
from .carrier import Carrier
from .children import START_SECONDS, Children
from .memory import MemoryLimits, max_rss
from .output import Output

WARNINGS_MAX = 100
"""Warnings of one task that are kept (RULES 27)."""
WARNING_TEXT_MAX = 2000
_new = tuple.__new__
"""See core/messages.py."""
UNPICKLE_SECONDS = 30.0
"""What a task with a timeout has on top of it until its call is unpickled: a new worker imports what it needs then,
which must not make a short timeout impossible to meet."""


class TaskInterrupted(KeyboardInterrupt):
    """Raised in a task that must stop: what tidies up after a Ctrl-C does so, and `except Exception` lets it pass."""


class CallRunner:
    """Run calls one after the other in this thread.

    Args:
        worker: the name of the worker, for notes on errors that happen around the user's code.
        must_stop: answers whether the task with an ordinal is to be interrupted.
        set_deadline: called with an ordinal and seconds: that task may run so long from now on.
        limits: what the process may use of memory.
        output: the process's streams, or None: then nothing is caught.
        port: where large buffers go and come from, or None: then they travel with the rest.

    Attributes:
        task_id: of the task that runs, or ran last.
        carrier: has its large buffers.
    """

    def __init__(
        self,
        worker: str,
        must_stop: Callable[[int], bool] = lambda _ordinal: False,
        set_deadline: Callable[[int, float], None] = lambda _ordinal, _seconds: None,
        limits: MemoryLimits | None = None,
        output: Output | None = None,
        port: SegmentPort | None = None,
    ) -> None:
        self._worker = worker
        self._must_stop = must_stop
        self._set_deadline = set_deadline
        self._limits = limits or MemoryLimits()
        self._is_limited = self._limits.task_max is not None
        self._output = output
        self._armed = 0
        self.task_id = 0
        self._is_interrupted = False
        self._fn: Any = None  # of the running task
        self._handler = self.interrupt  # one object, to be known again
        self._pid = os.getpid()
        self._caught: list[dict[str, Any]] = []
        self._max_rss = max_rss()
        self._children = Children()
        self._started = self._seconds = 0.0  # of the running task
        self.carrier = Carrier(port or SegmentPort(-1), self.undisturbed)
        warnings.showwarning = self._catch_warning

    def run(self, task: TaskItem) -> Outcome:
        """Run one task to its outcome."""
        cpu_clock = time.process_time
        if self._caught:
            self._caught.clear()  # a thread that a former task left behind
        self._started, self._seconds, self._fn, self._is_interrupted = time.time(), 0.0, None, False
        output = self._output
        catching = output if task.flags and task.flags & TaskFlag.CATCH_OUTPUT else None
        if catching is not None:
            catching.catch()
        self.task_id = task.task_id
        cpu0 = cpu_clock()
        flags, parts = self._attempt(task)
        if os.getpid() != self._pid:
            os._exit(0)  # the task forked and its child came back: there is only one worker here
        if self._is_interrupted:
            # What the task has started it could not tidy up if it was interrupted in the midst of starting it.
            self._children.kill_new()
        seconds = self._seconds
        if seconds > START_SECONDS:
            self._children.task_ended()
            if seconds > 0.001:
                self._max_rss = max_rss()  # what is shorter cannot have touched much
        cpu = cpu_clock() - cpu0
        if catching is not None:
            flags |= OutcomeFlag.OUTPUT
            parts = (parts[0], catching.caught(), *parts[1:])
        elif output is not None:
            output.flush()
        if self._caught:
            flags |= OutcomeFlag.WARNINGS
            parts = (parts[0], self.take_warnings(), *parts[1:])
        return _new(
            Outcome,
            (task.task_id, task.attempt, flags, parts, self._started, seconds, cpu, self._max_rss, 0, 0, None),
        )

    def begin_chunk(self, task_id: int) -> None:
        """Get ready for items that somebody else calls: these are never interrupted."""
        if self._caught:
            self._caught.clear()
        self._is_interrupted = False
        self.task_id = task_id

    def end_chunk(self, seconds: float) -> None:
        """Tidy up behind such items, which took so long."""
        if seconds > START_SECONDS:
            self._children.task_ended()
        if self._output is not None:
            self._output.flush()
        if _signal.getsignal(signal.SIGINT) is not self._handler:
            self.install_handler()

    @property
    def has_caught(self) -> bool:
        """Whether something was warned of since take_warnings()."""
        return bool(self._caught)

    def take_warnings(self) -> bytes:
        """Return the warnings that were caught, and forget them."""
        caught, self._caught = self._caught, []
        return json.dumps(caught).encode()

    def describe_error(self, error: BaseException, doing: str) -> tuple[bytes, bytes]:
        """Return the error of an item and its report; `doing` as in the note on the error."""
        _flags, (part, report) = self._error(error, doing, None)
        return part, report

    def install_handler(self) -> None:
        """Take SIGINT, at first and after a task that took it: asyncio does so, and leaves another handler behind."""
        signal.signal(signal.SIGINT, self._handler)

    def interrupt(self, _signal_number: int, frame: FrameType | None) -> None:
        """Raise in the running task if the signal is meant for it; the handler of the signal."""
        ordinal = self._armed
        if ordinal and self._must_stop(ordinal):
            self._armed = 0
            self._is_interrupted = True
            if _is_importing(frame):
                # What is half imported stays so: of a package, Python forgets the package and keeps its modules.
                self._limits.is_spent = True
            raise TaskInterrupted("the task was told to stop")

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Keep an interrupt out of what is done here on the running task's behalf; it is raised afterwards."""
        armed = 0
        if threading.current_thread() is threading.main_thread():  # no other is ever interrupted
            armed, self._armed = self._armed, 0
        try:
            yield
        finally:
            if armed:
                self._armed = armed
                if self._must_stop(armed):  # the signal may have come meanwhile, and done nothing
                    self.interrupt(0, None)

    def _attempt(self, task: TaskItem) -> tuple[int, tuple[bytes, ...]]:
        doing = "unpickling the call"
        ordinal, timeout, clock, carrier = task.ordinal, task.timeout, time.perf_counter, self.carrier
        try:
            try:
                self._armed = ordinal
                if self._must_stop(ordinal):  # the signal came before `_armed` was set, and did nothing
                    self.interrupt(0, None)
                if timeout:
                    self._set_deadline(ordinal, timeout + UNPICKLE_SECONDS)
                if self._is_limited:
                    self._limits.impose()
                head, data = task.head, task.parts[0]
                fn, args, kwargs = carrier.loads_headed(head, data) if head else carrier.loads(data)
                self._fn = fn
                doing = ""
                if timeout:
                    self._set_deadline(ordinal, timeout)
                t0 = clock()
                try:
                    value = fn(*args, **kwargs)
                finally:
                    self._seconds = clock() - t0
                if self._is_interrupted or self._must_stop(ordinal):  # see _is_stopped()
                    raise TaskInterrupted("the task went on after it was told to stop")
                doing = "pickling the result"
                return carrier.pickle(value)
            finally:
                self._armed = 0
                if self._is_limited:
                    self._limits.lift()
                if _signal.getsignal(signal.SIGINT) is not self._handler:
                    self.install_handler()
        except BaseException as error:
            self._armed = 0  # the lines above may be those that were interrupted
            self._limits.lift()
            self.install_handler()
            return self._error(error, doing, task)

    def _error(self, error: BaseException, doing: str, task: TaskItem | None) -> tuple[int, tuple[bytes, ...]]:
        try:
            # The first frame is ours, a second may be; the user's begin behind them.
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            if error.__traceback__ is not None and error.__traceback__.tb_frame.f_code is Seeded.__call__.__code__:
                error.__traceback__ = error.__traceback__.tb_next
            if doing:
                add_note(error, f"raised while {doing} in worker {self._worker}")
            if doing and isinstance(error, ModuleNotFoundError):
                add_note(
                    error,
                    f"module {error.name} is missing on host {socket.gethostname()} for {sys.executable}: install it "
                    "there, or let it travel by value: ship=[...] of the launcher",
                )
            if isinstance(error, MemoryError) and self._limits.task_max:
                self._limits.is_spent = True
                add_note(error, self._limits.describe())
        except BaseException as broken:  # an exception class that refuses attributes
            error = broken
        is_timeout = task is not None and task.timeout and self._is_stopped(task)
        if task is not None and is_timeout:
            error = self._timeout_error(error, task)
        flags = OutcomeFlag.ERROR | OutcomeFlag.REPORT
        if task is not None and task.flags & TaskFlag.RETRY_ON and self._is_one_of(error, task.parts[-1]):
            flags |= OutcomeFlag.RETRYABLE
        report = tracebacks.describe(error, is_interruptible=False)  # the task is over: nobody interrupts it here
        report_part = json.dumps(report).encode()
        try:
            part = tracebacks.dumps_error(error)
        except BaseException as broken:
            why = f"it cannot be pickled: {type(broken).__name__}: {broken}"
            part = serialize.dumps(tracebacks.remote_error(report, why))
        return flags, (part, report_part)

    def _is_stopped(self, task: TaskItem) -> bool:
        """Answer whether the task was told to stop, whether or not it let our handler hear of it."""
        return self._is_interrupted or self._must_stop(task.ordinal)

    def _timeout_error(self, error: BaseException, task: TaskItem) -> TaskTimeoutError:
        """Return what a task fails with that was interrupted for its timeout: the frames say where it was."""
        name = "the unpickling of its call" if self._fn is None else command_of(self._fn)
        timeout = TaskTimeoutError(f"{name} took longer than timeout={task.timeout:g} s in worker {self._worker}")
        if isinstance(error, TaskInterrupted):
            return timeout.with_traceback(_without_handler(error.__traceback__))
        timeout.__cause__ = error  # what the task made of the interrupt
        return timeout

    def _is_one_of(self, error: BaseException, classes: Any) -> bool:
        """Answer whether the error is an instance of the pickled classes; no, if they cannot be had here."""
        try:
            return isinstance(error, serialize.loads(classes))
        except BaseException as broken:
            add_note(error, f"not retried: retry_on cannot be used in worker {self._worker}: {broken!r}")
            return False

    def _catch_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG002  the hook's signature
        line: str | None = None,  # noqa: ARG002
    ) -> None:
        if len(self._caught) < WARNINGS_MAX:
            self._caught.append(
                {
                    "message": str(message)[:WARNING_TEXT_MAX],
                    "module": category.__module__,
                    "category": category.__qualname__,
                    "filename": filename,
                    "lineno": lineno,
                }
            )


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def dump_initializer_error(error: BaseException, worker: str, what: str) -> tuple[bytes, bytes]:
    """Return the error of an initializer, or of what else is run first, and its report as parts of a READY frame."""
    _flags, parts = CallRunner(worker)._error(error, f"running the {what}", None)
    return parts[0], parts[1]


def _without_handler(traceback: TracebackType | None) -> TracebackType | None:
    """Drop the last frame, that of the signal handler: the one before it is where the task was."""
    entry = traceback
    while entry is not None and entry.tb_next is not None:
        if entry.tb_next.tb_frame.f_code is CallRunner.interrupt.__code__:
            entry.tb_next = None
            break
        entry = entry.tb_next
    return traceback
