"""Workers as the ranks of an MPI job: one mpirun starts the agents of one submission, on the hosts that it is given.

Agents do not speak MPI: mpirun is only what starts processes on hosts. It ends all ranks when one has failed, unless it
is told otherwise, and it must be: one worker's host that is lost is no reason to lose the others.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import LaunchError
from .base import Job, JobStatus, Launcher
from .mpi_run import RANKS, Run
from .script import remove_stale

RANKS_MAX = 1000
"""Of one submission, where it is not said."""
CLOSE_SECONDS = 4.0
"""How long close() waits for an mpirun whose agents have ended, and again when it was told to end."""
STALE_SECONDS = 24 * 3600.0
"""Invitations that are older are of clients that were killed: an mpirun begins at once."""
DEFAULT_FOLDER = "~/.crew_executor/mpi"
KINDS = {
    # Recovery alone lets the others go on when a rank was killed by a signal: with orte_abort_on_non_zero_status=0
    # mpirun then never ends. Ranks are bound to nothing: two mpiruns know nothing of each other, and would bind theirs
    # to the same cores.
    "openmpi": ("--enable-recovery", "--bind-to", "none"),
    "mpich": ("-disable-auto-cleanup", "-bind-to", "none"),
}
"""What each MPI's mpirun is told beside the user's options."""


class _Rank(NamedTuple):
    """A handle: one rank of an mpirun."""

    run: Run
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
    variables = RANKS

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
        number: Any = ranks
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ValueError(f"ranks must be None or a whole number above 0, not {ranks!r}")
        if isinstance(options, str) or not all(isinstance(each, str) for each in options):
            raise TypeError(f"options must be a sequence of words, not {options!r}")
        super().__init__(**{"max_jobs": ranks, "idle_timeout": None, **more})
        self.jobs_per_submit = ranks or RANKS_MAX
        self.mpirun = os.fsdecode(mpirun)
        self.options = [*KINDS[kind], *options]
        self.folder = os.path.abspath(os.path.expanduser(os.fsdecode(folder)))
        self._runs: list[Run] = []

    def check(self) -> None:
        """Raise LaunchError if there is no mpirun; remove invitations that killed clients have left."""
        if shutil.which(self.mpirun) is None:
            raise LaunchError(
                f"there is no {self.mpirun!r} here: install Open MPI, load its module, or give MPILauncher(mpirun=...)"
            )
        remove_stale(self.folder, r".*\.rank\d+\.invitation", STALE_SECONDS)

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Start one mpirun, with so many ranks."""
        for run in self._runs:
            if run.process.poll() is not None:
                run.close()
        self._runs = [run for run in self._runs if not run.is_closed]
        run = Run([self.mpirun, *self.options], job, number, self.folder)
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
        """Return the command, how it ended, and the end of what all ranks have printed, once."""
        assert isinstance(handle, _Rank)
        run = handle.run
        return "\n".join(filter(None, (shlex.join(run.command), run.status(handle.number).words, run.explain())))

    def describe(self) -> str:
        """Return mpirun and its options."""
        return f"started by {shlex.join([self.mpirun, '-n', 'RANKS', *self.options])}"

    def close(self) -> None:
        """Wait for all mpiruns, and end those that do not end."""
        for end in (lambda _run: None, Run.terminate):
            until = time.monotonic() + CLOSE_SECONDS
            for run in self._runs:
                end(run)
            for run in self._runs:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.process.wait(max(0.0, until - time.monotonic()))
        for run in self._runs:
            run.close()
        self._runs.clear()
