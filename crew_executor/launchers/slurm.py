"""Workers in Slurm jobs. Several jobs are one submission: an array.

squeue is asked by the jobs' names, which never fails for jobs that have ended, with a format of our own and without the
user's SQUEUE_ and SLURM_ variables, which would change what it says. A node that was lost must not start its job again
under the same number: --no-requeue.
"""

from __future__ import annotations

import getpass
import math
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ..errors import LaunchError
from .base import JobState, JobStatus
from .script import NEVER, ScriptLauncher, check_words

_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
_TAKEN_AWAY = {"TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "REVOKED"}
_TRANSIENT = re.compile(
    r"temporarily unable|temporarily unavailable|Unable to contact slurm controller|Socket timed out|"
    r"Connection refused|Zero Bytes were transmitted|rate limit|try again|slurm_receive_msg|Communication connection",
    re.IGNORECASE,
)
_UNCLEAR = re.compile(r"Socket timed out|Zero Bytes were transmitted|slurm_receive_msg", re.IGNORECASE)
"""The controller took the connection and did not answer: it may do later what it was asked, and does so when thawed."""
_WAITING = "temporarily unable to accept job, sleeping"
"""So sbatch says that the controller has MaxJobCount jobs; it would go on to try for minutes."""
_LIMIT = re.compile(
    rf"job submit limit|QOSMaxSubmit|AssocMaxSubmit|AssocMaxJobs|QOSMaxJobs|MaxSubmitJobs|{_WAITING}", re.IGNORECASE
)
_IMPOSSIBLE = {
    "PartitionTimeLimit", "BadConstraints", "InvalidAccount", "InvalidQOS", "DependencyNeverSatisfied",
    "AccountNotAllowed", "QOSNotAllowed",
}  # fmt: skip
"""Reasons of pending jobs that no waiting overcomes; other reasons may pass."""
_DOUBTFUL = {"PartitionConfig", "PartitionNodeLimit", "PartitionDown", "PartitionInactive", "JobHeldAdmin"}
"""Reasons that may last until somebody does something: they are told."""
_ADVICE = {
    "invalid partition": "`sinfo` lists the partitions: give SlurmLauncher(partition=...)",
    "invalid account": "`sacctmgr show associations user=$USER` lists your accounts: give SlurmLauncher(account=...)",
    "invalid qos": "`sacctmgr show qos` lists them: give SlurmLauncher(qos=...)",
    "memory specification": "no node has so much, or the site wants another option: see memory_gb=, skip_directives=",
    "node configuration is not available": "no node of the partition has all that: see cpus=, memory_gb=, gpus=",
    "time limit": "the partition allows less: `sinfo -o '%P %l'`; give walltime=",
    "unrecognized option": "this site refuses it: name it in skip_directives=",
}


class SlurmLauncher(ScriptLauncher):
    """Start workers in Slurm jobs.

    Args:
        partition, account, qos, constraint: as sbatch's options of these names.
        gres: as sbatch's, in place of gpus.
        **more: as for ScriptLauncher: walltime, cpus, memory_gb, gpus, directives, prologue, ...; and for Launcher:
            workers_per_job, host, port, python, lost_after, max_jobs, ...
    """

    prefix = "#SBATCH"
    submit_command = ("sbatch", "--parsable")
    clean_variables = ("SLURM_JOB", "SLURM_STEP", "SLURM_TASK", "SLURM_ARRAY", "SLURM_CPU", "SLURM_MEM", "SLURM_N",
                       "SLURM_PROCID", "SLURM_LOCALID", "SLURM_GTIDS", "SLURM_SUBMIT", "SBATCH_", "SQUEUE_", "SCANCEL_",
                       "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")  # fmt: skip
    jobs_per_submit = 1000
    variables = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")

    def __init__(
        self,
        *,
        partition: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        gres: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        check_words(partition=partition, qos=qos, constraint=constraint, gres=gres)
        self.partition = partition
        self.qos = qos
        self.constraint = constraint
        self.gres = gres

    def directives(self, name: str, log: str, number: int) -> list[str]:
        """Return sbatch's."""
        memory = None if self.memory_gb is None else f"{math.ceil(1024 * self.memory_gb)}M"
        minutes = None if self.walltime is None else max(1, math.ceil(self.walltime / 60))  # Slurm's limits are minutes
        own = os.environ.get  # sbatch itself would let them win over what is said here: see clean_variables
        options = {
            "--job-name": name, "--output": log, "--array": f"0-{number - 1}" if number > 1 else None,
            "--partition": self.partition or own("SBATCH_PARTITION"),
            "--account": self.account or own("SBATCH_ACCOUNT"), "--qos": self.qos or own("SBATCH_QOS"),
            "--constraint": self.constraint or own("SBATCH_CONSTRAINT"),
            "--time": minutes or own("SBATCH_TIMELIMIT"), "--reservation": own("SBATCH_RESERVATION"),
            "--nodes": 1, "--ntasks": 1,
            "--cpus-per-task": self.cpus_of_job, "--mem": memory, "--gpus": self.gpus, "--gres": self.gres,
            "--signal": "B:USR1@60" if self.walltime is not None and self.walltime > 120 else None,
        }  # fmt: skip
        return ["--no-requeue", *(f"{option}={value}" for option, value in options.items() if value)]

    def log_pattern(self, name: str, number: int) -> str:
        """Return it with the job's number, and that in its array."""
        return f"{name}-%A_%a.log" if number > 1 else f"{name}-%j.log"

    def read_id(self, answer: str) -> str | None:
        """Return the number of --parsable, which may have the cluster's name behind it."""
        found = re.match(r"(\d+)(?:;|\s|$)", answer.strip().splitlines()[-1] if answer.strip() else "")
        return None if found is None else found[1]

    def handle_of(self, variables: Mapping[str, str], handles: Sequence[Hashable]) -> Hashable | None:
        """Return the job's number, with that in its array."""
        array, index = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
        handle = f"{array}_{index}" if array else variables.get("SLURM_JOB_ID")
        return handle if handle in handles else None

    def jobs_named(self, name: str) -> Sequence[Hashable]:
        """Return the jobs of this name; not the ended: Slurm may keep a record of a submission that it has refused."""
        rows = self._squeue(f"--name={name}")
        return [handle for handle, state, _reason, _name in rows if state in _PENDING | _RUNNING]

    def jobs_beginning(self, prefix: str) -> Mapping[Hashable, JobStatus]:
        """Return this user's jobs with such names that have not ended."""
        rows = self._squeue(f"--user={getpass.getuser()}")
        found = {handle: _status(state, reason) for handle, state, reason, name in rows if name.startswith(prefix)}
        return {handle: status for handle, status in found.items() if status.words.split()[0] in _PENDING | _RUNNING}

    def _squeue(self, which: str) -> list[tuple[str, str, str, str]]:
        """Return number, state, reason and name of some jobs; raise LaunchError if squeue does not say."""
        done = self.run(["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%j", which])
        if done.returncode:
            raise LaunchError(f"squeue ended with exit code {done.returncode}: {done.stderr.strip()}")
        rows = [line.split("|", 3) for line in done.stdout.splitlines()]
        return [(row[0].strip(), row[1].strip(), row[2].strip(), row[3].strip()) for row in rows if len(row) == 4]

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Ask squeue about all jobs at once; what it does not know any more has ended."""
        names = list(dict.fromkeys(self._logs.get(handle, "") for handle in handles))
        rows = self._squeue(f"--name={','.join(names)}")
        for handle, state, reason, _name in rows:
            if state in _PENDING and reason in _DOUBTFUL:
                self.warn_once(reason, f"jobs pend, perhaps for ever ({reason}): see `scontrol show job {handle}`")
        known = {handle: _status(state, reason) for handle, state, reason, _name in rows}
        gone = JobStatus(JobState.ENDED, "squeue does not know it any more")
        return {handle: known.get(str(handle), gone) for handle in handles}

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Cancel jobs; the agent is told, and ends its workers."""
        if handles:
            self.run(["scancel", "--quiet", "--full", *map(str, handles)])

    def explain(self, handle: Hashable) -> str:
        """Return what scontrol says of the job, and the end of its output."""
        said = self.ask("scontrol", "--oneliner", "show", "job", str(handle))
        wanted = r"\b(JobState|Reason|ExitCode|NodeList|StdOut)=(\S+)"
        facts = " ".join("=".join(found) for found in re.findall(wanted, said.partition("\n")[0]))
        return "\n".join(filter(None, (f"job {handle}: {facts}" if facts else "", super().explain(handle))))

    def is_transient(self, words: str) -> bool:
        """Answer whether the controller was busy, or a limit of the user's jobs is reached: those that run will end."""
        return bool(_TRANSIENT.search(words) or _LIMIT.search(words))

    def is_unclear(self, words: str) -> bool:
        """Answer whether the controller took the connection, and gave no answer."""
        return bool(_UNCLEAR.search(words))

    def is_full(self, words: str) -> bool:
        """Answer whether a limit is reached: a smaller array may fit."""
        return bool(_LIMIT.search(words))

    def is_waiting(self, words: str) -> bool:
        """Answer whether sbatch waits for room."""
        return _WAITING in words

    def advice(self, words: str) -> str:
        """Return what to try."""
        return next((advice for key, advice in _ADVICE.items() if key in words.lower()), "")


def _status(state: str, reason: str) -> JobStatus:
    words = state if reason in ("", "None") else f"{state} ({reason})"
    if state in _PENDING and reason in _IMPOSSIBLE:
        return JobStatus(JobState.ENDED, f"{words}: {NEVER}")
    if state in _PENDING:
        return JobStatus(JobState.PENDING, words)
    if state in _RUNNING:
        return JobStatus(JobState.RUNNING, words)
    return JobStatus(JobState.ENDED, words, is_taken_away=state in _TAKEN_AWAY)
