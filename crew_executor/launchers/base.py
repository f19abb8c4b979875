"""The contract between an executor and whatever starts its workers.

A LocalLauncher (local.py) starts each worker on this machine. Every other launcher is a Launcher: it starts *jobs*,
each of which runs one agent on some host, and the agent starts workers there when it is told to. A launcher knows
nothing of links, frames or tasks, and never decides how many workers there should be.

The connection decides, the scheduler explains: a job is at work when its agent has dialled in and proved who it is, and
dead when it is silent. A launcher is asked only about jobs whose agents have not come, and about those that are out of
reach. So a status command that is slow, limited or wrong cannot hang or fail work.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from ..core.needs import check_resources
from ..errors import CrewError, LaunchError
from ..log import logger
from ..security import Certificates
from .equipment import Outfit

DEFAULT_STARTUP_TIMEOUT = 30.0
DEFAULT_MAX_FAILED_LAUNCHES = 3
JOB_STARTUP_TIMEOUT = 60.0
JOB_IDLE_TIMEOUT = 300.0
LOST_AFTER = 60.0
LOST_AFTER_MIN = 1.0
PORT_MAX = 65535


class Invitation(NamedTuple):
    """What a worker needs in order to come. Opaque to launchers, except for how it is handed over.

    Attributes:
        name: the worker's, unique in its executor.
        run: the executor's run.
        secret: proves that the worker was invited; never on a command line.
        idle_timeout: seconds without work after which the worker asks to leave, or None.
        environment: variables to set unless the user has set them (thread limits).
        descriptors: link, cell, log, port for segments, hatch, and what the initializer's arguments need, for launchers
            that start processes on this machine. They belong to the dispatcher; a launcher duplicates what it keeps.
        devices: the GPUs that the worker is to see, or None: whatever its process sees anyhow.
    """

    name: str
    run: int
    secret: str
    idle_timeout: float | None = None
    environment: Mapping[str, str] = MappingProxyType({})
    descriptors: tuple[int, ...] = ()
    devices: tuple[str, ...] | None = None

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


class BaseLauncher:
    """What all launchers have in common.

    Args:
        startup_timeout: seconds from the start of a worker until it must have joined.
        walltime: seconds after which a worker is let go once its running task is done, or None.
        max_failed_launches: so many failed launches in a row, with no worker at work, break the pool.
        resources: what each worker has that tasks may need, amounts by name: see options(resources=...).
    """

    idle_timeout: float | None = None
    """The default idle timeout of executors with this launcher, in seconds; None: idle workers stay."""

    @property
    def capacity(self) -> int | None:
        """How many workers it can have at a time, or None: as many as the executor wants."""
        return None

    def __init__(
        self,
        *,
        startup_timeout: float = DEFAULT_STARTUP_TIMEOUT,
        walltime: float | None = None,
        max_failed_launches: int = DEFAULT_MAX_FAILED_LAUNCHES,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        check_seconds("startup_timeout", startup_timeout)
        if walltime is not None and not walltime > 0:
            raise ValueError(f"walltime must be None or a number of seconds above 0, not {walltime!r}")
        if max_failed_launches < 1:
            raise ValueError(f"max_failed_launches must be at least 1, not {max_failed_launches!r}")
        self.startup_timeout = startup_timeout
        self.walltime = walltime
        self.max_failed_launches = max_failed_launches
        self.resources = check_resources("resources", resources or {})

    def outfit(self, workers: int) -> Outfit:  # noqa: ARG002  local ones have as many sets
        """Return what the workers of a pool of so many have that tasks may need."""
        return Outfit(self.resources)

    def prepare(self) -> None:
        """Get ready for launches, in a thread of the user's, when an executor is made.

        Raises:
            LaunchError: this launcher cannot work here.
        """


class JobState(Enum):
    """What a scheduler says of a job."""

    PENDING = "pending"  # it will start some time; nobody need do anything
    RUNNING = "running"
    ENDED = "ended"  # or it will never start


class JobStatus(NamedTuple):
    """What a scheduler says of a job, and why.

    Attributes:
        state: see JobState.
        words: the scheduler's own, for messages: "TIMEOUT", "Eqw: can't get password entry".
        is_taken_away: it ended because whoever gave the node took it back (time limit, preemption, a lost node): tasks
            that ran there may run again without a charge to their retries, and no launch has failed.
        is_sure: False: it has ended, or it is only out of sight. If its agent has not come it is not waited for; if it
            has, its link alone tells whether it lives.
    """

    state: JobState
    words: str = ""
    is_taken_away: bool = False
    is_sure: bool = True


class LaunchRetry(CrewError):
    """Raised by submit(): not now, but the same may succeed a little later ("temporarily unavailable", throttled)."""


class Job:
    """What a launcher is asked to start: a job that runs one agent.

    Attributes:
        name: for the scheduler: "crew-", a part of the run's number, the job's; unique.
        number: the job's, in its executor.
        workers: so many workers will run there at a time, at most.
        invitation: what the agent reads, secrets included: as its stdin, from a file that only this user can read, or
            from a platform's secret store. Never on a command line, nor in the environment of a job script; where a
            platform has no secrets, in a container's environment, and its page says who can read that.
        environment: variables to set for the agent; no secrets.
        walltime: seconds that it may run, or None.
        python: the interpreter there.
        port: at which the executor listens.
    """

    def __init__(
        self, name: str, number: int, workers: int, invitation: bytes, environment: Mapping[str, str],
        walltime: float | None, python: str, port: int,
    ) -> None:  # fmt: skip
        self.name = name
        self.number = number
        self.workers = workers
        self.invitation = invitation
        self.environment = environment
        self.walltime = walltime
        self.python = python
        self.port = port

    def invitation_to(self, addresses: Sequence[tuple[str, int]]) -> bytes:
        """Return the invitation with other addresses and ports, where the way to this machine is another."""
        from ..invitations import decode, encode  # late: workers on this machine need none of it

        return encode(decode(self.invitation)._replace(addresses=list(addresses)))

    def command(self, invitation_path: str = "-") -> list[str]:
        """Return the agent's command, as a list of words.

        Args:
            invitation_path: of the file with the invitation, as the host sees it; "-": it comes from stdin; "env:NAME":
                it is in that environment variable, which the platform sets from its secret store.
        """
        return [self.python, "-m", "crew_executor", "worker", invitation_path]

    def write_invitation(self, folder: str | os.PathLike[str], suffix: str = "") -> str:
        """Write the invitation into a file that only this user can read, and return its path.

        Args:
            folder: which this machine and the host have in common. It is made, with mode 0700, if it is not there.
            suffix: of the file's name, before its ending: where each of several jobs has a file of its own.
        """
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, f"{self.name}{suffix}.invitation")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(self.invitation)
        return path

    def __repr__(self) -> str:
        return f"<Job {self.name} of {self.workers} workers>"  # never the invitation


class Launcher(BaseLauncher, ABC):
    """Start jobs that run agents. Subclass it and write submit(); all else is optional.

    Its methods run in one thread of the executor's, one after the other, never in its dispatcher: each may block.

    Args:
        workers_per_job: so many workers share one job, its host and its agent.
        host: where agents find this machine: an address, a name or an interface ("ib0"), or several of them, which each
            agent tries one after the other. None: all addresses of this machine.
        port: the port that the executor listens at: a number, a range of them, or 0 for any that is free.
        python: the interpreter on the hosts; None: the path of this one. It must be of the same minor version, with
            crew_executor and what tasks import.
        environment: variables for agents and workers there, on top of what a host has itself. No secrets: schedulers
            show them.
        ship: modules that the hosts do not have: their functions and classes travel by value.
        lost_after: seconds of silence after which a host is given up. Its tasks are retried or fail, as for a crash.
        startup_timeout: seconds from the start of a job until its agent must have come, and from the start of a worker
            until that must have joined. Time that a job waits in a queue does not count.
        walltime: seconds that a job may run, or None. Its workers leave before.
        max_failed_launches: so many failed launches in a row, with no worker at work, break the pool.
        resources: what each worker has that tasks may need, amounts by name: see options(resources=...).
        max_jobs: at most so many jobs at a time, or None.
        max_launches: at most so many jobs in all, or None.
        max_worker_hours: no more jobs are started once workers have been there for so many hours in all, or None.
        idle_timeout: the default of executors with this launcher: seconds without work after which a worker leaves.
        certificates: your own certificates for TLS, in place of a pre-shared key: paths of PEM files and the name in
            the client's, (ca_file, own_file, name); see docs/security.md. None: the key needs none.
        certificates_there: the same for the hosts, where the files have other paths there.
        unencrypted_and_unauthenticated: True: plain tcp instead of TLS. Anybody on the way can read all that is sent,
            and change it, which is to run any code here and there: for a network that nobody else is on.
    """

    jobs_per_submit: int = 1
    """At most so many jobs are asked for in one submit()."""
    variables: tuple[str, ...] = ()
    """Environment variables of a job that tell it from the others of its submission; see handle_of()."""
    poll_seconds: tuple[float, float] = (2.0, 60.0)
    """From a submission to the first poll(), and the longest time between two."""
    gpus: float | None = None
    """How many GPUs a job has, which its workers share out evenly; None: it is not known."""
    used_by: str = ""
    """The executor whose jobs it starts: a launcher serves one at a time."""

    def __init__(
        self,
        *,
        workers_per_job: int = 1,
        host: str | Sequence[str] | None = None,
        port: int | range = 0,
        python: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        ship: Sequence[ModuleType] = (),
        lost_after: float = LOST_AFTER,
        startup_timeout: float = JOB_STARTUP_TIMEOUT,
        walltime: float | None = None,
        max_failed_launches: int = DEFAULT_MAX_FAILED_LAUNCHES,
        resources: Mapping[str, float] | None = None,
        max_jobs: int | None = None,
        max_launches: int | None = None,
        max_worker_hours: float | None = None,
        idle_timeout: float | None = JOB_IDLE_TIMEOUT,
        certificates: tuple[str, str, str] | None = None,
        certificates_there: tuple[str, str, str] | None = None,
        unencrypted_and_unauthenticated: bool = False,
    ) -> None:
        super().__init__(
            startup_timeout=startup_timeout, walltime=walltime, max_failed_launches=max_failed_launches,
            resources=resources,
        )  # fmt: skip
        check_seconds("lost_after", lost_after, LOST_AFTER_MIN)
        for name, number in (
            ("workers_per_job", workers_per_job), ("max_jobs", max_jobs), ("max_launches", max_launches),
        ):  # fmt: skip
            _check_count(name, number)
        if max_worker_hours is not None and not max_worker_hours > 0:
            raise ValueError(f"max_worker_hours must be None or a number of hours above 0, not {max_worker_hours!r}")
        if idle_timeout is not None and not idle_timeout >= 0:
            raise ValueError(f"idle_timeout must be None or a number of seconds, not {idle_timeout!r}")
        self.workers_per_job = workers_per_job
        self.hosts = _checked_hosts(host)
        self.ports = _checked_ports(port)
        self.python = sys.executable if python is None else os.fsdecode(python)
        self.environment = _checked_environment(environment)
        self.ship = _checked_modules(ship)
        self.lost_after = lost_after
        self.max_jobs = max_jobs
        self.max_launches = max_launches
        self.max_worker_hours = max_worker_hours
        self.idle_timeout = idle_timeout
        self._warned: set[str] = set()
        self.is_encrypted = not unencrypted_and_unauthenticated
        there = certificates_there or certificates
        self.certificates = None if certificates is None else Certificates(*map(os.fsdecode, certificates))
        self.certificates_there = None if there is None else Certificates(*map(os.fsdecode, there))
        if certificates is None and there is not None:
            raise ValueError("certificates_there are of no use without certificates")
        if certificates is not None and unencrypted_and_unauthenticated:
            raise ValueError("certificates are of no use to a link that is unencrypted_and_unauthenticated")

    @property
    def capacity(self) -> int | None:
        """How many workers all jobs have room for."""
        return None if self.max_jobs is None else self.max_jobs * self.workers_per_job

    def outfit(self, workers: int) -> Outfit:  # noqa: ARG002  as above
        """Return what each worker has: all the same; the agent of a job shares its GPUs out."""
        if self.gpus is None:
            return Outfit(self.resources)
        gpus, each = self.gpus, self.workers_per_job
        return Outfit({**self.resources, **check_resources("gpus", {"gpus": gpus // each or gpus / each})})

    def prepare(self) -> None:
        """Let the modules of `ship` travel by value, from now on and for all executors of this process.

        A supervisor is started, as for workers on this machine: it has none of these, but `ps` and `kill` ask it.
        """
        from . import supervisor_handle  # late, as below

        try:
            supervisor_handle.current()
        except LaunchError as error:
            logger.info("`ps` and `kill` will not find this process: %s", error)
        if self.ship:
            from .. import serialize  # late: see above

            for module in self.ship:
                serialize.ship(module)

    def check(self) -> None:
        """Look whether this launcher can work, before the first job: is its submit command there?

        Raises:
            LaunchError: it cannot; the text says why, and what to do.
        """

    @abstractmethod
    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Start jobs, and return a handle of each: whatever tells them apart in the calls of the other methods.

        Args:
            job: what to start. Several jobs of one call have one invitation, good for as many agents.
            number: how many such jobs; at most jobs_per_submit.

        Returns:
            The handles; fewer than asked for mean that there is no room for the others now.

        Raises:
            LaunchRetry: not now; it is tried again after a while.
            LaunchError: it was refused; the text has the command, the scheduler's words, and what to try.
        """

    def find(self, job: Job) -> Sequence[Hashable]:  # noqa: ARG002
        """Return the handles of jobs with this name: asked when a submission timed out, before it is repeated."""
        return ()

    def handle_of(self, variables: Mapping[str, str], handles: Sequence[Hashable]) -> Hashable | None:  # noqa: ARG002
        """Return which of these jobs, of one submission, is the one in which `variables` have these values, or None."""
        return None

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:  # noqa: ARG002
        """Say how jobs stand, all by one command; of those left out nothing is known."""
        return {}

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """End jobs that have not come, or were given up; "already gone" is no error."""

    def explain(self, handle: Hashable) -> str:  # noqa: ARG002
        """Return what is known of a job that came to nothing: the scheduler's reason, its log's end, what to do."""
        return ""

    def describe(self) -> str:
        """Return how jobs are started, in words or as a command, for error messages."""
        return f"started by {type(self).__name__}"

    def warn_once(self, about: str, text: str) -> None:
        """Log a warning, but one only about each thing: what is tried again for hours must be told, not for hours."""
        if about not in self._warned:
            self._warned.add(about)
            logger.warning("%s", text)

    def close(self) -> None:
        """Give back what this launcher holds: no job of the executor is left, or was given up."""


