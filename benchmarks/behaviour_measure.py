"""What the rows of behaviour.py measure with: waiting for futures, asking a pool whether it lives, scripts, processes.

Runs in a cell's own process. A verdict is made of measured facts only; nothing here knows which pool it looks at.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import behaviour_tasks as tasks
import psutil
from behaviour_contenders import Contender
from leftovers import marked

RESOLVE_SECONDS = 15.0
"""A future that is not done after so long counts as unresolved."""
NEXT_SECONDS = 4.0
"""So long a pool may take for the next, ordinary tasks."""

CELL_MARK = "BEHAVIOUR_CELL"
SCRIPT_MARK = "BEHAVIOUR_SCRIPT"
"""Environment variables by which processes are found whoever their parent is by then."""

POOL_DEAD = "POOL DEAD"
POOL_HANGS = "POOL HANGS"
UNRESOLVED = "UNRESOLVED"


@dataclass(frozen=True)
class Verdict:
    """What a cell says: in a word or two, whether that is the clean behaviour (None: not offered), and details."""

    text: str
    is_clean: bool | None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    definition: str
    measure: Callable[[Contender, Path], Verdict]


Measure = Callable[[Contender, Path], Verdict]


def make_row(rows: dict[str, Row], title: str) -> Callable[[Measure], Measure]:
    """Return a decorator that enters a function into the rows; its docstring is the row's definition."""

    def enter(measure: Measure) -> Measure:
        definition = " ".join((measure.__doc__ or "").split())
        rows[measure.__name__.replace("_", "-")] = Row(title, definition, measure)
        return measure

    return enter


# ------------------------------------------------------------------------------------------------------------- futures


@dataclass(frozen=True)
class Outcome:
    """What came of a future: a value, an error, or neither in time."""

    value: Any = None
    error: BaseException | None = None
    is_done: bool = True

    @property
    def text(self) -> str:
        """The outcome in a few words."""
        if not self.is_done:
            return UNRESOLVED
        return repr(self.value)[:80] if self.error is None else words(self.error)


def outcomes(futures: Sequence[Future[Any]], seconds: float = RESOLVE_SECONDS) -> list[Outcome]:
    """Wait for all futures together and return what came of each."""
    wait(futures, seconds)
    return [_outcome(future) for future in futures]


def _outcome(future: Future[Any]) -> Outcome:
    if not future.done():
        return Outcome(is_done=False)
    try:
        error = future.exception(0)
        return Outcome(error=error) if error is not None else Outcome(future.result(0))
    except CancelledError as cancelled:
        return Outcome(error=cancelled)


def outcome_of(submit: Callable[[], Future[Any]], seconds: float = RESOLVE_SECONDS) -> Outcome:
    """Submit and wait; what submit() itself raises is the outcome, too."""
    return outcomes([submitted(submit)], seconds)[0]


