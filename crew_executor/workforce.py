"""The workers of one executor, from the invitation to the grave: launch them, watch their clocks, kill and bury them.

Part of the dispatcher, and run by its thread; only watch() and next_wake() are called under its lock. What becomes of
a dead worker's tasks is the scheduler's business: the home is told, and asks it.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections import deque
from typing import Protocol

from .connection import Connection
from .core.stock import Stock
from .core.worker import EXIT_GRACE, START_SECONDS, Worker
from .employer import Employer
from .errors import TOLD_TO_END, CrewError, LaunchError
from .events import EventStream
from .launchers import WorkerExit
from .mailbox import Mailbox
from .obituary import launch_failure
from .seats import Seats

KILLS_MAX = 3
"""A worker that was killed so often, EXIT_GRACE apart, and never joined, is given up whatever its launcher says or does
not say: a launcher that loses its workers must not keep an executor waiting. No task was ever sent to it."""


SPARE_SECONDS = 5.0
"""After so long without work a worker leaves that has stood in for one whose task waited for subtasks. The next such
task may come soon, and to launch a worker takes longer."""


class Home(Protocol):
    """What the workforce asks of its dispatcher. Called by the dispatcher's thread."""

    mailbox: Mailbox
    events: EventStream
    is_lent_a_thread: bool

    def serve(self, connection: Connection) -> None:
        """Read from the worker until its link ends; in a thread of its own."""

    def worker_added(self, connection: Connection) -> None:
        """Note a worker that is about to be launched."""

    def worker_gone(self, connection: Connection) -> None:
        """Judge its tasks: process and link have ended."""

    def worker_removed(self, connection: Connection) -> None:
        """Forget a worker."""

    def launch_failed(self, text: str, launched_at: float) -> None:
        """Count a launch that came to nothing."""


