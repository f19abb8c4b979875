"""The steps of `doctor --launcher slurm` (sge, pbs, lsf): from the submit command here to a worker in a job.

First a job that is no agent is submitted, by the launcher's own means: it says what it finds where it runs, in its
output and over one connection to here. So the first step that fails is named, not "no worker came". The options are
those of the launcher's class, read from its signature. It must leave no job behind.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import types
import typing
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from .doctor import (
    ELSEWHERE_SECONDS,
    FAIL,
    NOTE,
    OK,
    SPECIALISTS,
    Doing,
    Finding,
    Misuse,
    Trouble,
    remarks_of,
    try_worker,
    version_here,
)
from .errors import CrewError, LaunchError
from .launchers import Job, JobState, JobStatus, LaunchRetry, SubmitTimeout, named_class
from .launchers.script import NEVER, ScriptLauncher

POLL_SECONDS = 1.0
LOG_SECONDS = 15.0
"""A job's output may appear here so long after its end, on file systems that several hosts share."""
GONE_SECONDS = 30.0
REACH_SECONDS = 5
SHOWN_MAX = 1000
MARK = "crew_executor doctor: "
"""Before what the job says: its prologue may have words of its own."""
SILENT = {
    "host", "python", "job_name", "template", "ship", "environment", "certificates", "certificates_there",
    "max_failed_launches", "max_jobs", "max_launches", "max_worker_hours", "idle_timeout", "lost_after",
}  # fmt: skip
"""Options without a word on the command line: two have their own; others are no words, or of no use to one job."""

_PROBE = f"""
import json, socket, sys
path, token, port, addresses = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
found = dict(python=list(sys.version_info[:3]), host=socket.gethostname(), reached=dict())
try:
    with open(path) as file:
        found["invitation"] = "ok" if file.read() == token else "it is another file"
except Exception as error:
    found["invitation"] = str(error)
try:
    import crew_executor
    found["file"] = crew_executor.__file__
    from importlib.metadata import version
    found["version"] = version("crew_executor")
except Exception as error:
    found["error"] = type(error).__name__ + ": " + str(error)
try:
    import crew_executor.transport
    crew_executor.transport.load()
    import crew_executor.processes, cloudpickle, tblib
    from crew_executor.cpus import usable_cpus
    found["cpus"] = usable_cpus()
    import resource
    limits = dict(files=resource.RLIMIT_NOFILE, processes=resource.RLIMIT_NPROC, memory=resource.RLIMIT_AS)
    for name in limits:
        most = resource.getrlimit(limits[name])[0]
        found[name] = None if most == resource.RLIM_INFINITY else most
except Exception as error:
    found["unloadable"] = type(error).__name__ + ": " + str(error)
for address in addresses:
    try:
        link = socket.create_connection((address, port), {REACH_SECONDS})
        link.settimeout({REACH_SECONDS})
        answer = link.recv(64).decode()
        link.close()
        found["reached"][address] = "ok" if answer == token else "something else listens there"
    except Exception as error:
        found["reached"][address] = str(error)
print({MARK!r} + json.dumps(found))
"""


class Probe(Job):
    """A job that runs no agent, but says what it finds."""

    def __init__(self, launcher: ScriptLauncher, token: str, port: int, addresses: Sequence[str]) -> None:
        super().__init__(
            f"crew-{token}-0", 0, launcher.workers_per_job, token.encode(), launcher.environment, launcher.walltime,
            launcher.python, port,
        )  # fmt: skip
        self._addresses = addresses

    def command(self, invitation_path: str = "-") -> list[str]:
        """Return the command, in one line: not every scheduler's shell takes more."""
        words = [invitation_path, self.invitation.decode(), str(self.port), *self._addresses]
        return [self.python, "-c", f"exec({_PROBE!r})", *words]


class Option(NamedTuple):
    """An option of a launcher, as a word on the command line."""

    word: str
    kind: Callable[[str], Any]
    is_list: bool


# ---------------------------------------------------------------------- the options


def options_of(launcher: type[ScriptLauncher]) -> dict[str, Option]:
    """Return the options of a launcher's class that can be said in words, by their names."""
    found: dict[str, Option] = {}
    for each in launcher.__mro__:
        if "__init__" not in vars(each) or each is object:
            continue
        hints = typing.get_type_hints(each.__init__)  # type: ignore[misc]
        for parameter in inspect.signature(each.__init__).parameters.values():  # type: ignore[misc]
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in SILENT:
                found.setdefault(parameter.name, _option(parameter.name, hints[parameter.name]))
    return found