class SubmitTimeout(LaunchRetry):
    """Raised by submit(): no answer came in time, so the jobs may have been started or not; find() is asked then."""


def check_seconds(name: str, seconds: Any, least: float = 0.0) -> None:
    """Raise ValueError unless it is a number of seconds above 0, and not below the least."""
    if not isinstance(seconds, (int, float)) or not seconds > 0 or seconds < least:
        bound = f"of at least {least:g}" if least else "above 0"
        raise ValueError(f"{name} must be a number of seconds {bound}, not {seconds!r}")


def _check_count(name: str, number: Any) -> None:
    if number is not None and (not isinstance(number, int) or number < 1):
        raise ValueError(f"{name} must be a whole number above 0, not {number!r}")


def _checked_hosts(host: Any) -> tuple[str, ...]:
    if host is None:
        return ()
    hosts = (host,) if isinstance(host, str) else tuple(host) if isinstance(host, Sequence) else ()
    if not hosts or not all(isinstance(each, str) and each for each in hosts):
        raise ValueError(f"host must be an address, a name or an interface, or several of them, not {host!r}")
    return hosts


def _checked_ports(port: Any) -> range:
    ports = range(port, port + 1) if isinstance(port, int) else port
    if not isinstance(ports, range) or not ports or not 0 <= min(ports) <= max(ports) <= PORT_MAX:
        raise ValueError(f"port must be a number from 0 to {PORT_MAX}, or a range of them, not {port!r}")
    return ports


def _checked_environment(environment: Any) -> dict[str, str]:
    checked: dict[str, Any] = dict(environment or {})
    for name, value in checked.items():
        if not (isinstance(value, str) and re.fullmatch(r"[^=\0]+", str(name)) and "\0" not in value):
            raise ValueError(f"environment must have names and texts, not {name!r}: {value!r}")
    return checked


def _checked_modules(ship: Sequence[Any]) -> tuple[ModuleType, ...]:
    for module in ship:
        if not isinstance(module, ModuleType):
            raise TypeError(f"ship takes modules, not {type(module).__name__}: import {module!r} and give that")
    return tuple(ship)
