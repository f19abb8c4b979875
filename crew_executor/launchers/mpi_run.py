"""One mpirun: the shell around each of its ranks, their invitations in files, how they end. Knows nothing of workers.

Each rank has a file of its own, which it opens and removes before its agent begins: so none stays if the client is
killed, but those of ranks that have never started.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence

from ..errors import LaunchError
from .base import Job, JobState, JobStatus
from .logged_process import LoggedProcess

RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
"""Variables with a rank's number; each MPI sets one of them at least."""
_END = "crew_executor: end of rank"
_END_LINE = re.compile(rf"{_END} (\d+) (\d+)")
_REFUSALS = {
    "has detected an attempt to run as root":
        "Open MPI refuses to run as root: set OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 in the "
        "environment, or give MPILauncher(options=['--allow-run-as-root'])",
    "not enough slots available":
        "mpirun has fewer slots than ranks asked for: give MPILauncher(ranks=...), or options=['--oversubscribe']",
}  # fmt: skip
"""What Open MPI says before it explains why, at length, and what we say."""
_TELLING = (
    f'trap : TERM USR1 USR2; r=${{{RANKS[0]}:-${{{RANKS[1]}:-${RANKS[2]}}}}}; f="$1.rank$r.invitation"; shift; '
    f'{{ rm -f "$f"; "$@"; }} <"$f"; echo "{_END} $r $?"'
)
"""A shell's script that hands a rank its invitation, and says how it has ended: mpirun tells of none as long as others
go on."""
_OF_A_JOB_AROUND = ("OMPI_COMM_WORLD_", "OMPI_UNIVERSE_", "OMPI_MCA_orte_", "OMPI_MCA_ess", "OMPI_MCA_pmix",
                    "PMIX_", "PMI_")  # fmt: skip
"""Variables of a rank. A client that is one itself hides them from its mpirun, which would not run inside another."""


class Run(LoggedProcess):
    """An mpirun.

    Args:
        mpirun: its command, to which the number of ranks and what they run are added.
        job: what each rank runs.
        number: of ranks.
        folder: for invitations.

    Raises:
        LaunchError: it cannot be started, or no invitation be written.
    """

    def __init__(self, mpirun: Sequence[str], job: Job, number: int, folder: str) -> None:
        self._wanted = set(range(number))
        self._read, self._unread = 0, b""
        self._ends: dict[int, str] = {}
        self._invitations: list[str] = []
        own = _OF_A_JOB_AROUND if any(name in os.environ for name in RANKS) else ()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        path = os.path.join(folder, job.name)
        program, *options = mpirun
        words = [program, "-n", str(number), *options, "sh", "-c", _TELLING, "sh", path, *job.command()]
        try:
            self._write_invitations(folder, job, number)
            super().__init__(words, environment=environment)
        except BaseException:
            self._remove_invitations()
            raise

    def _write_invitations(self, folder: str, job: Job, number: int) -> None:
        try:
            for rank in range(number):
                self._invitations.append(job.write_invitation(folder, f".rank{rank}"))
        except OSError as error:
            raise LaunchError(f"no invitation can be written into {folder}: {error}; give folder=") from error

    def _remove_invitations(self) -> None:
        """Remove those that no rank has taken."""
        for path in self._invitations:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._invitations.clear()

    def status(self, rank: int) -> JobStatus:
        """Return how a rank stands. When mpirun itself was killed, agents may live on."""
        code, ended = self.process.poll(), self._ended()
        if code is not None and code >= 0:
            self._remove_invitations()
        if rank in ended:
            return JobStatus(JobState.ENDED, f"rank {rank} ended with exit code {ended[rank]}")
        if code is None:
            return JobStatus(JobState.RUNNING, f"mpirun {self.process.pid} runs")
        return JobStatus(JobState.ENDED, f"mpirun ended with exit code {code}", is_sure=code >= 0)

    def explain(self) -> str:
        """Return why mpirun has refused, or what it and its ranks have printed since this was asked before."""
        log = self.log_tail()
        refusals = [words for sign, words in _REFUSALS.items() if sign in log]
        if refusals:
            return refusals[0]
        return self.log_news() or (log and "(what it has printed was told before)")

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
        self._remove_invitations()
