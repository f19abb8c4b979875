"""Workers in jobs of Grid Engine (SGE, UGE, OGS). Several jobs are one submission: an array.

Grid Engine keeps a job whose log cannot be opened, or that asks for what no host has, for ever, and lists what ran on a
dead host as running: so an error state ends a job here, and who is alive is told by links alone.
"""

from __future__ import annotations

import getpass
import math
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from ..errors import LaunchError
from .base import JobState, JobStatus
from .script import ScriptLauncher, check_words

_TRANSIENT = re.compile(
    r"unable to (contact|send message to) qmaster|commlib error|got timeout|temporarily|max_unheard|not responding|"
    r"error: (cannot|can't) connect",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"jobs are allowed per|max_u_jobs|max_jobs|exceed(s|ed)? (limit|configured)|job-limit", re.IGNORECASE
)
_ADVICE = {
    "unknown queue": "`qconf -sql` lists the queues: give SGELauncher(queue=...)",
    "unknown resource": "`qconf -sc` lists the resources: see memory_resource=, directives=, skip_directives=",
    "parallel environment": "`qconf -spl` lists them: give SGELauncher(parallel_environment=...)",
    "no suitable queues": "no queue offers all that is asked for: see queue=, cpus=, memory_gb=, walltime=; "
    "if one does after all, skip_directives=['-w']: qsub does not know what hosts measure, such as mem_free",
}


