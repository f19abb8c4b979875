"""Where workers come from and who may end them, as the workforce sees it; and that of workers on this machine.

A LocalLauncher starts and ends processes here, by the supervisor. All other launchers start agents on other hosts,
which do so there: see fleet.py. Called by the dispatcher's thread, but for stop().
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .connection import Connection
from .core.worker import Worker
from .ends import LocalEnds
from .inheritance import Courier
from .launchers import LocalLauncher, WorkerExit

OnExit = Callable[[Connection, WorkerExit], None]


class Employer(Protocol):
    """Start workers, end them, say what has become of them.

    Attributes:
        startup_timeout: seconds from the start of a worker until it must have joined.
    """

    startup_timeout: float

    def begin(self) -> None:
        """The first task is there: start the threads that are needed, soon it may be too late. In a user's thread."""

    def connect(self, worker: Worker, now: float) -> Connection:
        """Return the connection of a worker that is to come; raise OSError or CrewError."""

    def start(self, connection: Connection, on_exit: OnExit) -> None:
        """Have the worker come; raise LaunchError. `on_exit` is called once, by any thread, when it is over."""

    def flush(self, now: float) -> None:
        """Several have been started in a row: that was the last."""

    def kill(self, connection: Connection, signal_number: int) -> None:
        """Send a signal to a worker and what its tasks have started."""

    def stop(self, connection: Connection, ordinal: int) -> None:
        """End the run of a task, and the worker with it if nothing else helps. May be called by any thread."""

    def describe(self, connection: Connection) -> str:
        """Return how a worker was started, in words or as a command."""

    def watch(self, now: float, tasks_queued: int, workers_kept: int, next_seconds: float) -> None:
        """Look at what only takes time. Must not block; under the dispatcher's lock.

        Args:
            now: monotonic seconds.
            tasks_queued: how many tasks wait.
            workers_kept: how many workers are wanted even if none does.
            next_seconds: how long the next of these tasks will take, or 0.
        """

    def next_wake(self) -> list[float]:
        """Return the times that watch() must not miss."""

    def forget_share(self, number: int) -> None:
        """Let whatever stands between forget a constant."""

    def close(self) -> None:
        """Leave nothing behind: no worker is left, and none will be wanted."""


class LocalEmployer:
    """Workers on this machine.

    Args:
        launcher: starts and ends processes.
        run: the executor's.
        idle_timeout, environment, courier: what each worker is told, or brings along.
        workers_max: so many workers may be there at a time.
    """

    def __init__(
        self, launcher: LocalLauncher, run: int, *, idle_timeout: float | None, environment: dict[str, str],
        courier: Courier | None, workers_max: int,
    ) -> None:  # fmt: skip
        self._outfit = launcher.outfit(workers_max)
        self._launcher = launcher
        self._run = run
        self._idle_timeout = idle_timeout
        self._environment = environment
        self._courier = courier
        self.startup_timeout = launcher.startup_timeout

    def begin(self) -> None:
        """Workers here need one thread each, and the main thread helps out."""

    def connect(self, worker: Worker, now: float) -> Connection:
        """Return the connection of a worker that is to come."""
        connection = Connection(worker, self._run, now, LocalEnds(self._run))
        connection.expected_from = now
        if self._launcher.walltime is not None:
            connection.leaves_at = now + self._launcher.walltime
        return connection

    def start(self, connection: Connection, on_exit: OnExit) -> None:
        """Have it forked."""
        inherited = () if self._courier is None else tuple(self._courier.descriptors)
        ends = connection.ends
        assert isinstance(ends, LocalEnds)
        invitation = connection.invitation(self._idle_timeout, self._environment, (*ends.descriptors, *inherited))
        own = connection.set_number
        devices = self._outfit.devices if own is None else self._outfit.sets[own].devices
        invitation = invitation._replace(devices=devices)
        try:
            self._launcher.launch(invitation, lambda end: on_exit(connection, end))
        finally:
            ends.handed_over()

    def flush(self, now: float) -> None:
        """Each is started at once."""

    def kill(self, connection: Connection, signal_number: int) -> None:
        """Send a signal to the worker's process group."""
        self._launcher.kill(connection.invitation(), signal_number)

    def stop(self, connection: Connection, ordinal: int) -> None:
        """Let the supervisor end a task's run."""
        self._launcher.stop(connection.invitation(), ordinal)

    def describe(self, connection: Connection) -> str:  # noqa: ARG002  all are started in the same way
        """Return the interpreter's command, or that workers are forked."""
        return self._launcher.describe()

    def watch(self, now: float, tasks_queued: int, workers_kept: int, next_seconds: float) -> None:
        """Nothing here takes time."""

    def next_wake(self) -> list[float]:
        """As above."""
        return []

    def forget_share(self, number: int) -> None:
        """Nothing stands between."""

    def close(self) -> None:
        """The supervisor serves other executors, too."""
