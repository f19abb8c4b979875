"""Launchers for schedulers that take job scripts: what Slurm, Grid Engine, PBS and LSF have in common.

A subclass says how directives look, which commands submit, ask and cancel, and how to read their answers. Here the
script is put together, commands are run with a time limit and a clean environment, and files are kept in folders that
the hosts share. Knows nothing of links or tasks.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import IO, Any

from ..errors import LaunchError
from ..log import logger
from . import ledger
from .base import Job, JobStatus, Launcher, LaunchRetry, SubmitTimeout

COMMAND_SECONDS = 30.0
"""How long a scheduler's command may take. A submission that takes longer may have worked all the same."""
LOOK_SECONDS = 0.5
"""So often it is looked what a command that takes its time has said: see is_waiting()."""
ANSWERS_NEEDED = 2
"""So often a scheduler must say that it has no such job before an unclear submission is repeated: one that was frozen
may answer the question before it takes the job, both of which have waited."""
NEVER = "it would pend for ever"
"""Said of a pending job whose reason no waiting overcomes."""
LOG_BYTES = 4000
STALE_SECONDS = 30 * 24 * 3600.0
"""Invitations of clients that were killed are removed by later ones after so long: hardly a job waits longer."""
DEFAULT_FOLDER = "~/.crew_executor/jobs"
JOB_NAME_MAX = 100
"""Less than any scheduler allows: the run's number and the job's come behind it."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds_of(duration: float | str | None) -> float | None:
    """Return a duration in seconds: a number of them, "90m", "2h", "1h30m", "1d", "2:00:00", "1-12:00:00", or None."""
    if duration is None:
        return None
    if isinstance(duration, (int, float)):
        if not math.isfinite(duration):
            raise ValueError(f"{duration!r} is no duration: give seconds, or None for the queue's own")
        return duration
    text = duration.strip().lower()
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text)
    if clock is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", text)
    if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*([smhd])\s*", "", text):
        raise ValueError(f"{duration!r} is no duration: give seconds, or '90m', '2h', '1h30m', '1d', '1-12:00:00'")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class ScriptLauncher(Launcher):
    """Start jobs by job scripts.

    Args:
        walltime: of a job: seconds, "2h", "90m", "1-12:00:00"; None: the queue's own.
        cpus: for each job; None: as many as it has workers.
        memory_gb: for each job; None: the queue's own.
        gpus: for each job.
        account: to be charged.
        directives: further lines for the head of the script, as the scheduler takes them, without its prefix.
        skip_directives: options of ours that this site refuses: their lines are left out ("--mem").
        prologue: lines of shell to run before the worker: modules, conda.
        working_directory: of the job; None: that of this process, now.
        folder: for scripts and invitations, which this machine and the hosts share; mode 0700.
        log_folder: for the jobs' output; None: "logs" in `folder`. Made if it is not there.
        job_name: the beginning of the jobs' names.
        template: a script in place of ours; {directives}, {prologue}, {command}, {name} and {log} are replaced.
        **more: as for Launcher: workers_per_job, host, port, python, environment, lost_after, max_jobs, ...
    """

    prefix: str = ""
    """What begins a directive's line: "#SBATCH"."""
    submit_command: tuple[str, ...] = ()
    is_script_on_stdin: bool = False
    """Whether the submit command reads the script from its stdin, not from the path behind it."""
    clean_variables: tuple[str, ...] = ()
    """Beginnings of environment variables that would change what the scheduler's commands do."""

    def __init__(
        self,
        *,
        walltime: float | str | None = None,
        cpus: int | None = None,
        memory_gb: float | None = None,
        gpus: int | None = None,
        account: str | None = None,
        directives: Sequence[str] = (),
        skip_directives: Sequence[str] = (),
        prologue: Sequence[str] = (),
        working_directory: str | os.PathLike[str] | None = None,
        folder: str | os.PathLike[str] = DEFAULT_FOLDER,
        log_folder: str | os.PathLike[str] | None = None,
        job_name: str = "crew",
        template: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(walltime=seconds_of(walltime), **more)
        for name, number in (("cpus", cpus), ("memory_gb", memory_gb), ("gpus", gpus)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float))):
                raise TypeError(f"{name} must be a number, not {number!r}")
            if number is not None and not 0 < number < math.inf:
                raise ValueError(f"{name} must be None or above 0, not {number!r}")
            if number is not None and name != "memory_gb" and number != int(number):
                raise ValueError(f"{name} must be a whole number, not {number!r}")
        if not re.fullmatch(r"[A-Za-z][\w.-]*", job_name, re.ASCII) or len(job_name) > JOB_NAME_MAX:
            raise ValueError(
                f"job_name must begin with a letter, have no spaces or signs, and be no longer than {JOB_NAME_MAX}, "
                f"not {job_name!r}"
            )
        check_words(account=account)
        for name, lines in (("directives", directives), ("skip_directives", skip_directives), ("prologue", prologue)):
            if isinstance(lines, str):
                raise TypeError(f"{name} must be a sequence of lines, not one text: give [{lines!r}]")
        for line in directives:
            if self.prefix and line.strip().startswith(self.prefix):
                raise ValueError(f"directives are given without {self.prefix}, which is put before each: not {line!r}")
        self.cpus = cpus
        self.memory_gb = memory_gb
        self.gpus = gpus
        self.account = account
        self.extra_directives = [_one_line(line) for line in directives]
        self.skip_directives = tuple(skip_directives)
        self.prologue = list(prologue)
        self.working_directory = _absolute("." if working_directory is None else working_directory)
        self.folder = _absolute(folder)
        self.log_folder = os.path.join(self.folder, "logs") if log_folder is None else _absolute(log_folder)
        self.job_name = job_name
        self.template = template
        for name in ("python", "working_directory", "folder", "log_folder"):
            # Quoted it would be harmless to a shell, but schedulers look for directives at the beginning of any line.
            if re.search(r"[\0\r\n]", getattr(self, name)):
                raise ValueError(f"{name} must be one line, not {getattr(self, name)!r}")
        self._written: list[str] = []
        self._logs: dict[Hashable, str] = {}  # names by handle, of all that are known
        self._unclear: dict[str, int] = {}  # by name: submissions that may have worked, and answers needed
        self._noted_run = ""

    # ------------------------------------------------------------------ what a scheduler's own launcher says

    @abstractmethod
    def directives(self, name: str, log: str, number: int) -> list[str]:
        """Return the directives of the script without their prefix, for so many jobs.

        Args:
            name: of the jobs.
            log: the path of their output, with the scheduler's own placeholders.
            number: how many jobs; above 1: an array.
        """

    @abstractmethod
    def log_pattern(self, name: str, number: int) -> str:
        """Return the file name of the jobs' output, with the scheduler's own placeholders."""

    @abstractmethod
    def read_id(self, answer: str) -> str | None:
        """Return the job's id from what the submit command has printed, or None."""

    def handles(self, job_id: str, number: int) -> list[Hashable]:
        """Return the handles of a submission's jobs."""
        return [job_id] if number == 1 else [f"{job_id}_{index}" for index in range(number)]

    def is_transient(self, words: str) -> bool:  # noqa: ARG002
        """Answer whether a submission that was refused with these words may succeed later."""
        return False

    def is_unclear(self, words: str) -> bool:  # noqa: ARG002
        """Answer whether a submission that failed with these words may have worked all the same."""
        return False

    def is_full(self, words: str) -> bool:  # noqa: ARG002
        """Answer whether so many jobs were too many at the moment: fewer may be taken."""
        return False

    def is_waiting(self, words: str) -> bool:  # noqa: ARG002
        """Answer whether a command that has said these words would wait for long: it is ended."""
        return False

    def jobs_named(self, name: str) -> Sequence[Hashable]:  # noqa: ARG002
        """Return the handles of jobs with this name that have not ended.

        Raises:
            LaunchError, TimeoutExpired: the scheduler does not say.
        """
        return ()

    def jobs_beginning(self, prefix: str) -> Mapping[Hashable, JobStatus]:  # noqa: ARG002
        """Return this user's jobs with such names that have not ended, for `ps`, `kill` and `doctor`.

        Raises:
            LaunchError, TimeoutExpired: the scheduler does not say.
        """
        return {}

    def advice(self, words: str) -> str:  # noqa: ARG002
        """Return what to try after these words of the scheduler, or ""."""
        return ""

    # ------------------------------------------------------------------ the script

    def job_script(self, number: int = 1) -> str:
        """Return the script that would be submitted for so many jobs, to look at; without a real invitation."""
        job = Job("crew-RUN-1", 1, self.workers_per_job, b"", self.environment, self.walltime, self.python, 0)
        return self._script(job, number, os.path.join(self.folder, f"{job.name}.invitation"))

    def _script(self, job: Job, number: int, invitation_path: str) -> str:
        name = self._name_of(job)
        log = os.path.join(self.log_folder, self.log_pattern(name, number))
        own = [line for line in self.directives(name, log, number) if not self._is_skipped(line)]
        head = "\n".join(f"{self.prefix} {_one_line(line)}" for line in [*own, *self.extra_directives])
        # exec: the agent is the job then, and the scheduler's signals reach it, not a shell that swallows them.
        command = f"cd {shlex.quote(self.working_directory)} || exit\nexec {shlex.join(job.command(invitation_path))}"
        prologue = "\n".join(self.prologue)
        if self.template is not None:
            fields = {"directives": head, "prologue": prologue, "command": command, "name": name, "log": log}
            return re.sub(r"(?<!\$)\{(\w+)\}", lambda found: fields.get(found[1], found[0]), self.template)
        return "\n".join(filter(None, ("#!/bin/sh", head, prologue, command))) + "\n"

    def _name_of(self, job: Job) -> str:
        return f"{self.job_name}{job.name.removeprefix('crew')}" if job.name.startswith("crew-") else job.name

    def _is_skipped(self, line: str) -> bool:
        return any(re.match(rf"{re.escape(option)}(?:[\s=]|$)", line) for option in self.skip_directives)

    @property
    def cpus_of_job(self) -> int:
        """How many CPUs a job asks for."""
        return self.workers_per_job if self.cpus is None else self.cpus

    # ------------------------------------------------------------------ the contract

    def check(self) -> None:
        """Make the folders, and look whether the scheduler's submit command is there."""
        if shutil.which(self.submit_command[0]) is None:
            raise LaunchError(
                f"there is no {self.submit_command[0]} here: run this on a login node of the cluster, or load a module"
            )
        for folder, mode in ((self.folder, 0o700), (self.log_folder, 0o755)):
            try:
                os.makedirs(folder, mode=mode, exist_ok=True)
            except OSError as error:
                raise LaunchError(f"the folder {folder} cannot be made: {error}; give folder= or log_folder=") from None
            if not os.access(folder, os.W_OK | os.X_OK):
                raise LaunchError(f"the folder {folder} cannot be written to; give folder= or log_folder=")
        remove_stale(self.folder, r".*\.(invitation|sh)", STALE_SECONDS)

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Write the script and the invitation, and submit; fewer jobs if there is no room for all."""
        name = self._name_of(job)
        if name in self._unclear and (found := self._unknown_of(name)):
            return found[:number]
        if not self._noted_run:
            self._noted_run = job.name.removeprefix("crew-").rpartition("-")[0]
            ledger.write(
                self._noted_run, self.used_by or self.job_name, type(self), name.rpartition("-")[0] + "-", self.folder
            )
        invitation_path = os.path.join(self.folder, f"{job.name}.invitation")
        if invitation_path not in self._written:
            self._written.append(job.write_invitation(self.folder))
        script_path = os.path.join(self.folder, f"{job.name}.sh")
        if script_path not in self._written:
            self._written.append(script_path)
        command = list(self.submit_command) if self.is_script_on_stdin else [*self.submit_command, script_path]
        while True:
            with open(script_path, "w", encoding="utf-8") as file:
                file.write(self._script(job, number, invitation_path))
            done = self._run_submission(name, command, script_path)
            words = f"{done.stdout}\n{done.stderr}".strip()
            job_id = self.read_id(done.stdout) if done.returncode == 0 else None
            if job_id is not None:
                handles = self.handles(job_id, number)
                self._logs.update(dict.fromkeys(handles, name))
                return handles
            if number == 1 or not self.is_full(words):
                self._refuse(name, command, done.returncode, words)
            number //= 2

    def _run_submission(self, name: str, command: list[str], script_path: str) -> subprocess.CompletedProcess[str]:
        try:
            with open(script_path if self.is_script_on_stdin else os.devnull, "rb") as stdin:
                return self.run(command, stdin=stdin)
        except subprocess.TimeoutExpired:
            self._unclear[name] = ANSWERS_NEEDED
            text = f"{shlex.join(command)} did not answer within {COMMAND_SECONDS:g} s"
            self.warn_once("submit", f"the scheduler does not answer now; it is tried again: {text}")
            raise SubmitTimeout(text) from None

    def _refuse(self, name: str, command: list[str], code: int, words: str) -> None:
        text = f"{shlex.join(command)}\nended with exit code {code}: {words}"
        if self.is_unclear(words):
            self._unclear[name] = ANSWERS_NEEDED
            self.warn_once("submit", f"the scheduler does not answer now; it is tried again: {text}")
            raise SubmitTimeout(text)
        if self.is_full(words):
            self.warn_once(
                "full", f"the scheduler takes no more jobs now; it is tried again from time to time: {words}"
            )
        if self.is_transient(words):
            self.warn_once("submit", f"the scheduler takes no job now; it is tried again: {text}")
            raise LaunchRetry(text)
        advice = self.advice(words)
        raise LaunchError(f"{text}\n{advice}" if advice else text)

    def _unknown_of(self, name: str) -> Sequence[Hashable]:
        """Return what an unclear submission has started; raise SubmitTimeout as long as that is not known."""
        try:
            found = self._found(name)
        except (LaunchError, subprocess.TimeoutExpired) as error:
            raise SubmitTimeout(f"whether {name} was submitted is not known: {error}") from None
        if not found:
            self._unclear[name] -= 1
            if self._unclear[name]:
                raise SubmitTimeout(f"{name} seems not to have been submitted; it is asked once more")
            del self._unclear[name]
        return found

    def _found(self, name: str) -> Sequence[Hashable]:
        """Return the jobs of this name that were not known; from now on they are."""
        found = [handle for handle in self.jobs_named(name) if handle not in self._logs]
        if found:
            self._logs.update(dict.fromkeys(found, name))
            self._unclear.pop(name, None)
        return found

    def find(self, job: Job) -> Sequence[Hashable]:
        """Return the jobs of this name that are not known; if the scheduler does not say, submit() asks again."""
        try:
            return self._found(self._name_of(job))
        except (LaunchError, subprocess.TimeoutExpired) as error:
            logger.info("whether %s was submitted is not known yet: %s", self._name_of(job), error)
            return ()

    def run(
        self, command: Sequence[str], stdin: IO[bytes] | int = subprocess.DEVNULL
    ) -> subprocess.CompletedProcess[str]:
        """Run a scheduler's command; raise LaunchError if it is not there, TimeoutExpired if it takes too long.

        One that says that it waits (is_waiting) is ended, and counts as ended by SIGKILL.
        """
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(self.clean_variables or ("\0",))
        }
        try:
            process = subprocess.Popen(
                list(command), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                errors="replace", env={**environment, "LC_ALL": "C"}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise LaunchError(f"{command[0]} cannot be run: {error}") from None
        with process:
            try:
                output, errors = self._hear(process)
            finally:
                # With its children: it may be a shell's script, and what that runs would keep the pipes open.
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(list(command), process.returncode, output, errors)

    def _hear(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Return what a command says until it ends, or until it says that it waits."""
        until = time.monotonic() + COMMAND_SECONDS
        while True:
            try:
                return process.communicate(timeout=max(0.0, min(LOOK_SECONDS, until - time.monotonic())))
            except subprocess.TimeoutExpired as expired:
                words = bytes(expired.stderr or b"").decode(errors="replace")
                if self.is_waiting(words):
                    return "", words
                if time.monotonic() >= until:
                    raise subprocess.TimeoutExpired(process.args, COMMAND_SECONDS, stderr=words) from None

    def ask(self, *command: str) -> str:
        """Return what a command says, for explanations: "" if it fails."""
        try:
            return self.run(command).stdout
        except (LaunchError, subprocess.TimeoutExpired):
            return ""

    def explain(self, handle: Hashable) -> str:
        """Return where the job's output is, and its end."""
        path = self.log_path(handle)
        if path is None:
            return f"it has left no output in {self.log_folder}: did it start at all?"
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_BYTES))
            tail = file.read().decode(errors="replace").strip()
        return f"the end of its output, {path}:\n{tail}" if tail else f"its output, {path}, is empty"

    def log_path(self, handle: Hashable) -> str | None:
        """Return the path of a job's output, if it is there."""
        name = self._logs.get(handle, self.job_name)
        wanted = re.compile(rf"{re.escape(name)}\b.*(?<!\d){re.escape(str(handle))}(?!\d)")
        with contextlib.suppress(OSError), os.scandir(self.log_folder) as entries:
            for entry in entries:
                if wanted.match(entry.name):
                    return entry.path
        return None

    def describe(self) -> str:
        """Return the submit command."""
        return f"submitted by {self.submit_command[0]}"

    def close(self) -> None:
        """Remove scripts and invitations; the jobs' output stays. Cancel what was started by unclear submissions."""
        for name in list(self._unclear):
            try:
                self.cancel(self._found(name))
            except (LaunchError, subprocess.TimeoutExpired) as error:
                logger.warning(
                    "jobs named %s may be in the queue, where they end soon after their start: %s", name, error
                )
        self._unclear.clear()
        for path in self._written:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._written.clear()
        if self._noted_run:
            ledger.remove(self._noted_run)
            self._noted_run = ""


def _absolute(path: str | os.PathLike[str]) -> str:
    """Return a path as seen from this process now: jobs begin in other folders."""
    return os.path.abspath(os.path.expanduser(os.fsdecode(path)))


def check_words(**options: str | None) -> None:
    """Raise ValueError for an option's value that in a directive would be several words, another option, or lines."""
    for name, value in options.items():
        if value is not None and not re.fullmatch(r"(?!-)[^\s\"'\\#\x00-\x1f\x7f]+", value):
            raise ValueError(f"{name} must be one word, without quotes, backslashes and #, not {value!r}")


def _one_line(line: str) -> str:
    """Return a directive; raise ValueError for one that would be several lines, or commands."""
    if "\n" in line or "\r" in line:
        raise ValueError(f"a directive is one line, not {line!r}")
    return line


def remove_stale(folder: str, names: str, seconds: float) -> None:
    """Remove what clients that were killed have left in a folder.

    Args:
        folder: it may not be there.
        names: a regular expression of the files' names.
        seconds: so old they are, at least.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if re.fullmatch(names, entry.name) and entry.stat().st_mtime < time.time() - seconds:
                    os.unlink(entry.path)
