"""Workers as the ranks of an MPI job: one mpirun starts the agents of one submission, on the hosts that it is given.

Agents do not speak MPI: mpirun is only what starts processes on hosts. It ends all ranks when one has failed, unless it
is told otherwise, and it must be: one worker's host that is lost is no reason to lose the others.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import LaunchError
from .base import Job, JobState, JobStatus, Launcher
from .logged_process import LoggedProcess

RANKS_MAX = 1000
"""Of one submission, where it is not said."""
CLOSE_SECONDS = 4.0
"""How long close() waits for an mpirun whose agents have ended, and again when it was told to end."""
DEFAULT_FOLDER = "~/.crew_executor/mpi"
KINDS = {
    # Recovery alone lets the others go on when a rank was killed by a signal: with orte_abort_on_non_zero_status=0
    # mpirun then never ends. Ranks are bound to nothing: two mpiruns know nothing of each other, and would bind theirs
    # to the same cores.
    "openmpi": ("--enable-recovery", "--bind-to", "none"),
    "mpich": ("-disable-auto-cleanup", "-bind-to", "none"),
}
"""What each MPI's mpirun is told beside the user's options."""
_END = "crew_executor: end of rank"
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
"""Variables with a rank's number; each MPI sets one of them at least."""
_END_LINE = re.compile(rf"{_END} (\d+) (\d+)")
_ROOT_REFUSED = "has detected an attempt to run as root"
"""What Open MPI says before it explains why."""
_ROOT_ADVICE = (
    "Open MPI refuses to run as root: set OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 in the "
    "environment, or give MPILauncher(options=['--allow-run-as-root'])"
)
_TELLING = f'trap : TERM USR1 USR2; "$@"; echo "{_END} ${{{_RANKS[0]}:-${{{_RANKS[1]}:-${_RANKS[2]}}}}} $?"'
"""A shell's script that says how a rank has ended: mpirun tells of none as long as others go on."""
_OF_A_JOB_AROUND = ("OMPI_COMM_WORLD_", "OMPI_UNIVERSE_", "OMPI_MCA_orte_", "OMPI_MCA_ess", "OMPI_MCA_pmix",
                    "PMIX_", "PMI_")  # fmt: skip
"""Variables of a rank. A client that is one itself hides them from its mpirun, which would not run inside another."""


class _Rank(NamedTuple):
    """A handle: one rank of an mpirun."""

    run: _Run
    number: int

    def __str__(self) -> str:
        return f"rank {self.number} of mpirun {self.run.process.pid}"