def _option(name: str, hint: Any) -> Option:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    word = "--" + name.replace("_", "-")
    if any(typing.get_origin(kind) is Sequence for kind in kinds):
        return Option(word.removesuffix("s"), str, is_list=True)
    if range in kinds:
        return Option(word, _ports, is_list=False)
    return Option(word, next((kind for kind in (bool, str, float, int) if kind in kinds), str), is_list=False)


def _ports(word: str) -> int | range:
    """Return "5000" or "5000-5100" as a port or a range of them."""
    first, dash, last = word.partition("-")
    return range(int(first), int(last) + 1) if dash else int(first)


def _names() -> list[str]:
    return [name for name, module in SPECIALISTS.items() if module == __name__]


def _class_of(name: str) -> type[ScriptLauncher]:
    kind = named_class(name)
    assert issubclass(kind, ScriptLauncher)
    return kind


def add_arguments(group: argparse._ActionsContainer) -> None:
    """Declare the options of all these launchers, once each; find() refuses those that the one in question has not."""
    takers: dict[str, list[str]] = {}
    options: dict[str, Option] = {}
    for name in _names():
        for option_name, option in options_of(_class_of(name)).items():
            takers.setdefault(option_name, []).append(name)
            options.setdefault(option_name, option)
    for option_name, option in options.items():
        only = "" if takers[option_name] == _names() else f" ({', '.join(takers[option_name])})"
        text = f"{option_name}= of the launcher{only}" + ("; once for each" if option.is_list else "")
        if option.kind is bool:
            group.add_argument(option.word, dest=option_name, action="store_true", help=text)
        elif option.is_list:
            group.add_argument(option.word, dest=option_name, action="append", default=[], metavar="WORD", help=text)
        else:
            group.add_argument(option.word, dest=option_name, type=option.kind, metavar="VALUE", help=text)


def _launcher(arguments: argparse.Namespace, job_name: str) -> ScriptLauncher:
    """Return the launcher that was described; raise Misuse if it is none."""
    kind = _class_of(arguments.launcher)
    own = options_of(kind)
    chosen: dict[str, Any] = {}
    for name in _names():
        for option_name, option in options_of(_class_of(name)).items():
            value = getattr(arguments, option_name)
            if value in (None, [], False):
                continue
            if option_name not in own:
                raise Misuse(f"{option.word} is no option of {kind.__name__}: leave it out")
            chosen[option_name] = value
    if arguments.address:
        chosen["host"] = arguments.address
    try:
        return kind(python=arguments.python, job_name=job_name, **{"max_failed_launches": 1, **chosen})
    except ValueError as error:
        raise Misuse(str(error)) from None


# ---------------------------------------------------------------------- the steps


def find(arguments: argparse.Namespace) -> Iterator[Finding | Doing]:
    """Try one job, then one worker.

    Raises:
        Misuse: the options make no launcher.
    """
    job_name = f"crew-doctor-{os.getpid()}"
    launcher = _launcher(arguments, job_name)
    seconds = arguments.timeout or ELSEWHERE_SECONDS
    has_failed = False
    for found in _examine(launcher, seconds):
        has_failed = has_failed or found[0] == FAIL
        yield found
    if has_failed:
        return
    yield Doing(f"starting a worker, for at most {seconds:g} s")
    try:
        worker = try_worker(_launcher(arguments, job_name), seconds)
    except Trouble as trouble:
        hint = "\nif it only has to wait longer, say --timeout SECONDS" if trouble.is_late else ""
        yield Finding(FAIL, f"a job runs there, but no worker could be had: {trouble}{hint}")
        return
    yield Finding(OK, worker.describe())
    yield from remarks_of(worker)
    yield Doing("looking for jobs that are left")
    yield _look_for_left(launcher, f"{job_name}-")


def _examine(launcher: ScriptLauncher, seconds: float) -> Iterator[Finding | Doing]:
    """Submit a job that says what it finds, and judge that."""
    try:
        launcher.check()
    except LaunchError as error:
        yield Finding(FAIL, str(error))
        return
    yield Finding(
        OK, f"{launcher.submit_command[0]} is here; {launcher.folder} and {launcher.log_folder} can be written"
    )
    from . import addresses  # late: with psutil, which may be what is broken here; the command's help must not fail

    try:
        bind_to, told = addresses.resolve(launcher.hosts)
    except CrewError as error:
        yield Finding(FAIL, f"--address: {error}")
        return
    try:
        listener = _listen(bind_to, launcher.ports)
    except OSError as error:
        yield Finding(FAIL, f"no port can be listened at, of {launcher.ports}: {error}")
        return
    with listener:
        token = secrets.token_hex(8)
        probe = Probe(launcher, token, listener.getsockname()[1], told)
        try:
            yield from _try_job(launcher, probe, listener, seconds)
        finally:
            launcher.close()


