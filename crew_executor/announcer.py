"""Tells futures what became of their tasks, once the dispatcher has decided it. Called outside every lock of ours.

What several items of a map() report goes to their chunk, which is no future and has no callbacks.

A task and its future refer to each other: whoever tells the future ends that, or neither would be freed.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from . import errors
from .callbacks import CallbackThread
from .connection import Connection
from .core.messages import OUTPUT_BYTES_MAX, Outcome, TaskFlag
from .core.task import Task
from .futures import CrewFuture
from .obituary import loss_error

if TYPE_CHECKING:
    from .errors import BrokenCrewError


class Announcer:
    """Finish futures. Their callbacks run in a thread of its own, unless they are known to be quick.

    Args:
        name: the executor's.
    """

    def __init__(self, name: str) -> None:
        self.callbacks = CallbackThread(name)

    def finished(self, connection: Connection, finished: list[tuple[Task, Outcome]]) -> None:
        """Tasks of a worker are done, with these outcomes."""
        for task, outcome in finished:
            connection.busy_seconds += outcome.seconds
            if outcome.items:
                task.handle.finish(outcome)
                continue
            future, task.handle = task.handle, None
            future._finish(outcome, connection.facts, self.callbacks)

    def lost(self, task: Task, connection: Connection) -> None:
        """A task's worker has died while it ran the task."""
        if task.flags & TaskFlag.ITEMS:
            task.handle.fail(task.first, task.items, loss_error(task.handle.name(), task, connection)[0])
            return
        future: CrewFuture[Any] = task.handle
        task.handle = None
        if task.flags & TaskFlag.CATCH_OUTPUT:
            future._output = connection.log_tail(OUTPUT_BYTES_MAX)
        error, times = loss_error(future.name(), task, connection)
        future._finish_lost(error, connection.facts, times, self.callbacks)

    def dropped(self, tasks: list[Task], broken: BrokenCrewError | None = None) -> None:
        """These tasks do not run any more: they were cancelled, or the pool is broken, for this reason."""
        for task in tasks:
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


def _reason(broken: BrokenCrewError) -> BrokenCrewError:
    """Return an error of its own for each future."""
    failure = errors.BrokenCrewError(str(broken))
    failure.__cause__ = broken.__cause__
    return failure
