"""Workers in jobs of LSF. Several jobs are one submission: an array.

By the book: written from the documentation, and tested against stand-ins for bsub, bjobs and bkill.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ..errors import LaunchError
from .base import JobState, JobStatus
from .script import ScriptLauncher, check_words

_PENDING = {"PEND", "PSUSP", "WAIT", "PROV"}
_RUNNING = {"RUN", "USUSP", "SSUSP"}
_TAKEN_AWAY = re.compile(
    r"TERM_(RUNLIMIT|PREEMPT|LOAD|WINDOW|DEADLINE|ZOMBIE|REMOVE_HUNG_JOB|RC_RECLAIM)", re.IGNORECASE
)
_OUT_OF_SIGHT = {"UNKWN", "ZOMBI"}
"""Nothing is heard of the job's host; it may run there."""
_ALIVE = _PENDING | _RUNNING | _OUT_OF_SIGHT
_NOT_FOUND = re.compile(r"is not found|no (matching |unfinished )?job found", re.IGNORECASE)
_NONE = ("", "-", "0")
_TRANSIENT = re.compile(r"LSF is down|batch daemon|mbatchd|timed out|try (it )?later|communication", re.IGNORECASE)
_UNCLEAR = re.compile(r"communication time ?out", re.IGNORECASE)
_LIMIT = re.compile(r"job limit|pending job threshold|MAX_PEND_JOBS|job slot limit", re.IGNORECASE)
_WAITING = "pending job threshold reached"
_ADVICE = {
    "no such queue": "`bqueues` lists the queues: give LSFLauncher(queue=...)",
    "cannot use the queue": "another queue may take you: `bqueues -u $USER`; give LSFLauncher(queue=...)",
    "cannot exceed queue's hard limit": "the queue allows less: `bqueues -l`; see walltime=, memory_gb=, cpus=",
    "too many processors requested": "the queue allows less: `bqueues -l`; see cpus=, workers_per_job=",
    "bad resource requirement syntax": "this site calls it otherwise: see directives=, skip_directives=",
    "illegal option": "this site refuses a directive: name it in skip_directives=",
}
_WARNING_SECONDS = 120
"""A job that runs longer gets a signal a minute before its end."""


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
    clean_variables = ("LSB_JOB", "LSB_BATCH", "LSB_HOSTS", "LSB_MCPU", "LSB_DJOB", "LSB_SUB", "LSB_BJOBS", "LS_JOB",
                       "LSFUSER")  # fmt: skip
    jobs_per_submit = 1000
    variables = ("LSB_JOBID", "LSB_JOBINDEX")

    def __init__(self, *, queue: str | None = None, memory_unit_mb: float = 1.0, **more: Any) -> None:
        super().__init__(**more)
        check_words(queue=queue)
        if not 0 < memory_unit_mb < math.inf:
            raise ValueError(f"memory_unit_mb must be a number above 0, not {memory_unit_mb!r}")
        if re.search(r"[\s\"'\\%]", self.log_folder):  # %J and %I are bsub's
            raise ValueError(f"LSF takes no path of this form for output: {self.log_folder!r}; give log_folder=")
        self.queue = queue
        self.memory_unit_mb = memory_unit_mb

    def directives(self, name: str, log: str, number: int) -> list[str]:
        """Return bsub's."""
        lines = [f'-J "{name}[1-{number}]"' if number > 1 else f"-J {name}", f"-o {log}", "-rn"]
        lines += [f"-n {self.cpus_of_job}", '-R "span[hosts=1]"']
        for option, value in (("-q", self.queue), ("-P", self.account)):
            lines += [] if value is None else [f"{option} {value}"]
        if self.memory_gb is not None:
            memory = math.ceil(1024 * self.memory_gb / self.memory_unit_mb)
            lines += [f"-M {memory}", f'-R "rusage[mem={memory}]"']
        if self.gpus is not None:
            lines.append(f'-gpu "num={self.gpus}"')
        if self.walltime is not None:
            hours, minutes = divmod(math.ceil(self.walltime / 60), 60)
            lines.append(f"-W {hours:02d}:{minutes:02d}")
            lines += ["-wa USR1", "-wt 1"] if self.walltime > _WARNING_SECONDS else []
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

    def jobs_named(self, name: str) -> Sequence[Hashable]:
        """Return the jobs of this name that have not ended."""
        return [handle for handle, (state, _code, _why) in self._bjobs("-J", name).items() if state in _ALIVE]

    def jobs_beginning(self, prefix: str) -> Mapping[Hashable, JobStatus]:
        """Return this user's jobs with such names that have not ended."""
        found = self._bjobs("-J", f"{prefix}*")
        return {handle: _status(*facts) for handle, facts in found.items() if facts[0] in _ALIVE}

    def _bjobs(self, *which: str) -> dict[Hashable, tuple[str, str, str]]:
        """Return state, exit code and reason of jobs; raise LaunchError if bjobs does not say."""
        fields = "jobid jobindex stat exit_code exit_reason delimiter='|'"
        done = self.run(["bjobs", "-a", "-noheader", "-o", fields, *which])
        if done.returncode and not _NOT_FOUND.search(done.stderr):
            raise LaunchError(f"bjobs ended with exit code {done.returncode}: {done.stderr.strip()}")
        found: dict[Hashable, tuple[str, str, str]] = {}
        for row in (line.split("|", 4) for line in done.stdout.splitlines()):
            if len(row) == 5:
                number, index, *facts = (part.strip() for part in row)
                state, code, reason = ("" if fact == "-" else fact for fact in facts)
                found[number if index in _NONE else f"{number}[{index}]"] = (state, code, reason)
        return found

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Ask bjobs about all jobs at once; what it does not know any more has ended."""
        known = self._bjobs(*sorted({str(handle).partition("[")[0] for handle in handles}))
        return {handle: _status(*known.get(handle, ("", "", ""))) for handle in handles}

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Kill jobs: TERM first, then KILL."""
        if handles:
            self.run(["bkill", *map(str, handles)])

    def log_path(self, handle: Hashable) -> str | None:
        """Return the path of a job's output, if it is there."""
        number, _, index = str(handle).rstrip("]").partition("[")
        name = f"{self._logs.get(handle)}-{number}.{index}.log" if index else f"{self._logs.get(handle)}-{number}.log"
        path = os.path.join(self.log_folder, name)
        return path if os.path.exists(path) else None

    def explain(self, handle: Hashable) -> str:
        """Return what bjobs says of the job, and the end of its output, in which LSF tells how it ended."""
        words = "bjobs does not answer"
        with contextlib.suppress(LaunchError, subprocess.TimeoutExpired):
            words = self.poll([handle])[handle].words
        return f"job {handle}: {words}\n{super().explain(handle)}"

    def is_transient(self, words: str) -> bool:
        """Answer whether the daemon was busy, or a limit of the user's jobs is reached: those that run will end."""
        return bool(_TRANSIENT.search(words) or _LIMIT.search(words))

    def is_unclear(self, words: str) -> bool:
        """Answer whether the daemon took the connection, and gave no answer."""
        return bool(_UNCLEAR.search(words))

    def is_full(self, words: str) -> bool:
        """Answer whether a limit of the user's jobs is reached: a smaller array may fit."""
        return bool(_LIMIT.search(words))

    def is_waiting(self, words: str) -> bool:
        """Answer whether bsub waits for room: it would try for ever."""
        return _WAITING in words.lower()

    def advice(self, words: str) -> str:
        """Return what to try."""
        return next((advice for key, advice in _ADVICE.items() if key in words.lower()), "")


def _status(state: str, code: str, reason: str) -> JobStatus:
    if not state:
        return JobStatus(JobState.ENDED, "bjobs does not know it any more")
    if state in _PENDING:
        return JobStatus(JobState.PENDING, state)
    if state in _RUNNING:
        return JobStatus(JobState.RUNNING, state)
    why = ", ".join(filter(None, (reason, "" if code in _NONE else f"exit code {code}")))
    words = f"{state} ({why})" if why else state
    if state in _OUT_OF_SIGHT:
        return JobStatus(JobState.ENDED, f"{words}: its host does not answer", is_taken_away=True, is_sure=False)
    return JobStatus(JobState.ENDED, words, is_taken_away=bool(_TAKEN_AWAY.search(words)))
