"""Workers in jobs of PBS (OpenPBS, PBS Professional). Several jobs are one submission: an array.

By the book: written from the documentation, and tested against stand-ins for qsub, qstat and qdel.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ..errors import LaunchError
from .base import Job, JobState, JobStatus
from .script import ScriptLauncher

_PENDING, _RUNNING = set("QHWTB"), set("RESU")
_TRANSIENT = re.compile(r"cannot connect to server|connection refused|timed out|server busy|try again", re.IGNORECASE)
_LIMIT = re.compile(
    r"would exceed .*limit|max_queued|max_run|job violates queue and/or server resource limits", re.IGNORECASE
)
_KILLED_BY_LIMIT = re.compile(r"(walltime|mem|ncpus|cput) .* exceeded limit", re.IGNORECASE)


class PBSLauncher(ScriptLauncher):
    """Start workers in jobs of PBS.

    Args:
        queue, project, account: as qsub's options -q, -P and -A.
        select: what to ask for, in place of the chunk made of cpus, memory_gb and gpus: "1:ncpus=4:mem=8gb".
        **more: as for ScriptLauncher: walltime, cpus, memory_gb, gpus, directives, prologue, ...; and for Launcher.
    """

    prefix = "#PBS"
    submit_command = ("qsub",)
    clean_variables = ("PBS_JOB", "PBS_ARRAY", "PBS_O_", "PBS_NODEFILE", "PBS_ENVIRONMENT")
    jobs_per_submit = 1000
    variables = ("PBS_JOBID", "PBS_ARRAY_INDEX")

    def __init__(
        self, *, queue: str | None = None, project: str | None = None, select: str | None = None, **more: Any
    ) -> None:
        super().__init__(**more)
        self.queue = queue
        self.project = project
        self.select = select

    def directives(self, name: str, log: str, number: int) -> list[str]:
        """Return qsub's."""
        chunk = [f"1:ncpus={self.cpus_of_job}"]
        chunk += [] if self.memory_gb is None else [f"mem={math.ceil(1024 * self.memory_gb)}mb"]
        chunk += [] if self.gpus is None else [f"ngpus={self.gpus}"]
        lines = [f"-N {name[:230]}", f"-o {log}", "-j oe", "-r n", f"-l select={self.select or ':'.join(chunk)}"]
        lines += [f"-J 0-{number - 1}"] if number > 1 else []
        for option, value in (("-q", self.queue), ("-P", self.project), ("-A", self.account)):
            lines += [] if value is None else [f"{option} {value}"]
        if self.walltime is not None:
            minutes, seconds = divmod(math.ceil(self.walltime), 60)
            lines.append(f"-l walltime={minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}")
        return lines

    def log_pattern(self, name: str, number: int) -> str:
        """Return it with the job's id, which has the number in its array."""
        return f"{name}-^array_index^.log" if number > 1 else f"{name}.log"

    def read_id(self, answer: str) -> str | None:
        """Return the id that qsub prints: "123.server", or "123[].server" for an array."""
        found = re.match(r"(\d+(?:\[\])?(?:\.[\w.-]+)?)\s*$", answer.strip().splitlines()[-1] if answer.strip() else "")
        return None if found is None else found[1]

    def handles(self, job_id: str, number: int) -> list[Hashable]:
        """Return the job's id, with the number in its array."""
        return [job_id] if number == 1 else [job_id.replace("[]", f"[{index}]", 1) for index in range(number)]

    def handle_of(self, variables: Mapping[str, str], handles: Sequence[Hashable]) -> Hashable | None:
        """Return the job's id, which is the same there."""
        handle = variables.get("PBS_JOBID", "")
        return handle if handle in handles else None

    def find(self, job: Job) -> Sequence[Hashable]:
        """Return the jobs of this name."""
        name = self._name_of(job)
        return [handle for handle, facts in self._qstat([]).items() if facts.get("Job_Name") == name]

    def _qstat(self, handles: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what is known of jobs; raise LaunchError if qstat does not say. 153: some are unknown to it."""
        done = self.run(["qstat", "-x", "-t", "-f", "-F", "json", *handles])
        if done.returncode not in (0, 153, 35):
            raise LaunchError(f"qstat ended with exit code {done.returncode}: {done.stderr.strip()}")
        try:
            jobs: dict[str, dict[str, Any]] = json.loads(done.stdout or "{}").get("Jobs", {})
        except ValueError as error:
            raise LaunchError(f"qstat answered with what is no JSON: {error}") from None
        return jobs

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Ask qstat about all jobs at once; what it does not know any more has ended."""
        jobs = self._qstat(list(map(str, handles)))
        return {handle: _status(jobs.get(str(handle))) for handle in handles}

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Delete jobs."""
        if handles:
            self.run(["qdel", *map(str, handles)])

    def is_transient(self, words: str) -> bool:
        """Answer whether the server was busy, or a limit of the user's jobs is reached: those that run will end."""
        return bool(_TRANSIENT.search(words) or _LIMIT.search(words))


def _status(facts: dict[str, Any] | None) -> JobStatus:
    if facts is None:
        return JobStatus(JobState.ENDED, "qstat does not know it any more")
    state, comment = str(facts.get("job_state", "")), str(facts.get("comment", ""))
    words = f"{state}: {comment}" if comment else state
    if state in _PENDING:
        return JobStatus(JobState.PENDING, words)
    if state in _RUNNING:
        return JobStatus(JobState.RUNNING, words)
    code = facts.get("Exit_status")
    words = f"{words}, exit status {code}" if code is not None else words
    return JobStatus(
        JobState.ENDED, words, is_taken_away="walltime" in comment and bool(_KILLED_BY_LIMIT.search(comment))
    )
