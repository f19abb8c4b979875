"""A script as a client of its own: starts it, sends it signals, and finds every process that came of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from .helpers import wait_until

PRELUDE = """
import asyncio, concurrent.futures, os, signal, sys, time
from crew_executor import CrewExecutor

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
FOLDER = sys.argv[1]

def touch(name):
    open(os.path.join(FOLDER, str(name)), "w").close()

def ready():
    touch("ready")

def mark():
    touch(os.getpid())

def work(_number=0):
    mark()
    {how}
"""

HOWS = {"done": "", "asleep": "time.sleep(30)", "in python": "while True: pass", "in c": "sum(range(10**12))"}
"""What a task does: nothing, wait, hold the interpreter lock in turns, never let go of it."""


def new_mark() -> tuple[str, str]:
    """Return a variable and its value for the environment of a client: its processes are known by it."""
    return "CREW_TEST_CLIENT", uuid.uuid4().hex


def family_of(mark: tuple[str, str]) -> set[int]:
    """Return all processes with this mark: the client and whatever came of it, detached or not."""
    entry = "=".join(mark).encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if entry in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
    return found


def kill_family(mark: tuple[str, str]) -> None:
    """Kill whatever a failed test left."""
    while family := family_of(mark):
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def run_to_end(text: str) -> subprocess.CompletedProcess[str]:
    """Run a script, and leave no process of it; multiprocessing's resource tracker is the last."""
    mark = new_mark()
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", text]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=50, check=False, env={**os.environ, **dict([mark])}
        )
        wait_until(lambda: not family_of(mark), "no process of the script is left", 10)
    finally:
        kill_family(mark)
    return done


def wait_asleep(pid: int) -> None:
    """Wait until the main thread of a process waits, and has done so for some time.

    A signal that comes just before CPython begins to wait for a lock is noticed only when that wait is over (with any
    executor); these tests are not about that.
    """
    looks: deque[str] = deque(maxlen=5)

    def is_asleep() -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        looks.append("".join(re.findall(r"^(?:State|.*_ctxt_switches):.*", status, re.MULTILINE)))
        return looks.count(looks[0]) == looks.maxlen and "S (sleeping)" in looks[0]

    wait_until(is_asleep, "the main thread waits")


def script(body: str, how: str = "asleep", opening: str = "") -> str:
    """Return a script: the functions above, then the body, within the opening if that is a block."""
    opening = opening or "executor = CrewExecutor(2)"
    indent = "    " if opening.endswith(":") else ""
    return PRELUDE.format(how=HOWS[how]) + opening + "\n" + textwrap.indent(textwrap.dedent(body), indent)


class Client:
    """A running script.

    Args:
        text: the script; its only argument is a folder for the files that tell how far it is.
        folder: an empty directory of the test.
    """

    def __init__(self, text: str, folder: Path) -> None:
        self._mark = new_mark()
        self._marks = folder / "marks"
        self._marks.mkdir()
        self._errors = folder / "errors"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", text, str(self._marks)],
                stderr=errors,
                env={**os.environ, **dict([self._mark])},
                start_new_session=True,  # its group must not be that of the tests
            )
        self.pid = self._process.pid

    def wait_ready(self, processes: int = 2) -> None:
        """Wait until the script says so and so many processes of its tasks have marked that they run."""
        wait_until(lambda: self._is_ready(processes), "the script and its tasks are where they should be")

    def _is_ready(self, processes: int) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"the script ended too early:\n{self.errors()}")
        names = os.listdir(self._marks)
        return "ready" in names and len(names) > processes

    def wait_over(self, deadline: float = 10) -> int:
        """Wait for the end of the script and return its exit code."""
        wait_until(lambda: self._process.poll() is not None, "the script ends", deadline)
        return self._process.wait()

    def family(self) -> set[int]:
        """Return all processes that came of the script, and itself."""
        return family_of(self._mark)

    def errors(self) -> str:
        """Return what the script and its tasks wrote to stderr."""
        return self._errors.read_text()

    def reports(self) -> list[str]:
        """Return the tracebacks on stderr; exceptions that are chained are one."""
        chained = r"(?<!another exception occurred:\n\n)(?<!cause of the following exception:\n\n)"
        return re.split(rf"{chained}^Traceback", self.errors(), flags=re.MULTILINE)[1:]

    def close(self) -> None:
        """End whatever a failed test left."""
        kill_family(self._mark)
        self._process.wait()


@contextlib.contextmanager
def running(text: str, folder: Path) -> Iterator[Client]:
    """Run a script as a client, and leave nothing of it."""
    client = Client(text, folder)
    try:
        yield client
    finally:
        client.close()
