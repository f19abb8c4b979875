"""`python -m crew_executor doctor`: what works on this machine, or with a launcher; if something does not, what to do.

It believes nothing that it can try: in the end a worker is started, runs a task, and is let go. What it finds it yields
one by one, so that the last line names what it came to; it must change nothing, and leave nothing behind.

A launcher whose way to a worker has steps of its own is one more line in SPECIALISTS: a module with
`add_arguments(group)` and `find(arguments)`, which yields Findings. Every other one is tried as a whole.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import platform
import re
import resource
import shutil
import socket
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from importlib import metadata
from importlib.util import find_spec
from typing import NamedTuple, Protocol, cast

from . import cell, segments, transport
from .cpus import usable_cpus
from .errors import CrewError
from .executor import CrewExecutor
from .launchers import (
    ENTRY_POINT_GROUP,
    BaseLauncher,
    JobStatus,
    Launcher,
    LocalLauncher,
    make_launcher,
    named_class,
)
from .log import logger
from .report import Report

__all__ = ["Doing", "Finding", "Misuse", "Trouble", "Worker", "add_arguments", "run", "try_worker", "version_here"]

OK, NOTE, FAIL = "ok", "note", "FAIL"
SPECIALISTS = {
    "ssh": "crew_executor.doctor_ssh",
    **dict.fromkeys(("slurm", "sge", "pbs", "lsf"), "crew_executor.doctor_jobs"),
}
"""By launcher: the module that knows its steps. Imported when the command is, so it must be cheap."""

PACKAGES = ("pynng", "cloudpickle", "psutil", "tblib")
LOCAL_SECONDS, ELSEWHERE_SECONDS = 60.0, 120.0
"""How long a worker may take to come, unless --timeout says otherwise."""
ROUND_TRIPS = 20
GONE_SECONDS = 5.0
SEGMENT_BYTES = 1 << 20

WORKER_DESCRIPTORS, OTHER_DESCRIPTORS = 5, 200
"""What the client has open for each worker (docs/scale.md); and at most for all else: segments, modules, NNG."""
FEW_WORKERS = 50
FEW_PROCESSES = 512


class Finding(NamedTuple):
    """What came of one check.

    Attributes:
        state: "ok"; "note": it works, but slower or in another way; "FAIL".
        text: one line, and below it the words of others, if there are any.
    """

    state: str
    text: str


class Doing(NamedTuple):
    """What is about to be tried, for those who watch."""

    text: str


class Misuse(Exception):
    """The arguments make no sense together."""


class Trouble(Exception):
    """No worker came, or it did not do its task; the text has the launcher's words.

    Attributes:
        is_late: it was given up because its time was over.
    """

    def __init__(self, text: str, *, is_late: bool = False) -> None:
        super().__init__(text)
        self.is_late = is_late


class Worker(NamedTuple):
    """What a worker has told of itself, and how fast it was.

    Attributes:
        host, pid, version: its machine, its process, its interpreter.
        ancestors: the processes that have started it, the nearest first: its supervisor and, elsewhere, its agent.
        start_seconds: from the first submission to its result.
        round_trip: a later one, in seconds.
        end_seconds: of the shutdown.
        remarks: what was logged meanwhile.
    """

    host: str
    pid: int
    version: str
    ancestors: tuple[int, ...]
    start_seconds: float
    round_trip: float
    end_seconds: float
    remarks: tuple[str, ...]

    def describe(self) -> str:
        """Return it in one line."""
        return (
            f"a worker on {self.host} (pid {self.pid}, Python {self.version.split()[0]}) ran a task"
            f" {self.start_seconds:.2f} s after it was asked for; round trip {self.round_trip * 1000:.2f} ms, also of a"
            " lambda and of a traceback;"
            f" shut down in {self.end_seconds:.2f} s"
        )


class Specialist(Protocol):
    """What a module in SPECIALISTS provides."""

    def add_arguments(self, group: argparse._ActionsContainer) -> None:
        """Declare the arguments that only this launcher has."""

    def find(self, arguments: argparse.Namespace) -> Iterator[Finding | Doing]:
        """Try it step by step. Raises Misuse at the first step if the arguments make no sense."""


# ---------------------------------------------------------------------- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--launcher", metavar="NAME", help="try a worker of this launcher; without it: of this machine")
    seconds_help = (
        f"how long a worker may take to come (default: {LOCAL_SECONDS:g}; with a launcher {ELSEWHERE_SECONDS:g})"
    )
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help=seconds_help)
    group = parser.add_argument_group(f"for --launcher {_names_of(*SPECIALISTS.values())}")
    group.add_argument("--python", metavar="PATH", help="the interpreter there (default: the path of this one)")
    address_help = "where hosts find this machine: an address, a name, an interface (default: all its addresses)"
    group.add_argument("--address", metavar="ADDR", help=address_help)
    for module in dict.fromkeys(SPECIALISTS.values()):
        _specialist(module).add_arguments(parser.add_argument_group(f"for --launcher {_names_of(module)}"))


def run(arguments: argparse.Namespace) -> int:
    """Check, and say what was found; return the exit status: 0, 1 if something fails, 2 for wrong arguments."""
    report = Report()
    failures = 0
    try:
        _check_use(arguments)
        for found in _findings(arguments):
            if isinstance(found, Doing):
                if report.is_live:
                    report.progress(f"...   {found.text}")
                continue
            failures += found.state == FAIL
            report.line(f"{found.state:<5} " + found.text.replace("\n", "\n      "))
    except Misuse as misuse:
        Report(sys.stderr).line(str(misuse))
        return 2
    report.line(f"\n{failures} of these checks failed" if failures else "\nall is well")
    return 1 if failures else 0


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{word} is no number of seconds above 0")
    return seconds


def _specialist(module: str) -> Specialist:
    return cast(Specialist, importlib.import_module(module))


def _names_of(*modules: str) -> str:
    """Return which launchers these modules know, in words."""
    *others, last = (name for name, module in SPECIALISTS.items() if module in modules)
    return f"{', '.join(others)} or {last}" if others else last


def _check_use(arguments: argparse.Namespace) -> None:
    """Raise Misuse if an argument is given that only another launcher has."""
    mine = SPECIALISTS.get(arguments.launcher)
    for module in dict.fromkeys(SPECIALISTS.values()):
        if module != mine:
            parser = argparse.ArgumentParser(add_help=False)
            _specialist(module).add_arguments(parser)
            _refuse_given(arguments, parser, _names_of(module))
    if mine is None:
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("--python")
        parser.add_argument("--address")
        _refuse_given(arguments, parser, _names_of(*SPECIALISTS.values()))


def _refuse_given(arguments: argparse.Namespace, parser: argparse.ArgumentParser, names: str) -> None:
    """Raise Misuse if one of a parser's arguments is given."""
    for action in parser._actions:
        if getattr(arguments, action.dest) != action.default:
            word = action.option_strings[0]
            raise Misuse(f"{word} is of use with --launcher {names} only: say that, too, or leave it out")