class Workforce:
    """Launch, watch and bury workers.

    Args:
        home: the dispatcher.
        employer: starts and ends workers.
        name: the executor's.
        tasks_max: tasks after which a worker leaves, or None.
        seats: how many places there are.
        stock: has what workers are given.
    """

    def __init__(
        self, home: Home, employer: Employer, name: str, tasks_max: int | None, seats: int, stock: Stock
    ) -> None:
        self._home = home
        self._employer = employer
        self._name = name
        self._tasks_max = tasks_max
        self._numbers = itertools.count(1)
        self._to_kill: list[tuple[Connection, str]] = []
        self.connections: dict[str, Connection] = {}
        self.seats = Seats(seats)
        self._stock = stock
        self.readerless: deque[Connection] = deque()
        """Workers that nobody reads from: the interpreter starts no more threads."""

    # ------------------------------------------------------------------ launching

    def launch(self, number: int, now: float) -> None:
        """Launch workers; failures are told to the home."""
        for _ in range(number):
            name = f"{self._name}-{next(self._numbers)}"
            try:
                connection = self._employer.connect(Worker(name, tasks_max=self._tasks_max), now)
            except (OSError, CrewError) as error:  # descriptors or memory ran out
                self._home.launch_failed(f"no link for worker {name} could be made: {error}", now)
                return
            self._home.worker_added(connection)
            self._home.events.worker("launched", connection)
            if not connection.is_far and not connection.start_reader(self._home.serve):
                if (
                    not self._home.is_lent_a_thread
                ):  # too many threads; or the lender is about to come: the next try tells
                    self._home.worker_removed(connection)
                    connection.close()
                    self._home.launch_failed(f"no thread could be started to read from worker {name}", now)
                    return
                self.readerless.append(connection)
            self._start(connection)
        if number:
            self._employer.flush(now)

    def equip(self, connection: Connection) -> None:
        """Give a worker that is about to be launched a seat, and what it needs; under the dispatcher's lock."""
        self.seats.take(connection)
        connection.set_number = self._stock.equip(connection.worker)

    def strip(self, connection: Connection) -> None:
        """Take back what a worker had that is gone; as above."""
        self.seats.leave(connection)
        self._stock.take_back(connection.worker)

    def _start(self, connection: Connection) -> None:
        def on_exit(connection: Connection, end: WorkerExit) -> None:
            self._home.mailbox.put(self._exited, connection, end)

        try:
            self._employer.start(connection, on_exit)
        except Exception as error:  # a launcher may be anybody's
            reason = error if isinstance(error, LaunchError) else f"{type(error).__name__}: {error}"
            self._exited(connection, WorkerExit(connection.worker.name, reason=f"could not be launched: {reason}"))

    def forget_share(self, number: int) -> None:
        """Let the workers forget a constant that nobody refers to any more."""
        for connection in list(self.connections.values()):
            connection.forget_share(number)
        self._employer.forget_share(number)

    # ------------------------------------------------------------------ watching

    def watch(
        self, now: float, *, is_idle_end: bool, spare: int = 0, tasks_queued: int = 0, workers_kept: int = 0,
        next_seconds: float = 0.0,
    ) -> list[Worker]:  # fmt: skip
        """Look at each worker's clocks; return who must be told to leave. Kills are noted for kill_noted().

        Args:
            now: monotonic seconds.
            is_idle_end: the executor is shut down, and no task is left.
            spare: how many workers there are beyond those that may be busy.
            tasks_queued: how many tasks wait.
            workers_kept: how many workers are wanted even if none does.
            next_seconds: how long the next of these tasks will take, or 0.
        """
        self._employer.watch(now, tasks_queued, workers_kept, next_seconds)
        timeout = self._employer.startup_timeout
        leavers: list[Worker] = []
        for connection in list(self.connections.values()):
            worker = connection.worker
            if connection.exit is not None:
                continue  # its reader is finishing what had arrived
            if not connection.is_joined and now - connection.expected_from >= timeout and not connection.killed_because:
                connection.killed_because = f"it did not join within startup_timeout={timeout:g} s"
                connection.kill_at = now + EXIT_GRACE
                self._to_kill.append((connection, connection.killed_because))
            elif connection.kill_at is not None and now >= connection.kill_at:
                connection.kill_at = now + EXIT_GRACE
                self._to_kill.append((connection, connection.killed_because or "it did not end by itself"))
            elif is_idle_end and not connection.is_ready:
                if connection.kill_at is None:
                    connection.kill_at = now
                    connection.killed_because = "the executor was shut down"
                    self._to_kill.append((connection, connection.killed_because))
            elif connection.unstarted_seconds(now) >= START_SECONDS and not connection.killed_because:
                because = f"it did not start its task within {START_SECONDS:g} s: it is frozen, or its lock is held"
                self._to_kill.append((connection, because))
            elif worker.is_ready and (is_idle_end or now >= connection.leaves_at):
                leavers.append(worker)
            elif connection.is_spare(now, spare > 0, SPARE_SECONDS):
                spare -= 1
                leavers.append(worker)
            if worker.is_leaving and not (worker.held or connection.calls) and connection.kill_at is None:
                connection.kill_at = now + EXIT_GRACE
        return leavers

    def next_wake(self) -> list[float]:
        """Return the times of the workers' clocks that watch() must not miss."""
        times = self._employer.next_wake()
        for connection in self.connections.values():
            if connection.exit is not None:
                continue  # its reader is finishing what had arrived; no clock of its matters any more
            if not connection.is_joined and not connection.killed_because:
                times.append(connection.expected_from + self._employer.startup_timeout)
            if connection.kill_at is not None:
                times.append(connection.kill_at)
            if connection.is_ready and not connection.worker.is_leaving:
                times.append(connection.leaves_at)
        return times

    def extend_deadlines(self, seconds: float) -> None:
        """Give every worker more time: the client itself stood still (RULES 6)."""
        for connection in self.connections.values():
            connection.extend_deadlines(seconds)

    # ------------------------------------------------------------------ killing

    def kill_noted(self) -> None:
        """Kill whom watch() has found wanting."""
        noted, self._to_kill = self._to_kill, []
        for connection, because in noted:
            self.kill(connection, because)

    def kill(self, connection: Connection, because: str) -> None:
        """Kill one worker and remember why."""
        connection.killed_because = connection.killed_because or because
        if connection.exit is None:
            self._employer.kill(connection, signal.SIGKILL)
            connection.kills += 1
            if connection.kills >= KILLS_MAX and not connection.is_joined:
                text = f"its launcher was told {KILLS_MAX} times to kill it, and has not said that it is gone"
                self._exited(connection, WorkerExit(connection.worker.name, reason=text))

    def let_end(self, connection: Connection) -> None:
        """Wait for a worker that is about to end by itself; kill it after EXIT_GRACE."""
        connection.kill_at = time.monotonic() + EXIT_GRACE

    def kill_all(self, signal_number: int) -> None:
        """Send every worker a signal, and SIGKILL after EXIT_GRACE."""
        with contextlib.suppress(IndexError):  # the lent thread takes them, too
            while True:  # it may never come again: a Ctrl-C has sent it here
                self.reader_done(self.readerless.popleft())
        for connection in list(self.connections.values()):
            connection.killed_because = connection.killed_because or TOLD_TO_END
            connection.kill_at = time.monotonic() + EXIT_GRACE
            if connection.exit is None:
                self._employer.kill(connection, signal_number)

    def stop(self, connection: Connection, ordinal: int) -> None:
        """End the run of a task, and the worker with it if nothing else helps. May be called by any thread."""
        if connection.exit is None:
            self._employer.stop(connection, ordinal)

    # ------------------------------------------------------------------ burying

    def _exited(self, connection: Connection, end: WorkerExit) -> None:
        """The process is over: what it had sent or left in its outbox counts, then its tasks are judged."""
        if connection.exit is not None:
            return  # it was given up: see kill()
        connection.exit = end
        connection.is_reader_done = connection.is_reader_done or connection.is_far  # its exit is its last word
        connection.drain()
        self._bury_if_over(connection)

    def reader_done(self, connection: Connection) -> None:
        """Note that nothing will arrive from the worker any more."""
        connection.is_reader_done = True
        if connection.exit is None and connection.kill_at is None:
            # The end of a link is only a hint: the process may live on without it, and is of no more use.
            connection.kill_at = time.monotonic() + EXIT_GRACE
        self._bury_if_over(connection)

    def _bury_if_over(self, connection: Connection) -> None:
        if connection.exit is None or not connection.is_reader_done:
            return
        self._home.worker_gone(connection)
        text = launch_failure(connection, self._employer.describe(connection)) if connection.has_failed_to_start else ""
        self._home.events.buried(connection, text)
        if text:
            self._home.launch_failed(text, connection.launched_at)
        self._home.worker_removed(connection)
        connection.close()

    def close_all(self) -> None:
        """Do what can be done when nobody will bury the workers one by one."""
        for connection in list(self.connections.values()):
            with contextlib.suppress(Exception):
                connection.close()