class SGELauncher(ScriptLauncher):
    """Start workers in jobs of Grid Engine.

    Args:
        queue, project: as qsub's options -q and -P.
        parallel_environment: asked for when a job wants more than one CPU (-pe NAME CPUS).
        memory_resource: what this site calls memory; it is counted for each CPU.
        account: as qsub's -A.
        **more: as for ScriptLauncher: walltime, cpus, memory_gb, directives, prologue, ...; and for Launcher.
    """

    prefix = "#$"
    submit_command = ("qsub", "-terse")
    clean_variables = ("SGE_TASK", "JOB_", "PE_", "NSLOTS", "NHOSTS", "NQUEUES")
    jobs_per_submit = 1000
    variables = ("JOB_ID", "SGE_TASK_ID")

    def __init__(
        self,
        *,
        queue: str | None = None,
        project: str | None = None,
        parallel_environment: str = "smp",
        memory_resource: str = "h_vmem",
        **more: Any,
    ) -> None:
        super().__init__(**more)
        check_words(queue=queue, project=project)
        check_words(parallel_environment=parallel_environment, memory_resource=memory_resource)
        self.queue = queue
        self.project = project
        self.parallel_environment = parallel_environment
        self.memory_resource = memory_resource

    def directives(self, name: str, log: str, number: int) -> list[str]:
        """Return qsub's."""
        lines = [f"-N {name}", f"-o {log}", "-j y", "-r n", "-S /bin/sh", "-notify"]
        if self.memory_gb is None or self.memory_resource.startswith(("h_", "s_")):
            lines.append("-w e")  # refuse what no host can ever run; it knows nothing of what hosts measure: mem_free
        lines += [f"-t 1-{number}"] if number > 1 else []
        for option, value in (("-q", self.queue), ("-P", self.project), ("-A", self.account)):
            lines += [] if value is None else [f"{option} {value}"]
        if self.cpus_of_job > 1:
            lines.append(f"-pe {self.parallel_environment} {self.cpus_of_job}")
        if self.memory_gb is not None:
            lines.append(f"-l {self.memory_resource}={math.ceil(1024 * self.memory_gb / self.cpus_of_job)}M")
        if self.gpus is not None:
            lines.append(f"-l gpu={self.gpus}")
        if self.walltime is not None:
            lines.append(f"-l h_rt={math.ceil(self.walltime)}")
        return lines

    def log_pattern(self, name: str, number: int) -> str:
        """Return it with the job's number, and that in its array."""
        return f"{name}-$JOB_ID.$TASK_ID.log" if number > 1 else f"{name}-$JOB_ID.log"

    def read_id(self, answer: str) -> str | None:
        """Return the number of -terse: "123", or "123.1-8:1" for an array."""
        found = re.match(r"(\d+)(?:\.|\s|$)", answer.strip().splitlines()[-1] if answer.strip() else "")
        return None if found is None else found[1]

    def handles(self, job_id: str, number: int) -> list[Hashable]:
        """Return the job's number, with those in its array, which begin at 1."""
        return [job_id] if number == 1 else [f"{job_id}.{index}" for index in range(1, number + 1)]

    def handle_of(self, variables: Mapping[str, str], handles: Sequence[Hashable]) -> Hashable | None:
        """Return the job's number, with that in its array."""
        index = variables.get("SGE_TASK_ID", "undefined")
        handle = variables.get("JOB_ID", "") + ("" if index == "undefined" else f".{index}")
        return handle if handle in handles else None

    def jobs_named(self, name: str) -> Sequence[Hashable]:
        """Return the jobs of this name."""
        return [handle for handle, its_name, _state in self._qstat() if its_name == name]

    def jobs_beginning(self, prefix: str) -> Mapping[Hashable, JobStatus]:
        """Return this user's jobs with such names; those in an error state, too: they stay until they are deleted."""
        return {handle: _status(state) for handle, name, state in self._qstat() if name.startswith(prefix)}

    def _qstat(self) -> Iterator[tuple[str, str, str]]:
        """Yield handle, name and state of this user's jobs; raise LaunchError if qstat does not say."""
        done = self.run(["qstat", "-xml", "-u", getpass.getuser()])
        if done.returncode:
            raise LaunchError(f"qstat ended with exit code {done.returncode}: {done.stderr.strip()}")
        try:
            root = ET.fromstring(done.stdout)  # noqa: S314  the scheduler is trusted
        except ET.ParseError as error:
            raise LaunchError(f"qstat answered with what is no XML: {error}") from None
        for job in root.iter("job_list"):
            number = job.findtext("JB_job_number", "").strip()
            name, state = job.findtext("JB_name", "").strip(), job.findtext("state", "").strip()
            tasks = job.findtext("tasks", "").strip()
            for index in _indices(tasks):
                yield f"{number}.{index}" if index else number, name, state

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Ask qstat about all jobs at once; what it does not know any more has ended."""
        states = {handle: state for handle, _name, state in self._qstat()}
        return {handle: _status(states.get(str(handle))) for handle in handles}

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Delete jobs; those of a host that is lost stay listed as running, or as being deleted, until it is back."""
        if handles:
            self.run(["qdel", *map(str, handles)])

    def explain(self, handle: Hashable) -> str:
        """Return what qstat says of the job's troubles, or qacct of its end, and the end of its output."""
        number, _, index = str(handle).partition(".")
        words = [line.strip() for line in self.ask("qstat", "-j", number).splitlines() if _is_telling(line)]
        if not words:
            said = self.ask("qacct", "-j", number, *(("-t", index) if index else ()))
            words = re.findall(r"^((?:failed|exit_status|hostname)\s+.*?)\s*$", said, re.MULTILINE)
        return "\n".join([*(f"job {handle}: {line}" for line in words), super().explain(handle)])

    def is_transient(self, words: str) -> bool:
        """Answer whether the qmaster was busy, or a limit of the user's jobs is reached: those that run will end."""
        return bool(_TRANSIENT.search(words) or _LIMIT.search(words))

    def is_full(self, words: str) -> bool:
        """Answer whether a limit is reached: fewer jobs may fit."""
        return bool(_LIMIT.search(words))

    def advice(self, words: str) -> str:
        """Return what to try."""
        return next((advice for key, advice in _ADVICE.items() if key in words.lower()), "")


def _indices(tasks: str) -> list[int]:
    """Return the numbers in an array that qstat gives as "3", "1-8:1" or "1,4-6:1"; [0]: it is none."""
    found: list[int] = []
    for part in filter(None, tasks.split(",")):
        ends = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part.strip())
        if ends is not None:
            first, last, step = int(ends[1]), int(ends[2] or ends[1]), int(ends[3] or 1)
            found += range(first, last + 1, step)
    return found or [0]


def _status(state: str | None) -> JobStatus:
    if state is None:
        return JobStatus(JobState.ENDED, "qstat does not know it any more")
    if "E" in state:
        return JobStatus(JobState.ENDED, f"{state}: an error keeps it from starting")
    if "d" in state:
        return JobStatus(JobState.ENDED, f"{state}: it is being deleted")
    if "q" in state:
        return JobStatus(JobState.PENDING, state)
    return JobStatus(JobState.RUNNING, state)


def _is_telling(line: str) -> bool:
    return bool(re.match(r"\s*(error reason|cannot run|.*because it offers|.*dropped because|queue instance)", line))
