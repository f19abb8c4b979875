"""Tells futures what became of their tasks, once the dispatcher has decided it. Called outside every lock of ours.

What several items of a map() report goes to their chunk, which is no future and has no callbacks.

A task and its future refer to each other: whoever tells the future ends that, or neither would be freed.
"""

from __future__ import annotations

import json
import time
from collections import deque
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from . import errors
from .callbacks import CallbackThread
from .connection import Connection
from .core.messages import OUTPUT_BYTES_MAX, Outcome, TaskFlag
from .core.task import Task
from .events import EventStream
from .futures import CrewFuture
from .obituary import describe_loss, loss_error, run_times

if TYPE_CHECKING:
    from .errors import BrokenCrewError


FAILURES_KEPT, FAILURE_CHARACTERS = 5, 300


class Announcer:
    """Finish futures. Their callbacks run in a thread of its own, unless they are known to be quick.

    Args:
        name: the executor's.
        events: is told as well.

    Attributes:
        failures: how many tasks have failed or were lost; items of a map() do not count.
        last_failures: in words, for `ps --watch`, the latest last.
    """

    def __init__(self, name: str, events: EventStream) -> None:
        self.callbacks = CallbackThread(name)
        self._events = events
        self.failures = 0
        self.last_failures: deque[str] = deque(maxlen=FAILURES_KEPT)

    def finished(self, connection: Connection, finished: list[tuple[Task, Outcome]]) -> None:
        """Tasks of a worker are done, with these outcomes."""
        if self._events.listeners:
            self._events.done(finished, connection.facts.name)
        facts, callbacks = connection.facts, self.callbacks
        for task, outcome in finished:
            connection.busy_seconds += outcome.seconds
            if outcome.flags and outcome.is_error:
                self._note_failure(task.handle.name(), _words(outcome))
            if outcome.items:
                task.handle.finish(outcome)
                continue
            future, task.handle = task.handle, None
            future._finish(outcome, facts, callbacks)

    def _note_failure(self, name: str, words: str) -> None:
        self.failures += 1
        self.last_failures.append(f"{time.strftime('%H:%M:%S')} {name}: {words[:FAILURE_CHARACTERS]}")

    def lost(self, task: Task, connection: Connection) -> None:
        """A task's worker has died while it ran the task."""
        error, times = loss_error(task.handle.name(), task, connection)
        self._note_failure(task.handle.name(), str(error))
        if self._events.listeners:
            is_timeout = isinstance(error, errors.TaskTimeoutError)
            self._events.lost(task, connection.facts.name, str(error), times, is_timeout=is_timeout)
        if task.flags & TaskFlag.ITEMS:
            task.handle.fail(task.first, task.items, error)
            return
        future: CrewFuture[Any] = task.handle
        task.handle = None
        if task.flags & TaskFlag.CATCH_OUTPUT:
            future._output = connection.log_tail(OUTPUT_BYTES_MAX)
        future._finish_lost(error, connection.facts, times, self.callbacks)

    def retried(self, task: Task, connection: Connection, outcome: Outcome | None) -> None:
        """An attempt has failed, with this outcome or with its worker, and there will be another."""
        if not self._events.listeners:
            return
        if outcome is not None:
            self._events.finished(task, outcome, connection.facts.name, is_last=False)
            return
        times = run_times(connection) if task.ordinal == connection.cell.started else None
        words, is_timeout = describe_loss(connection), task.ordinal == connection.timed_out
        self._events.lost(task, connection.facts.name, words, times, is_timeout=is_timeout, is_last=False)

    def close(self) -> None:
        """Wait until all callbacks have run and all events were told."""
        self.callbacks.close()
        self._events.close()

    def dropped(self, tasks: list[Task], broken: BrokenCrewError | None = None) -> None:
        """These tasks do not run any more: they were cancelled, or the pool is broken, for this reason."""
        for task in tasks:
            if self._events.listeners and task.handle is not None:
                self._events.dropped(task, task.handle, str(broken or ""))
            if task.flags & TaskFlag.ITEMS:
                task.handle.fail(task.first, task.items, _reason(broken) if broken else CancelledError())
                continue
            future, task.handle = task.handle, None
            if future is None:
                continue  # its user was faster
            if broken is None:
                future._finish_cancelled(self.callbacks)
            else:
                future._finish_lost(_reason(broken), callbacks=self.callbacks)


def _words(outcome: Outcome) -> str:
    report = json.loads(outcome.parts[-1])
    return f"{report['type_name']}: {report['text']}"


def _reason(broken: BrokenCrewError) -> BrokenCrewError:
    """Return an error of its own for each future."""
    failure = errors.BrokenCrewError(str(broken))
    failure.__cause__ = broken.__cause__
    return failure
