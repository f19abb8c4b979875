"""Calls that every worker runs once: run_on_all(). Part of the dispatcher.

    workers present:  CALL, behind what they were sent before --> CALLED, with an outcome --> a future each
    late joiners:     the calls of former days in their WELCOME, behind the initializer

The scheduler chooses no worker and queues nothing. It only gives a worker no task until that has answered: the call may
take as long as it likes, and the task could run elsewhere.

What a worker is welcomed with and what it is sent later must add up, so both are decided under the dispatcher's lock,
and go through the connection's queue of frames:
1. reader: takes the calls that there are, queues WELCOME    2. dispatcher: queues CALL behind it
or 1. dispatcher: adds the call, finds a worker that has not joined    2. reader: takes it as well
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .announcer import Announcer
from .connection import Connection
from .core.messages import CALL_ORDINAL, Frame, Outcome, decode_control, decode_outcome_items
from .core.scheduler import Scheduler
from .core.task import Task
from .futures import CrewFuture
from .mailbox import Mailbox

if TYPE_CHECKING:
    from .errors import BrokenCrewError

WAIT_SECONDS = 1.0
"""Seconds between looks whether the dispatcher's thread has ended before it came to a broadcast."""


class Home(Protocol):
    """What is asked of the dispatcher."""

    mailbox: Mailbox
    broken: BrokenCrewError | None

    def check_open(self) -> None:
        """Raise what submit() would raise."""

    def start(self) -> None:
        """Start its thread, if it does not run."""

    def may_wait(self) -> bool:
        """Answer whether its thread runs, and does not wait for the caller."""

    def decide(self, decision: Callable[..., Any], *arguments: Any) -> Any:
        """Have the scheduler decide something, and carry it out."""


class Broadcasts:
    """Have calls run on every worker.

    Args:
        home: the dispatcher.
        lock: its lock.
        announcer: tells futures what has become of their calls.
        connections: the workers that are there or on their way.
        initializer: pickled, with its arguments: the first part of every welcome.
        scheduler: is told which workers are busy with calls.
    """

    def __init__(
        self, home: Home, lock: Any, announcer: Announcer, connections: Mapping[str, Connection], initializer: bytes,
        scheduler: Scheduler,
    ) -> None:  # fmt: skip
        self._home = home
        self._lock = lock
        self._announcer = announcer
        self._connections = connections
        self._scheduler = scheduler
        self._welcome = [initializer]
        self._numbers = itertools.count(1)

    # ------------------------------------------------------------------ for users' threads

    def run(self, fn: Callable[..., Any], data: bytes) -> list[CrewFuture[Any]]:
        """Send a call to the workers that have joined; return a future of each, in the order of their launches.

        Raises:
            RuntimeError: the executor is shut down; or a thread of ours calls, or a signal handler.
            BrokenCrewError: the pool cannot go on.
        """
        self._home.check_open()
        self._home.start()
        if not self._home.may_wait():
            raise RuntimeError(
                "run_on_all() must wait until it is known which workers there are: call it in a thread of your own, "
                "not in a callback of a future, a signal handler or a finaliser"
            )
        futures: list[CrewFuture[Any]] = []
        is_known = threading.Event()
        self._home.mailbox.put(self._begin, fn, data, futures, is_known)
        while not is_known.wait(WAIT_SECONDS):
            self._home.check_open()  # its thread may have ended just before
        if not futures:
            self._home.check_open()
        return futures

    # ------------------------------------------------------------------ for the dispatcher's thread

    def _begin(
        self, fn: Callable[..., Any], data: bytes, futures: list[CrewFuture[Any]], is_known: threading.Event
    ) -> None:
        chosen: list[Connection] = self._home.decide(self._send_to_all, fn, data, futures)
        is_known.set()
        for connection in chosen:
            connection.pump()

    def _send_to_all(self, fn: Callable[..., Any], data: bytes, futures: list[CrewFuture[Any]]) -> list[Connection]:
        now = time.time()
        self._welcome.append(data)
        chosen = [connection for connection in self._connections.values() if _stays(connection)]
        for connection in chosen:
            future: CrewFuture[Any] = CrewFuture(fn, now)
            future._attempt = 1
            future._sent()  # at once: it cannot be cancelled
            task = Task(next(self._numbers), "", (), future)
            task.ordinal = CALL_ORDINAL
            connection.put_call(task, data)
            self._scheduler.call_begun(connection.worker)
            futures.append(future)
        return chosen

    def worker_gone(self, connection: Connection) -> None:
        """Fail the calls that a worker has not answered, which is dead."""
        for task in self._take_open([connection]):
            if self._home.broken is None:
                self._announcer.lost(task, connection)
            else:
                self._announcer.dropped([task], self._home.broken)

    def abandon(self) -> None:
        """Fail all calls that are open: the pool is broken."""
        self._announcer.dropped(self._take_open(self._connections.values()), self._home.broken)

    def cancel_early(self) -> None:
        """Cancel the calls of workers whose initializer has not run: it may never end."""
        tasks = self._take_open([each for each in self._connections.values() if not each.is_ready])
        self._announcer.dropped(tasks)

    def _take_open(self, connections: Any) -> list[Task]:
        with self._lock:
            tasks = [task for connection in connections for task in connection.calls.values()]
            for connection in connections:
                connection.calls.clear()
        return tasks

    def are_open(self) -> bool:
        """Answer whether a worker has a call to answer; under the lock."""
        return any(connection.calls for connection in self._connections.values())

    # ------------------------------------------------------------------ for the readers' threads

    def welcome(self, connection: Connection) -> None:
        """Tell a worker that has proved who it is what to begin with."""
        with self._lock:
            connection.put_welcome(self._welcome)
            connection.is_joined = True
        connection.pump()

    def answered(self, connection: Connection, frame: Frame) -> None:
        """Finish the future of a call."""
        fields, parts = decode_control(frame.body)
        outcomes: list[Outcome] = connection.with_buffers(decode_outcome_items(bytes(parts[0])))
        with self._lock:
            task = connection.calls.pop(fields["number"], None)
        if task is not None:
            self._announcer.finished(connection, [(task, outcomes[0])])
        # By the dispatcher's thread: an executor that is shut down may have waited for this.
        self._home.mailbox.put(self._home.decide, self._scheduler.call_ended, connection.worker, time.monotonic())


def _stays(connection: Connection) -> bool:
    """Answer whether a worker will read what it is sent now."""
    is_ending = connection.exit is not None or connection.killed_because or connection.is_reader_done
    return connection.is_joined and not is_ending and not connection.worker.is_leaving
