"""Shared by the integration tests: one way to wait for a condition, and functions for workers to run."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

DEADLINE = 30.0
"""Seconds any wait of a test may take on the slowest machine; a test that needs more is wrong."""


def wait_until(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Wait until a condition holds, or fail saying what did not happen."""
    pause = threading.Event()
    until = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"within {deadline:g} s this did not happen: {what}")
        pause.wait(0.005)


def is_alive(pid: int) -> bool:
    """Answer whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


# ---------------------------------------------------------------------- run in workers


def identity(value: object) -> object:
    """Return the argument."""
    return value


def add(left: int, right: int) -> int:
    """Return the sum."""
    return left + right


def die(number: int = signal.SIGKILL) -> None:
    """Kill this process with a signal."""
    os.kill(os.getpid(), number)


def exit_now(code: int) -> None:
    """End this process without any Python exit."""
    os._exit(code)


def die_unless(path: str) -> str:
    """Kill this process unless be_big() has been called in it with this word; else say "done"."""
    if os.environ.get("CREW_TEST_BIG") != path:
        die()
    return "done"


def be_big(path: str) -> None:
    """Make this process fit for die_unless()."""
    os.environ["CREW_TEST_BIG"] = path


def touch_and_wait(started: str, release: str) -> int:
    """Make the file `started`, wait for the file `release`, return the pid."""
    new = Path(f"{started}.new")
    new.write_text(str(os.getpid()))
    new.rename(started)  # whoever sees the file finds the pid in it
    wait_until(Path(release).exists, f"{release} appears")
    return os.getpid()


def append_line(path: str, line: str) -> str:
    """Append a line to a file in one write: counts side effects across processes."""
    with open(path, "a") as file:
        file.write(line + "\n")
    return line


def warn(text: str) -> str:
    """Cause a UserWarning."""
    warnings.warn(text, UserWarning, stacklevel=1)
    return text


class TwoArguments(Exception):
    """An ordinary exception whose __init__ does not fit its args."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")
        self.left = left
        self.right = right


def fail_with_cause() -> None:
    """Raise a TwoArguments from a ZeroDivisionError."""
    try:
        1 / 0  # noqa: B018  the error is wanted
    except ZeroDivisionError as error:
        raise TwoArguments("one", "two") from error


class FailsToPickle:
    """Cannot be pickled."""

    def __reduce__(self) -> tuple[object, ...]:
        raise ValueError("does not want to be pickled")


class FailsToUnpickle:
    """Can be pickled, not unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_fail_to_unpickle, ())


def _fail_to_unpickle() -> None:
    raise ValueError("does not want to be unpickled")


def make(cls: type) -> object:
    """Return an instance."""
    return cls()