def words(error: BaseException) -> str:
    """Return an exception's class and the beginning of its message."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:160]}" if message else type(error).__name__


def all_words(error: BaseException | None) -> str:
    """Return everything that an exception says: its class, message, attributes and notes, and those of its causes."""
    said = []
    while error is not None:
        attributes = {name: value for name, value in vars(error).items() if not isinstance(value, BaseException)}
        said.append(f"{type(error).__name__}: {error} {attributes}")
        error = error.__cause__ or error.__context__
    return "\n".join(said)


# ----------------------------------------------------------------------------------------------------- the pool itself


def warm_up(contender: Contender, pool: Any, workers: int = 2) -> set[int]:
    """Have every worker started, and return their process ids."""
    pids: set[int] = set()
    until = time.monotonic() + NEXT_SECONDS
    while len(pids) < workers and time.monotonic() < until:
        naps = [contender.submit(pool, tasks.pid_after, 0.1) for _ in range(workers)]
        pids = {outcome.value for outcome in outcomes(naps) if outcome.error is None and outcome.is_done}
    return pids


def submitted(submit: Callable[[], Future[Any]]) -> Future[Any]:
    """Return the future of a submit; if submit() itself raises, one that has failed with the error."""
    try:
        return submit()
    except BaseException as error:
        future: Future[Any] = Future()
        future.set_exception(error)
        return future


def neighbours(contender: Contender, pool: Any) -> list[Future[Any]]:
    """Submit four ordinary tasks that a misbehaving one must not harm; each returns its index."""
    return [submitted(partial(contender.submit, pool, tasks.nap, index, 0.3)) for index in range(4)]


def lost(found: Sequence[Outcome]) -> int:
    """Count those neighbours that did not return their index."""
    return sum(outcome.error is not None or outcome.value != index for index, outcome in enumerate(found))


def next_problem(contender: Contender, pool: Any) -> tuple[str, str]:
    """Submit ordinary tasks; return what is wrong with the pool, and the details; both are empty if nothing is."""
    try:
        futures = [contender.submit(pool, tasks.double, number) for number in range(4)]
    except BaseException as error:
        return POOL_DEAD, f"the next submit raises {words(error)}"
    for number, outcome in enumerate(outcomes(futures, NEXT_SECONDS)):
        if not outcome.is_done:
            return POOL_HANGS, f"the next tasks are not done after {NEXT_SECONDS:g} s"
        if outcome.error is not None:
            return POOL_DEAD, f"the next task fails with {words(outcome.error)}"
        if outcome.value != 2 * number:
            return "WRONG RESULT", f"the next task returns {outcome.value!r} instead of {2 * number}"
    return "", ""


def conclude(contender: Contender, pool: Any, problem: str, note: str, *, ok: str = "ok") -> Verdict:
    """Make a verdict of what went wrong with the task, if anything, and of the state of the pool after it."""
    pool_problem, detail = next_problem(contender, pool)
    if pool_problem and problem in {"", pool_problem}:
        text = pool_problem
    elif pool_problem:
        text = f"{problem}, {pool_problem}"
    else:
        text = problem or ok
    return Verdict(text, not problem and not pool_problem, "; ".join(filter(None, (note, detail))))


# ----------------------------------------------------------------------------------------------------------- processes


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait for a condition; return whether it came to hold."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    """Answer whether a process exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})
    except psutil.Error:
        return False


def written_pid(path: Path, seconds: float = NEXT_SECONDS) -> int:
    """Wait until a task has written a process id into the file."""
    assert wait_until(lambda: path.exists() and path.read_text(), seconds), f"no task wrote {path.name}"
    return int(path.read_text())


PRELUDE = """\
import sys
sys.path.insert(0, {benchmarks!r})
import behaviour_tasks as tasks
from behaviour_contenders import CONTENDERS
contender, here = CONTENDERS[{contender!r}], {here!r}

"""


class Script:
    """A program of a user, in a process of its own, that leads a process group as a terminal's foreground job does.

    The text may use `tasks`, `contender` and `here`.
    """

    def __init__(self, contender: Contender, here: Path, text: str) -> None:
        self.mark = f"{os.environ[CELL_MARK]}-script"
        self._out, self._err = here / "script.out", here / "script.err"
        path = here / "script.py"
        benchmarks = str(Path(__file__).parent)
        path.write_text(PRELUDE.format(benchmarks=benchmarks, contender=contender.key, here=str(here)) + text)
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, str(path)], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env=os.environ | {SCRIPT_MARK: self.mark}, start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float) -> int | None:
        """Wait for the end and return the exit code, or None."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def interrupt(self) -> None:
        """Do what Ctrl-C in a terminal does: SIGINT to the whole process group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill the program, and only it."""
        self._process.kill()
        self._process.wait()

    def others(self) -> int:
        """Count the processes which the program has brought about and which live."""
        return sum(1 for process in marked(SCRIPT_MARK, self.mark) if process.pid != self._process.pid)

    @property
    def out(self) -> str:
        """What it has printed."""
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        """What it, or a worker, has written to stderr."""
        return self._err.read_text(errors="replace")
