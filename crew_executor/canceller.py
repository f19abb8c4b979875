"""Cancels tasks on behalf of users' threads. Decides nothing: the scheduler says what of a task can still be dropped.

cancel() may come in a signal handler or a finaliser that has interrupted the holder of the dispatcher's lock, and a
Ctrl-C may come in the middle of it. In both cases the dispatcher's thread, which has no signals, does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .announcer import Announcer
from .callbacks import CallbackThread
from .chunks import MapRun
from .connection import Connection
from .core.messages import TaskFlag
from .core.scheduler import Scheduler
from .core.task import STOPPING, Task
from .events import EventStream
from .futures import CrewFuture
from .inbox import Inbox
from .mailbox import Mailbox
from .obituary import run_times
from .recaller import Recaller
from .workforce import Workforce


class Shell(Protocol):
    """What is asked of the dispatcher."""

    mailbox: Mailbox
    is_closing: bool
    recaller: Recaller

    def decide(self, decision: Callable[..., Any], *arguments: Any) -> Any:
        """Have the scheduler decide something, with what was submitted before, and carry it out."""

    def is_interrupting(self) -> bool:
        """Answer whether the caller has interrupted the holder of the lock."""


class Canceller:
    """Cancel futures, and what is left of a map().

    Args:
        shell: the dispatcher.
        lock: its lock.
        scheduler: decides; called under the lock.
        workforce: knows the workers, and ends runs.
        inbox: has the tasks that the scheduler has not seen.
        announcer: tells what has become of tasks.
        events: is told as well.
    """

    def __init__(
        self, shell: Shell, lock: Any, scheduler: Scheduler, workforce: Workforce, inbox: Inbox,
        announcer: Announcer,
        events: EventStream,
    ) -> None:  # fmt: skip
        self._shell = shell
        self._lock = lock
        self._scheduler = scheduler
        self._workforce = workforce
        self._inbox = inbox
        self._announcer = announcer
        self._events = events

    def cancel(self, future: CrewFuture[Any], is_running_included: bool) -> None:
        """Cancel the future if its task is queued; `is_running_included`: also at a worker, and end its run."""
        if future._task is None:
            return  # it is done
        if self._shell.is_interrupting():
            self._shell.mailbox.put(self._cancel_late, future, is_running_included)
            return
        try:
            self._cancel(future, is_running_included, None)
        except BaseException:  # a Ctrl-C: what was begun is finished by a thread without signals
            self._shell.mailbox.put(self._cancel_late, future, is_running_included)
            raise

    def drop_map(self, run: MapRun) -> None:
        """Let no item of a map() begin that has not; does not wait."""
        self._shell.mailbox.put(self._drop_map, run)

    def _drop_map(self, run: MapRun) -> None:
        def is_mine(task: Task) -> bool:
            return bool(task.flags & TaskFlag.ITEMS) and task.handle.run is run

        with self._lock:
            queued = filter(is_mine, [*self._inbox.tasks, *self._scheduler.queue])
            dropped = [task for task in queued if self._scheduler.cancel(task)]
            workers = self._scheduler.workers.values()
            holders = [worker.name for worker in workers if any(map(is_mine, worker.held.values()))]
            connections = [self._workforce.connections[name] for name in holders]
        self._announcer.dropped(dropped)
        for connection in connections:
            self._shell.recaller.recall(connection)  # what comes back is not queued again, for the run is dropped

    def _cancel(self, future: CrewFuture[Any], is_running_included: bool, callbacks: CallbackThread | None) -> None:
        task: Task | None = future._task
        if task is None:
            return  # done meanwhile
        with self._lock:
            if task.is_dropped:
                return
            connection = None
            if is_running_included and task.worker is not None:
                connection = self._workforce.connections[task.worker.name]
            is_sent = self._inbox.is_sent(task)
            if is_running_included:
                is_dropped = self._scheduler.stop(task, is_sent=is_sent)
            else:
                is_dropped = not is_sent and self._scheduler.cancel(task)
            if not is_dropped:
                return
            if connection is not None:  # its record says where and since when it ran
                future._worker = connection.facts
                if connection.cell.started == task.ordinal:  # else it waits there, behind another
                    future._times = run_times(connection)
        self._after_drop(future, task, callbacks)

    def _after_drop(self, future: CrewFuture[Any], task: Task, callbacks: CallbackThread | None) -> None:
        """Do what follows from dropping a task; may be done again."""
        if self._events.listeners and task.handle is not None:
            self._events.dropped(task, future)
        task.handle = None
        if task.state is STOPPING:
            self._shell.mailbox.put(self._stop_running, task)
        elif self._shell.is_closing:
            self._shell.mailbox.put(self._nothing)
        self._inbox.wake_waiting()
        future._finish_cancelled(callbacks)

    def _holder_of(self, task: Task) -> Connection | None:
        return None if task.worker is None else self._workforce.connections.get(task.worker.name)

    def _nothing(self) -> None: ...  # only to wake the dispatcher's thread, which may wait for the last task

    def _cancel_late(self, future: CrewFuture[Any], is_running_included: bool) -> None:
        """Cancel, or finish a cancelling that was interrupted; in the dispatcher's thread."""
        self._cancel(future, is_running_included, self._announcer.callbacks)
        task: Task | None = future._task
        if task is not None and task.is_dropped:
            self._after_drop(future, task, self._announcer.callbacks)

    def _stop_running(self, task: Task) -> None:
        """Take back a task that nobody wants any more if it has not started, else end its run."""
        connection = self._shell.decide(self._holder_of, task)
        if connection is not None:
            self._shell.recaller.recall(connection)
            if task.state is STOPPING:
                self._workforce.stop(connection, task.ordinal)
