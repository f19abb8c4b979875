"""The contract between the dispatcher and whatever starts workers.

A launcher turns an invitation into a process somewhere and reports when that process is over. It knows nothing of
links, frames or tasks, and never decides how many workers there should be. Its methods are called by the dispatcher's
thread; its reports may come from any.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

DEFAULT_STARTUP_TIMEOUT = 30.0
DEFAULT_MAX_FAILED_LAUNCHES = 3


class Invitation(NamedTuple):
    """What a worker needs in order to come. Opaque to launchers, except for how it is handed over.

    Attributes:
        name: the worker's, unique in its executor.
        run: the executor's run.
        secret: proves that the worker was invited; never on a command line.
        idle_timeout: seconds without work after which the worker asks to leave, or None.
        environment: variables to set unless the user has set them (thread limits).
        descriptors: link, cell, log, port for segments, and what the initializer's arguments need, for launchers that
            start processes on this machine. They belong to the dispatcher; a launcher duplicates what it keeps.
    """

    name: str
    run: int
    secret: str
    idle_timeout: float | None = None
    environment: Mapping[str, str] = MappingProxyType({})
    descriptors: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<Invitation of {self.name}>"  # never the secret


class WorkerExit(NamedTuple):
    """The end of a worker's process, as its launcher saw it.

    Attributes:
        name: the worker's.
        pid: the process, or None when none was started.
        exitcode: the exit status, minus the number of the signal that ended it, or None when nobody saw.
        max_rss: the most memory it had, in bytes; 0 when unknown.
        reason: words, where an exit code does not tell ("fork: out of memory").
        is_launchers_fault: the launcher lost the worker: not counted as a failed launch.
        is_taken_away: whoever gave the worker took it back (walltime, preemption, a lost node): a task that it ran may
            run again without a charge to its retries.
        verdict: what the launcher knows of the cause beside the exit code ("by the kernel for memory ..."), or "".
    """

    name: str
    pid: int | None = None
    exitcode: int | None = None
    max_rss: int = 0
    reason: str = ""
    is_launchers_fault: bool = False
    is_taken_away: bool = False
    verdict: str = ""

    @property
    def signal_name(self) -> str | None:
        """The name of the signal that ended the process, or None."""
        if self.exitcode is None or self.exitcode >= 0:
            return None
        try:
            return signal.Signals(-self.exitcode).name
        except ValueError:
            return f"signal {-self.exitcode}"

    def describe(self) -> str:
        """Return the end in words: "killed by SIGKILL", "exit code 3"."""
        if self.reason:
            return self.reason
        if self.exitcode is None:
            return "ended, nobody saw how"
        end = f"killed by {self.signal_name}" if self.signal_name else f"exit code {self.exitcode}"
        return f"{end}, {self.verdict}" if self.verdict else end


class Launcher(ABC):
    """Start workers and see them end. Subclass it and write launch() and kill().

    Args:
        startup_timeout: seconds from a launch until the worker must have joined.
        walltime: seconds after which a worker is let go once its running task is done, or None.
        max_failed_launches: so many failed launches in a row, with no worker at work, break the pool.
    """

    idle_timeout: float | None = None
    """The default idle timeout of executors with this launcher, in seconds; None: idle workers stay."""

    def __init__(
        self,
        *,
        startup_timeout: float = DEFAULT_STARTUP_TIMEOUT,
        walltime: float | None = None,
        max_failed_launches: int = DEFAULT_MAX_FAILED_LAUNCHES,
    ) -> None:
        if not startup_timeout > 0:
            raise ValueError(f"startup_timeout must be a number of seconds above 0, not {startup_timeout!r}")
        if walltime is not None and not walltime > 0:
            raise ValueError(f"walltime must be None or a number of seconds above 0, not {walltime!r}")
        if max_failed_launches < 1:
            raise ValueError(f"max_failed_launches must be at least 1, not {max_failed_launches!r}")
        self.startup_timeout = startup_timeout
        self.walltime = walltime
        self.max_failed_launches = max_failed_launches

    def prepare(self) -> None:  # noqa: B027  nothing to prepare is the common case
        """Get ready for launches, in a thread of the user's, when an executor is made.

        Raises:
            LaunchError: this launcher cannot work here.
        """

    @abstractmethod
    def launch(self, invitation: Invitation, on_exit: Callable[[WorkerExit], None]) -> None:
        """Begin to start one worker and return.

        Args:
            invitation: what to hand to the worker.
            on_exit: to be called once, from any thread, when the worker's process is over or never was.

        Raises:
            LaunchError: it could not even be tried.
        """

    @abstractmethod
    def kill(self, invitation: Invitation, signal_number: int) -> None:
        """Send a signal to a worker and the processes its tasks started; "already gone" is no error."""

    @abstractmethod
    def stop(self, invitation: Invitation, ordinal: int) -> None:
        """End the run of one task: interrupt it, and kill its worker if that does not help.

        Args:
            invitation: the worker's.
            ordinal: the number of the task on the worker's link. If the worker is beyond it, nothing must happen to it.
        """

    @abstractmethod
    def describe(self) -> str:
        """Return how workers are started, in words or as a command, for error messages."""