def _findings(arguments: argparse.Namespace) -> Iterator[Finding | Doing]:
    if arguments.launcher is None:
        return _find_here(arguments)
    if arguments.launcher in SPECIALISTS:
        return _specialist(SPECIALISTS[arguments.launcher]).find(arguments)
    return _find_elsewhere(arguments)


# ---------------------------------------------------------------------- a worker on trial


def about() -> tuple[str, int, str, tuple[int, ...]]:
    """Return host, pid, interpreter and ancestors of the process that runs this."""
    parent = os.getppid()
    return socket.gethostname(), os.getpid(), sys.version, (parent, *_parents(parent))


def _parents(pid: int) -> tuple[int, ...]:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return (int(file.read().rpartition(")")[2].split()[1]),)
    except OSError:  # another system, or it has just ended
        return ()


class _Heard(logging.Handler):
    """What the package logs during a trial: it is part of what was found."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.words.append(self.format(record))


def try_worker(launcher: str | BaseLauncher, seconds: float) -> Worker:
    """Start an executor with one worker, run tasks there, and shut it down.

    Args:
        launcher: where the worker comes from.
        seconds: how long the first result may take.

    Raises:
        Trouble: there was none, or something else went wrong.
    """
    heard = _Heard()
    logger.addHandler(heard)
    try:
        return _try(launcher, seconds, heard)
    except FutureTimeoutError:
        raise Trouble("\n".join([f"no result came within {seconds:g} s", *heard.words]), is_late=True) from None
    except Exception as error:
        told = _words(error)
        raise Trouble("\n".join([told, *(each for each in heard.words if each not in told)])) from error
    finally:
        logger.removeHandler(heard)


def _try(launcher: str | BaseLauncher, seconds: float, heard: _Heard) -> Worker:
    started_at = time.monotonic()
    with CrewExecutor(1, launcher=launcher, name="doctor") as executor:
        try:
            host, pid, version, ancestors = executor.submit(about).result(seconds)
            start_seconds = time.monotonic() - started_at
            trips = []
            for _ in range(ROUND_TRIPS):
                trip_at = time.monotonic()
                executor.submit(int).result(seconds)
                trips.append(time.monotonic() - trip_at)
            _try_travel(executor, seconds)
        except BaseException:
            executor.kill_workers()
            raise
        ends_at = time.monotonic()
    end_seconds = time.monotonic() - ends_at
    return Worker(
        host, pid, version, ancestors, start_seconds, statistics.median(trips), end_seconds, tuple(heard.words)
    )


def _try_travel(executor: CrewExecutor, seconds: float) -> None:
    """Raise Trouble unless a lambda gets there, and the frames of an error come back."""
    value = object.__sizeof__(seconds)
    if executor.submit(lambda: value).result(seconds) != value:
        raise Trouble("a lambda came back with another value: please report this")
    error = executor.submit(stumble).exception(seconds)
    told = "no error" if error is None else "".join(traceback.format_exception(error))
    if not isinstance(error, ZeroDivisionError) or stumble.__name__ not in told:
        raise Trouble(f"the traceback of an error did not come back: {told}")


def stumble() -> float:
    """Raise an error, in a worker."""
    return 1 / (os.getpid() * 0)


def _words(error: Exception) -> str:
    """Return what an error says; the reason of a broken pool is its cause."""
    cause = error.__cause__ if isinstance(error, CrewError) and isinstance(error.__cause__, Exception) else error
    return str(cause) if isinstance(cause, CrewError) else f"{type(cause).__name__}: {cause}"


# ---------------------------------------------------------------------- this machine


def version_here() -> str | None:
    """Return this package's version; None if it was not installed, but is imported from somewhere."""
    try:
        return metadata.version("crew_executor")
    except metadata.PackageNotFoundError:
        return None