def _listen(address: str, ports: Sequence[int]) -> socket.socket:
    last: OSError | None = None
    for port in ports:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen()
        except OSError as error:
            listener.close()
            last = error
        else:
            return listener
    raise last or OSError("there is none")


def _try_job(
    launcher: ScriptLauncher, probe: Probe, listener: socket.socket, seconds: float
) -> Iterator[Finding | Doing]:
    yield Doing("submitting a job")
    started_at = time.monotonic()
    try:
        handles = launcher.submit(probe, 1)
    except SubmitTimeout as error:
        yield Finding(FAIL, f"the scheduler does not answer: {error}")
        return
    except (LaunchRetry, LaunchError) as error:
        yield Finding(FAIL, f"no job can be submitted: {error}")
        return
    (handle,) = handles
    yield Finding(OK, f"the scheduler took job {handle} in {time.monotonic() - started_at:.2f} s")
    report: dict[str, Any] | None = None
    status = JobStatus(JobState.PENDING, "nothing is known of it yet")
    is_ended = False
    try:
        for heard in _wait(launcher, handle, probe, listener, started_at + seconds):
            report, status = heard
            yield Doing(f"job {handle}: {status.words}")
        is_ended = status.state is JobState.ENDED
    finally:
        if report is None:  # also one that "has ended" since it would pend for ever
            with contextlib.suppress(LaunchError, subprocess.TimeoutExpired):
                launcher.cancel([handle])
    if report is not None:
        where = (
            f"job {handle} ran on {report['host']}, and has told what it found {time.monotonic() - started_at:.1f} s"
        )
        yield Finding(OK, f"{where} after its submission; its output came to {launcher.log_folder}")
        if report["noise"]:
            yield Finding(
                NOTE, f"there is more in its output, perhaps of the prologue:\n{report['noise'][-SHOWN_MAX:]}"
            )
        yield from _judge(launcher, report)
    elif not is_ended:
        waited = f"job {handle} is not done {seconds:g} s after its submission: {status.words}; it was cancelled"
        yield Finding(
            FAIL, f"{waited}\n{launcher.explain(handle)}\nif it only has to wait longer, say --timeout SECONDS"
        )
    else:
        yield _speechless(launcher, handle, status)


def _wait(
    launcher: ScriptLauncher, handle: Hashable, probe: Probe, listener: socket.socket, until: float
) -> Iterator[tuple[dict[str, Any] | None, JobStatus]]:
    """Yield how the job stands, from time to time, until it has reported, or ended without, or the time is over."""
    listener.settimeout(POLL_SECONDS)
    ended_at: float | None = None
    status = JobStatus(JobState.PENDING, "submitted")
    while time.monotonic() < until:
        report = _report(launcher, handle)
        if report is not None:
            yield report, status
            return
        if ended_at is not None and time.monotonic() > ended_at + LOG_SECONDS:
            return
        try:
            peer, _address = listener.accept()
        except TimeoutError:
            pass
        else:
            with peer, contextlib.suppress(OSError):  # it may have hung up
                peer.settimeout(POLL_SECONDS)
                peer.sendall(probe.invitation)
            continue
        if ended_at is None:
            try:
                status = launcher.poll([handle]).get(handle, status)
            except (LaunchError, subprocess.TimeoutExpired) as error:
                status = JobStatus(JobState.PENDING, f"the scheduler does not say: {error}")
            if status.state is JobState.ENDED:
                ended_at = time.monotonic()
        yield None, status
        if _would_never_run(status):
            return


def _report(launcher: ScriptLauncher, handle: Hashable) -> dict[str, Any] | None:
    """Return what the job has said, if its output is here and whole."""
    path = launcher.log_path(handle)
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            noise, mark, told = file.read().rpartition(MARK)
    except OSError:
        return None
    if not mark or "\n" not in told:
        return None
    report, end = json.JSONDecoder().raw_decode(told)
    return {**report, "noise": f"{noise}{told[end:]}".strip()}


def _would_never_run(status: JobStatus) -> bool:
    return NEVER in status.words or "can never run" in status.words.lower()


def _speechless(launcher: ScriptLauncher, handle: Hashable, status: JobStatus) -> Finding:
    """Say why a job may have said nothing."""
    told = launcher.explain(handle)
    advice = ""
    if _would_never_run(status):
        text = f"job {handle} was cancelled: {status.words}"
        return Finding(
            FAIL, f"{text}\nask for less, or elsewhere: see --walltime, --memory-gb, --cpus and the queue's own"
        )
    if launcher.log_path(handle) is None:
        advice = (
            f"the hosts must be able to write to {launcher.log_folder}, and this machine must see it: name a folder "
            "that they share (--folder, --log-folder)"
        )
    elif launcher.python in told:
        advice = f"is there a Python at {launcher.python} on the hosts? Name the path that it has there: --python PATH"
    elif launcher.working_directory in told:
        advice = f"the hosts have no {launcher.working_directory}: name another one (--working-directory)"
    elif launcher.prologue:
        advice = "did a line of the prologue end it?"
    return Finding(
        FAIL, "\n".join(filter(None, (f"job {handle} ended, and said nothing: {status.words}", told, advice)))
    )


