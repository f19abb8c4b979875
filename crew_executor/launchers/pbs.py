"""Workers in jobs of PBS (OpenPBS, PBS Professional). Several jobs are one submission: an array.

By the book: written from the documentation, and tested against stand-ins for qsub, qstat and qdel.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import math
import os
import re
import subprocess
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ..errors import LaunchError
from .base import JobState, JobStatus
from .script import ScriptLauncher, check_words

_PENDING, _RUNNING = set("QHWTB"), set("RESU")
_TRANSIENT = re.compile(r"cannot connect to server|connection refused|timed out|server busy|try again", re.IGNORECASE)
_UNCLEAR = re.compile(r"end of file|premature end of message", re.IGNORECASE)
_LIMIT = re.compile(
    r"would exceed .*limit|maximum number of jobs already in|array job exceeds server or queue size limit",
    re.IGNORECASE,
)
_ADVICE = {
    "unknown queue": "`qstat -Q` lists the queues: give PBSLauncher(queue=...)",
    "unauthorized request": "you may not use this queue, project or account: see queue=, project=, account=",
    "access to queue is denied": "another queue may take you: `qstat -Q`; give PBSLauncher(queue=...)",
    "violates queue and/or server resource limits": "the queue allows less: `qstat -Qf`; see walltime=, cpus=",
    "unknown resource": "this site calls it otherwise: see select=, directives=, skip_directives=",
    "directive error": "this site refuses a directive: name it in skip_directives=",
    "illegal": "this site refuses a value: see select=, directives=, skip_directives=",
}
_NO_HISTORY = "not configured to maintain job history"
_NEVER = re.compile(r"can never run|too many failed attempts", re.IGNORECASE)
_TAKEN_AWAY = re.compile(r"exceeded resource walltime|walltime \S+ exceeded limit|preempt", re.IGNORECASE)
_TAKEN_AWAY_CODES = {
    -29: "its walltime is over",
    -4: "its host was restarted",
    -5: "its host was restarted",
    -6: "its host was restarted",
}
_KILLED = 256
"""An exit status above it: the job was ended by the signal of the number above."""


class PBSLauncher(ScriptLauncher):
    """Start workers in jobs of PBS.

    Args:
        queue, project, account: as qsub's options -q, -P and -A.
        select: what to ask for, in place of the chunk made of cpus, memory_gb and gpus: "1:ncpus=4:mem=8gb".
        **more: as for ScriptLauncher: walltime, cpus, memory_gb, gpus, directives, prologue, ...; and for Launcher.
    """

    prefix = "#PBS"
    submit_command = ("qsub",)
    clean_variables = ("PBS_DPREFIX", "PBS_JOB", "PBS_ARRAY", "PBS_O_", "PBS_NODEFILE", "PBS_ENVIRONMENT")
    jobs_per_submit = 1000
    variables = ("PBS_JOBID", "PBS_ARRAY_INDEX")

    def __init__(
        self, *, queue: str | None = None, project: str | None = None, select: str | None = None, **more: Any
    ) -> None:
        super().__init__(**more)
        check_words(queue=queue, project=project, select=select)
        if re.search(r"[\s\"'\\:,^]", self.log_folder):  # host:path, path,path and ^array_index^ are qsub's
            raise ValueError(f"PBS takes no path of this form for output: {self.log_folder!r}; give log_folder=")
        self.queue = queue
        self.project = project
        self.select = select
        self._has_history = True

    def directives(self, name: str, log: str, number: int) -> list[str]:
        """Return qsub's."""
        chunk = [f"1:ncpus={self.cpus_of_job}"]
        chunk += [] if self.memory_gb is None else [f"mem={math.ceil(1024 * self.memory_gb)}mb"]
        chunk += [] if self.gpus is None else [f"ngpus={self.gpus}"]
        lines = [f"-N {name}", f"-o {log}", "-j oe", "-S /bin/sh", f"-l select={self.select or ':'.join(chunk)}"]
        lines.append(f"-J 0-{number - 1}" if number > 1 else "-r n")  # PBS refuses arrays that may not be run again
        for option, value in (("-q", self.queue), ("-P", self.project), ("-A", self.account)):
            lines += [] if value is None else [f"{option} {value}"]
        if self.walltime is not None:
            minutes, seconds = divmod(math.ceil(self.walltime), 60)
            lines.append(f"-l walltime={minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}")
        return lines

    def log_pattern(self, name: str, number: int) -> str:
        """Return it with the number in its array; PBS has no placeholder for the job's id."""
        return f"{name}-^array_index^.log" if number > 1 else f"{name}.log"

    def read_id(self, answer: str) -> str | None:
        """Return the id that qsub prints: "123.server", or "123[].server" for an array."""
        found = re.match(r"(\d+(?:\[\])?(?:\.[\w.-]+)?)\s*$", answer.strip().splitlines()[-1] if answer.strip() else "")
        return None if found is None else found[1]

    def handles(self, job_id: str, number: int) -> list[Hashable]:
        """Return the job's id, with the number in its array; one, if -J was left out (skip_directives)."""
        if number == 1 or "[]" not in job_id:
            return [job_id]
        return [job_id.replace("[]", f"[{index}]", 1) for index in range(number)]

    def handle_of(self, variables: Mapping[str, str], handles: Sequence[Hashable]) -> Hashable | None:
        """Return the job's id, which is the same there, except that the server's name may be longer or shorter."""
        wanted = _number(variables.get("PBS_JOBID", ""))
        return next((handle for handle in handles if _number(handle) == wanted), None)

    def jobs_named(self, name: str) -> Sequence[Hashable]:
        """Return the jobs of this name that have not ended; of an array its jobs, without itself."""
        return [
            handle
            for handle, facts in self._qstat([]).items()
            if facts.get("Job_Name") == name and "[]" not in handle and facts.get("job_state") in _PENDING | _RUNNING
        ]

    def jobs_beginning(self, prefix: str) -> Mapping[Hashable, JobStatus]:
        """Return this user's jobs with such names that have not ended."""
        mine = f"{getpass.getuser()}@"
        return {
            handle: _status(facts)
            for handle, facts in self._qstat([]).items()
            if str(facts.get("Job_Name")).startswith(prefix)
            and str(facts.get("Job_Owner", mine)).startswith(mine)
            and "[]" not in handle
            and facts.get("job_state") in _PENDING | _RUNNING
        }

    def _qstat(self, handles: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what is known of jobs; raise LaunchError if qstat does not say. 153: some are unknown to it."""
        done = self.run(["qstat", *(["-x"] if self._has_history else []), "-t", "-f", "-F", "json", *handles])
        if self._has_history and done.returncode and _NO_HISTORY in done.stderr:
            self._has_history = False  # -x, which asks for ended jobs, is refused then; those are unknown soon
            return self._qstat(handles)
        if done.returncode not in (0, 153, 35):
            raise LaunchError(f"qstat ended with exit code {done.returncode}: {done.stderr.strip()}")
        try:
            answer = json.loads(done.stdout or "{}")
        except ValueError as error:
            raise LaunchError(f"qstat answered with what is no JSON: {error}") from None
        jobs = answer.get("Jobs", {}) if isinstance(answer, dict) else None
        if not isinstance(jobs, dict):
            raise LaunchError(f"qstat answered with JSON that has no jobs: {done.stdout[:200]!r}")
        return jobs

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Ask qstat about all jobs at once; what it does not know any more has ended."""
        arrays = dict.fromkeys(re.sub(r"\[\d+\]", "[]", str(handle)) for handle in handles)  # their ids are shorter
        jobs = {_number(handle): facts for handle, facts in self._qstat(list(arrays)).items()}
        return {handle: _status(jobs.get(_number(handle))) for handle in handles}

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Delete jobs."""
        if handles:
            self.run(["qdel", *map(str, handles)])

    def log_path(self, handle: Hashable) -> str | None:
        """Return the path of a job's output, which PBS puts there when it has ended."""
        name, index = self._logs.get(handle), re.search(r"\[(\d+)\]", str(handle))
        path = os.path.join(self.log_folder, f"{name}-{index[1]}.log" if index else f"{name}.log")
        return path if os.path.exists(path) else None

    def explain(self, handle: Hashable) -> str:
        """Return what qstat says of the job, and the end of its output."""
        words = "qstat does not answer"
        with contextlib.suppress(LaunchError, subprocess.TimeoutExpired):
            words = self.poll([handle])[handle].words
        hint = "" if self.log_path(handle) else " (PBS puts it there when a job has ended)"
        return f"job {handle}: {words}\n{super().explain(handle)}{hint}"

    def is_transient(self, words: str) -> bool:
        """Answer whether the server was busy, or a limit of the user's jobs is reached: those that run will end."""
        return bool(_TRANSIENT.search(words) or _LIMIT.search(words))

    def is_unclear(self, words: str) -> bool:
        """Answer whether the server took the connection, and gave no answer."""
        return bool(_UNCLEAR.search(words))

    def is_full(self, words: str) -> bool:
        """Answer whether a limit of the user's jobs, or that of an array's size, is reached: a smaller one may fit."""
        return bool(_LIMIT.search(words))

    def advice(self, words: str) -> str:
        """Return what to try."""
        return next((advice for key, advice in _ADVICE.items() if key in words.lower()), "")


def _number(handle: Hashable) -> str:
    """Return a job's id without the server's name."""
    return str(handle).partition(".")[0]


def _status(facts: dict[str, Any] | None) -> JobStatus:
    if facts is None:
        return JobStatus(JobState.ENDED, "qstat does not know it any more")
    state, comment = str(facts.get("job_state", "")), str(facts.get("comment", ""))
    words = f"{state}: {comment}" if comment else state
    if state in _PENDING and _NEVER.search(comment):
        return JobStatus(JobState.ENDED, words)
    if state in _PENDING:
        return JobStatus(JobState.PENDING, words)
    if state in _RUNNING:
        return JobStatus(JobState.RUNNING, words)
    code = facts.get("Exit_status")
    if code is not None:
        signal = f", killed by signal {code - _KILLED}" if isinstance(code, int) and code > _KILLED else ""
        words = f"{words}, exit status {code}{signal}"
    why = _TAKEN_AWAY_CODES.get(code) if isinstance(code, int) else None
    words = f"{words}: {why}" if why else words
    # M: it was moved to another server, where we cannot see it.
    is_taken_away = why is not None or bool(_TAKEN_AWAY.search(comment))
    return JobStatus(JobState.ENDED, words, is_taken_away=is_taken_away, is_sure=state != "M")