def _find_here(arguments: argparse.Namespace) -> Iterator[Finding | Doing]:
    """Check what workers need, one after the other; try one if there is nothing that it must do without."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python, _packages, _nng, _shared_memory, _membarrier, _pidfd, _cpus, _limits
    )  # fmt: skip
    has_failed = False
    for check in checks:
        for finding in check():
            has_failed = has_failed or finding.state == FAIL
            yield finding
    if not has_failed:
        yield Doing("starting a worker")
        yield from _try_here(arguments.timeout or LOCAL_SECONDS)
    yield _launchers()


def _python() -> Iterator[Finding]:
    name = f"Python {platform.python_version()} ({platform.python_implementation()}), {sys.executable}"
    if not sys.executable:
        yield Finding(FAIL, "sys.executable is empty, so no interpreter for workers is known: set PYTHONEXECUTABLE")
    elif platform.python_implementation() != "CPython":
        yield Finding(NOTE, f"{name}: crew_executor is tried with CPython only")
    else:
        yield Finding(OK, name)


def _packages() -> Iterator[Finding]:
    here = version_here()
    folder = os.path.dirname(os.path.abspath(__file__))
    sound = [f"crew_executor {here} in {folder}"]
    if here is None:
        sound = []
        yield Finding(NOTE, f"crew_executor is not installed but imported from {folder}: hosts cannot compare versions")
    needed = {} if here is None else dict(_minima(metadata.requires("crew_executor") or []))
    for package in PACKAGES:
        least = needed.get(package, "")
        install = f"{sys.executable} -m pip install '{package}{least and '>='}{least}'"
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield Finding(FAIL, f"{package} is not installed here: {install}")
            continue
        why = _why_useless(package)
        if _numbers(version) < _numbers(least):
            yield Finding(FAIL, f"{package} {version} is too old, {least} is needed: {install}")
        elif why:
            yield Finding(FAIL, f"{package} {version} cannot be imported: {why}; try: {install} --force-reinstall")
        else:
            sound.append(f"{package} {version}")
    yield Finding(OK, ", ".join(sound))


def _why_useless(package: str) -> str:
    """Import a package by name, only to see whether that works; return why not. Of pynng only a part is needed."""
    if package != "pynng":
        try:
            importlib.import_module(package)
        except Exception as error:
            return _words(error)
    return ""


def _minima(requirements: list[str]) -> Iterator[tuple[str, str]]:
    """Yield names and least versions of what is always needed; what is for an extra has more words."""
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement.replace(" ", ""))
        if match:
            yield match[1], match[2]


def _numbers(version: str) -> list[int]:
    return list(map(int, re.findall(r"\d+", version)))


def _nng() -> Iterator[Finding]:
    try:
        transport.load()
    except Exception as error:  # whatever an extension module that does not fit here may raise
        install = f"{sys.executable} -m pip install --force-reinstall --no-cache-dir pynng"
        yield Finding(FAIL, f"NNG cannot be used: {_words(error)}; try: {install}")
    else:
        yield Finding(OK, "NNG can be used")


def _why_not(variable: str, otherwise: str = "this system has none") -> str:
    return f"{variable} is set" if os.environ.get(variable) else otherwise


def _shared_memory() -> Iterator[Finding]:
    pool = segments.SegmentPool()
    try:
        if segments.are_available() and pool.make(SEGMENT_BYTES) is not None:
            yield Finding(OK, "shared memory for large buffers (memfd) is available")
            return
    finally:
        pool.close()
    why = _why_not("CREW_EXECUTOR_NO_MEMFD", "memfd_create(2) is missing or forbidden, or there is no memory left")
    yield Finding(NOTE, f"no shared memory for large buffers ({why}): they travel over the links, which is slower")


def _membarrier() -> Iterator[Finding]:
    if cell._barrier().is_available:
        yield Finding(OK, "membarrier is available")
    else:
        why = _why_not("CREW_EXECUTOR_NO_MEMBARRIER", "the system or its jail does not offer it")
        yield Finding(NOTE, f"no membarrier ({why}): workers take a lock instead, some microseconds for each task")


def _pidfd() -> Iterator[Finding]:
    why = _why_not("CREW_EXECUTOR_NO_PIDFD")
    if hasattr(os, "pidfd_open") and not os.environ.get("CREW_EXECUTOR_NO_PIDFD"):
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:
            why = f"pidfd_open: {error.strerror}"
        else:
            yield Finding(OK, "pidfd is available")
            return
    yield Finding(NOTE, f"no pidfd ({why}): the end of a killed client may be noticed a little later")


def _cpus() -> Iterator[Finding]:
    usable, all_there = usable_cpus(), os.cpu_count() or 1
    if usable < all_there:
        why = "affinity, a control group's quota or SLURM_CPUS_PER_TASK does not allow more"
        yield Finding(
            NOTE, f"{usable} of this machine's {all_there} CPUs may be used, the default of max_workers: {why}"
        )
    else:
        yield Finding(OK, f"{usable} CPUs may be used: the default of max_workers")


def _limits() -> Iterator[Finding]:
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = max(0, (files - OTHER_DESCRIPTORS) // WORKER_DESCRIPTORS)
    if files == resource.RLIM_INFINITY:
        yield Finding(OK, "open files are not limited")
    elif room < max(FEW_WORKERS, 2 * usable_cpus()):
        up_to = "" if most == resource.RLIM_INFINITY else f", up to {most}"
        raised = "only an administrator can raise it" if most == files else f"raise it by `ulimit -n`{up_to}"
        yield Finding(NOTE, f"at most {files} open files: enough for about {room} workers of an executor; {raised}")
    else:
        yield Finding(OK, f"at most {files} open files: enough for about {room} workers")
    processes, _most = resource.getrlimit(resource.RLIMIT_NPROC)
    if os.geteuid() and processes != resource.RLIM_INFINITY and processes < FEW_PROCESSES:
        why = "workers count, and the threads in them; raise it by `ulimit -u`"
        yield Finding(NOTE, f"at most {processes} processes and threads of this user: {why}")


def _try_here(seconds: float) -> Iterator[Finding]:
    try:
        worker = try_worker("local", seconds)
    except Trouble as trouble:
        yield Finding(FAIL, f"no worker could be had here: {trouble}")
        return
    yield Finding(OK, worker.describe())
    yield from remarks_of(worker)
    until = time.monotonic() + GONE_SECONDS
    while _is_there(worker.pid):
        if time.monotonic() > until:
            yield Finding(FAIL, f"the worker, pid {worker.pid}, is still there after the shutdown: please report this")
            return
        time.sleep(0.01)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


_MODULES = {"aws-batch": "boto3", "dask": "distributed", "kubernetes": "kubernetes", "ray": "ray"}
"""What launchers import."""


def _launchers() -> Finding:
    """Say which launchers can be tried, and what others lack here."""
    usable, lacking = ["local"], []
    commands = {name: named_class(name).submit_command[0] for name in ("slurm", "sge", "pbs", "lsf")}  # type: ignore[attr-defined]
    for name, command in {"ssh": "ssh", **commands, "mpi": "mpirun"}.items():
        if shutil.which(command) is None:
            lacking.append(f"{name} (no {command} here)")
        else:
            usable.append(name)
    for name, module in _MODULES.items():
        if find_spec(module) is None:
            lacking.append(f"{name} (no Python package {module} here)")
        else:
            usable.append(name)
    own = {"local", "ssh", "mpi", *commands, *_MODULES}
    usable += sorted({point.name for point in metadata.entry_points(group=ENTRY_POINT_GROUP)} - own)
    others = f"; not usable: {', '.join(lacking)}" if lacking else ""
    return Finding(OK, f"launchers: {', '.join(usable)}{others}; `doctor --launcher NAME` tries one")


def remarks_of(worker: Worker) -> Iterator[Finding]:
    """Yield what was logged while a worker was tried."""
    for words in worker.remarks:
        yield Finding(NOTE, f"meanwhile this was logged: {words}")


# ---------------------------------------------------------------------- any launcher


def _find_elsewhere(arguments: argparse.Namespace) -> Iterator[Finding | Doing]:
    """Make the launcher, let it check itself, and try a worker of it."""
    name, seconds = arguments.launcher, arguments.timeout or ELSEWHERE_SECONDS
    try:
        launcher = make_launcher(name)
    except Exception as error:  # an entry point may be anybody's
        yield Finding(FAIL, f"there is no launcher {name!r} to try: {_words(error)}")
        return
    how = f": workers are {launcher.describe()}" if isinstance(launcher, (Launcher, LocalLauncher)) else ""
    yield Finding(OK, f"the launcher {name!r} can be made{how}")
    overheard: list[str] = []
    if isinstance(launcher, Launcher):
        try:
            launcher.check()
        except Exception as error:
            yield Finding(FAIL, f"the launcher {name!r} cannot work here: {_words(error)}")
            return
        yield Finding(OK, f"the launcher {name!r} finds what it needs")
        overheard = _overhear(launcher)
    launcher.max_failed_launches = 1  # the first reason is as good as the third
    yield Doing(f"starting a worker, for at most {seconds:g} s")
    try:
        worker = try_worker(launcher, seconds)
    except Trouble as trouble:
        said = [f"of its job the launcher last heard: {overheard[0]}"] if trouble.is_late and overheard else []
        hint = ["if it only has to wait longer, say --timeout SECONDS"] if trouble.is_late else []
        yield Finding(FAIL, "\n".join([f"no worker of {name!r} could be had: {trouble}", *said, *hint]))
        return
    yield Finding(OK, worker.describe())
    yield from remarks_of(worker)


def _overhear(launcher: Launcher) -> list[str]:
    """Return a list that will hold what the launcher last heard of its job.

    The executor asks it; a launcher's methods must not be called from another thread as well.
    """
    heard: list[str] = []
    ask = launcher.poll

    def poll(handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        statuses = ask(handles)
        heard[:] = [f"{each.state.value} {each.words}".strip() for each in statuses.values()]
        return statuses

    launcher.poll = poll  # type: ignore[method-assign]
    return heard