def _judge(launcher: ScriptLauncher, report: dict[str, Any]) -> Iterator[Finding]:
    """Yield what follows from what the job has found."""
    yield _judge_python(launcher, report)
    yield from _judge_package(launcher, report)
    if report["invitation"] == "ok":
        yield Finding(OK, f"it can read its invitation, with the key, in {launcher.folder}")
    else:
        what = f"it cannot read its invitation, with the key, in {launcher.folder}: {report['invitation']}"
        yield Finding(FAIL, f"{what}\nname a folder that the hosts share with this machine: --folder PATH")
    yield from _judge_ways(report["reached"])
    if "cpus" in report:
        yield _judge_limits(launcher, report)


def _judge_python(launcher: ScriptLauncher, report: dict[str, Any]) -> Finding:
    there, here = (".".join(map(str, version[:2])) for version in (report["python"], sys.version_info))
    if there != here:
        why = f"here it is {here}; functions travel as byte code, so both must be of one minor version"
        return Finding(FAIL, f"{launcher.python} is Python {there} there, and {why}\nname another one: --python PATH")
    return Finding(OK, f"{launcher.python} is Python {'.'.join(map(str, report['python']))} there")


def _judge_package(launcher: ScriptLauncher, report: dict[str, Any]) -> Iterator[Finding]:
    wanted = version_here()
    install = f"{launcher.python} -m pip install crew_executor" + (f"=={wanted}" if wanted else "")
    if "file" not in report:
        yield Finding(FAIL, f"crew_executor cannot be imported there: {report['error']}\ninstall it there: {install}")
        return
    if "version" not in report or wanted is None:
        yield Finding(
            NOTE, f"crew_executor is not installed but imported, from {report['file']}: versions are not compared"
        )
    elif report["version"] != wanted:
        yield Finding(
            FAIL,
            f"crew_executor is {report['version']} there, and {wanted} here: they may not understand each other\n"
            f"install the same there: {install}",
        )
    else:
        yield Finding(OK, f"crew_executor is {wanted} there, too")
    if "unloadable" in report:
        what = f"what crew_executor needs cannot be loaded there: {report['unloadable']}"
        yield Finding(FAIL, f"{what}\ntry: {launcher.python} -m pip install --force-reinstall crew_executor")


def _judge_ways(reached: dict[str, str]) -> Iterator[Finding]:
    good = [address for address, came in reached.items() if came == "ok"]
    bad = "; ".join(f"{address}: {came}" for address, came in reached.items() if came != "ok")
    if not good:
        yield Finding(
            FAIL,
            f"the host does not reach this machine: {bad}\nname an address of this machine that hosts reach (--address "
            "ADDR, or an interface such as ib0), and let the firewall pass what comes to port= of the launcher",
        )
        return
    yield Finding(OK, f"it reaches this machine at {', '.join(good)}")
    if bad:
        yield Finding(NOTE, f"not so at {bad}: with --address {good[0]} (host= of the launcher) that is not tried")


def _judge_limits(launcher: ScriptLauncher, report: dict[str, Any]) -> Finding:
    cpus = "1 CPU" if report["cpus"] == 1 else f"{report['cpus']} CPUs"
    limits = [
        f"{name} {'not limited' if report[key] is None else f'at most {report[key]:,}'}"
        for name, key in (("open files", "files"), ("processes", "processes"), ("address space in bytes", "memory"))
    ]
    text = f"there: {cpus}, {', '.join(limits)}"
    if report["cpus"] < launcher.workers_per_job:
        return Finding(NOTE, f"{text}; for {launcher.workers_per_job} workers these are few CPUs: see --cpus")
    return Finding(OK, text)


def _look_for_left(launcher: ScriptLauncher, prefix: str) -> Finding:
    until = time.monotonic() + GONE_SECONDS
    left: Sequence[Hashable] = ()
    while time.monotonic() < until:
        try:
            left = list(launcher.jobs_beginning(prefix))
        except (LaunchError, subprocess.TimeoutExpired) as error:
            return Finding(NOTE, f"whether a job is left is not known: {error}")
        if not left:
            return Finding(OK, "no job is left")
        time.sleep(POLL_SECONDS)
    return Finding(FAIL, f"after the shutdown jobs are left: {', '.join(map(str, left))}; please report this")