class MPILauncher(Launcher):
    """Start workers by mpirun, each agent as one rank.

    Without a host file or the like mpirun takes the hosts of the allocation that it runs in: of Slurm, PBS and so on.

    Args:
        ranks: at most so many at a time, which is how many slots mpirun has; None: as many as the executor wants.
        mpirun: its path, or its name on PATH.
        kind: of MPI: "openmpi" or "mpich" (and those derived from it).
        options: for mpirun: ("--hostfile", "hosts").
        folder: for invitations, which this machine and the hosts share; mode 0700.
        **more: as for Launcher: workers_per_job, host, port, python, environment, ship, lost_after, ... Idle workers
            stay by default (idle_timeout=None): the hosts are allocated anyway.
    """

    poll_seconds = (0.2, 2.0)  # to look at a process of one's own costs nothing
    variables = _RANKS

    def __init__(
        self,
        ranks: int | None = None,
        *,
        mpirun: str | os.PathLike[str] = "mpirun",
        kind: str = "openmpi",
        options: Sequence[str] = (),
        folder: str | os.PathLike[str] = DEFAULT_FOLDER,
        **more: Any,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        super().__init__(**{"max_jobs": ranks, "idle_timeout": None, **more})
        self.jobs_per_submit = ranks or RANKS_MAX
        self.mpirun = os.fsdecode(mpirun)
        self.options = [*KINDS[kind], *options]
        self.folder = os.path.abspath(os.path.expanduser(os.fsdecode(folder)))
        self._runs: list[_Run] = []

    def check(self) -> None:
        """Raise LaunchError if there is no mpirun."""
        if shutil.which(self.mpirun) is None:
            raise LaunchError(
                f"there is no {self.mpirun!r} here: install Open MPI, load its module, or give MPILauncher(mpirun=...)"
            )

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Start one mpirun, with so many ranks."""
        for run in self._runs:
            if run.process.poll() is not None:
                run.close()
        self._runs = [run for run in self._runs if not run.is_closed]
        try:
            path = job.write_invitation(self.folder)
        except OSError as error:
            raise LaunchError(f"no invitation can be written into {self.folder}: {error}; give folder=") from error
        command = [self.mpirun, "-n", str(number), *self.options, "sh", "-c", _TELLING, "sh", *job.command(path)]
        run = _Run(command, number, path)
        self._runs.append(run)
        return [_Rank(run, rank) for rank in range(number)]

    def handle_of(self, variables: Mapping[str, str], handles: Sequence[Hashable]) -> Hashable | None:
        """Return the handle whose rank this is."""
        rank = next((variables[name] for name in self.variables if name in variables), "")
        return next((each for each in handles if isinstance(each, _Rank) and str(each.number) == rank), None)

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Say which ranks, or their mpirun, have ended."""
        return {handle: handle.run.status(handle.number) for handle in handles if isinstance(handle, _Rank)}

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """End an mpirun of whose ranks none is wanted: a single one cannot be ended, and gives up by itself."""
        for handle in handles:
            assert isinstance(handle, _Rank)
            handle.run.cancel(handle.number)

    def explain(self, handle: Hashable) -> str:
        """Return the command, how it ended, and the end of what all ranks have printed."""
        assert isinstance(handle, _Rank)
        run = handle.run
        log = run.log_tail()
        words = _ROOT_ADVICE if _ROOT_REFUSED in log else log
        return "\n".join(filter(None, (shlex.join(run.command), run.status(handle.number).words, words)))

    def describe(self) -> str:
        """Return mpirun and its options."""
        return f"started by {shlex.join([self.mpirun, '-n', 'RANKS', *self.options])}"

    def close(self) -> None:
        """Wait for all mpiruns, and end those that do not end."""
        for end in (lambda _run: None, _Run.terminate):
            until = time.monotonic() + CLOSE_SECONDS
            for run in self._runs:
                end(run)
            for run in self._runs:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.process.wait(max(0.0, until - time.monotonic()))
        for run in self._runs:
            run.close()
        self._runs.clear()


class _Run(LoggedProcess):
    """An mpirun."""

    def __init__(self, command: list[str], number: int, invitation_path: str) -> None:
        self._invitation_path = invitation_path
        self._wanted = set(range(number))
        self._read, self._unread = 0, b""
        self._ends: dict[int, str] = {}
        own = _OF_A_JOB_AROUND if any(name in os.environ for name in _RANKS) else ()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        try:
            super().__init__(command, environment=environment)
        except LaunchError:
            os.unlink(invitation_path)
            raise

    def status(self, rank: int) -> JobStatus:
        """Return how a rank stands. When mpirun itself was killed, agents may live on."""
        code, ended = self.process.poll(), self._ended()
        if rank in ended:
            return JobStatus(JobState.ENDED, f"rank {rank} ended with exit code {ended[rank]}")
        if code is None:
            return JobStatus(JobState.RUNNING, f"mpirun {self.process.pid} runs")
        return JobStatus(JobState.ENDED, f"mpirun ended with exit code {code}", is_sure=code >= 0)

    def cancel(self, rank: int) -> None:
        """Note that nobody wants this rank; end it all if nobody wants any."""
        self._wanted.discard(rank)
        if not self._wanted.difference(self._ended()):
            self.terminate()

    def _ended(self) -> dict[int, str]:
        """Return the exit codes of those ranks that have ended."""
        new = self.read_from(self._read)
        self._read += len(new)
        *lines, self._unread = (self._unread + new).split(b"\n")
        for line in lines:
            self._ends.update((int(rank), code) for rank, code in _END_LINE.findall(line.decode("utf-8", "replace")))
        return self._ends

    def close(self) -> None:
        """End it if need be, and give back what it holds."""
        super().close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._invitation_path)
