"""Workers in jobs of LSF. Several jobs are one submission: an array.

By the book: written from the documentation, and tested against stand-ins for bsub, bjobs and bkill.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ..errors import LaunchError
from .base import Job, JobState, JobStatus
from .script import ScriptLauncher

_PENDING = {"PEND", "PSUSP", "WAIT", "PROV"}
_RUNNING = {"RUN", "USUSP", "SSUSP"}
_TAKEN_AWAY = re.compile(r"TERM_(RUNLIMIT|PREEMPT|LOAD|WINDOW|DEADLINE|ZOMBIE|REMOVE_HUNG_JOB)|UNKWN", re.IGNORECASE)
_TRANSIENT = re.compile(r"LSF is down|batch daemon|mbatchd|timed out|try (it )?later|communication", re.IGNORECASE)
_LIMIT = re.compile(r"job limit|pending job threshold|MAX_PEND_JOBS|job slot limit", re.IGNORECASE)


class LSFLauncher(ScriptLauncher):
    """Start workers in jobs of LSF.

    Args:
        queue: as bsub's option -q.
        account: as bsub's -P.
        memory_unit_mb: what this cluster counts memory in (LSF_UNIT_FOR_LIMITS): 1 for MB, 1024 for GB, 1/1024 for kB.
        **more: as for ScriptLauncher: walltime, cpus, memory_gb, gpus, directives, prologue, ...; and for Launcher.
    """

    prefix = "#BSUB"
    submit_command = ("bsub",)
    is_script_on_stdin = True
    clean_variables = ("LSB_", "LS_JOB", "LSFUSER")
    jobs_per_submit = 1000
    variables = ("LSB_JOBID", "LSB_JOBINDEX")

    def __init__(self, *, queue: str | None = None, memory_unit_mb: float = 1.0, **more: Any) -> None:
        super().__init__(**more)
        self.queue = queue
        self.memory_unit_mb = memory_unit_mb

    def directives(self, name: str, log: str, number: int) -> list[str]:
        """Return bsub's."""
        lines = [f"-J {name}[1-{number}]" if number > 1 else f"-J {name}", f"-o {log}", "-rn"]
        lines += [f"-n {self.cpus_of_job}", "-R span[hosts=1]"]
        for option, value in (("-q", self.queue), ("-P", self.account)):
            lines += [] if value is None else [f"{option} {value}"]
        if self.memory_gb is not None:
            memory = math.ceil(1024 * self.memory_gb / self.memory_unit_mb)
            lines += [f"-M {memory}", f"-R rusage[mem={memory}]"]
        if self.gpus is not None:
            lines.append(f"-gpu num={self.gpus}")
        if self.walltime is not None:
            hours, minutes = divmod(math.ceil(self.walltime / 60), 60)
            lines += [f"-W {hours:02d}:{minutes:02d}", "-wa USR1", "-wt 1"]
        return lines

    def log_pattern(self, name: str, number: int) -> str:
        """Return it with the job's number, and that in its array."""
        return f"{name}-%J.%I.log" if number > 1 else f"{name}-%J.log"

    def read_id(self, answer: str) -> str | None:
        """Return the number in "Job <123> is submitted to queue <normal>."."""
        found = re.search(r"Job <(\d+)> is submitted", answer)
        return None if found is None else found[1]

    def handles(self, job_id: str, number: int) -> list[Hashable]:
        """Return the job's number, with those in its array, which begin at 1."""
        return [job_id] if number == 1 else [f"{job_id}[{index}]" for index in range(1, number + 1)]

    def handle_of(self, variables: Mapping[str, str], handles: Sequence[Hashable]) -> Hashable | None:
        """Return the job's number, with that in its array; 0: it is in none."""
        index = variables.get("LSB_JOBINDEX", "0")
        handle = variables.get("LSB_JOBID", "") + ("" if index == "0" else f"[{index}]")
        return handle if handle in handles else None

    def find(self, job: Job) -> Sequence[Hashable]:
        """Return the jobs of this name."""
        return list(self._bjobs("-J", self._name_of(job)))

    def _bjobs(self, *which: str) -> dict[Hashable, tuple[str, str]]:
        """Return state and reason of jobs; raise LaunchError if bjobs does not say."""
        done = self.run(["bjobs", "-a", "-noheader", "-o", "jobid jobindex stat exit_reason delimiter='|'", *which])
        if done.returncode and "not found" not in done.stderr.lower():
            raise LaunchError(f"bjobs ended with exit code {done.returncode}: {done.stderr.strip()}")
        found: dict[Hashable, tuple[str, str]] = {}
        for row in (line.split("|") for line in done.stdout.splitlines()):
            if len(row) == 4:
                number, index, state, reason = (part.strip() for part in row)
                found[number if index in ("", "0", "-") else f"{number}[{index}]"] = (
                    state,
                    "" if reason == "-" else reason,
                )
        return found

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Ask bjobs about all jobs at once; what it does not know any more has ended."""
        known = self._bjobs(*sorted({str(handle).partition("[")[0] for handle in handles}))
        return {handle: _status(*known.get(handle, ("", ""))) for handle in handles}

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Kill jobs: TERM first, then KILL."""
        if handles:
            self.run(["bkill", *map(str, handles)])

    def is_transient(self, words: str) -> bool:
        """Answer whether the daemon was busy, or a limit of the user's jobs is reached: those that run will end."""
        return bool(_TRANSIENT.search(words) or _LIMIT.search(words))


def _status(state: str, reason: str) -> JobStatus:
    if not state:
        return JobStatus(JobState.ENDED, "bjobs does not know it any more")
    words = f"{state} ({reason})" if reason else state
    if state in _PENDING:
        return JobStatus(JobState.PENDING, words)
    if state in _RUNNING:
        return JobStatus(JobState.RUNNING, words)
    return JobStatus(JobState.ENDED, words, is_taken_away=bool(_TAKEN_AWAY.search(words)))
