"""Workers and the terminal that the client was started in: what is typed there is for the client."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_executor import CrewExecutor

from .clients import family_of, kill_family, new_mark
from .helpers import wait_until

READS_TERMINAL = """
import os, sys
from crew_executor import CrewExecutor

def read():
    try:
        with open("/dev/tty") as terminal:
            return terminal.readline()
    except OSError as error:
        return error.errno

with CrewExecutor(1) as executor:
    with open(sys.argv[1], "w") as file:
        file.write(str(executor.submit(read).result(30)))
"""

IS_INTERRUPTED = """
import os, signal, sys, time
from crew_executor import CrewExecutor

FOLDER = sys.argv[1]

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGHUP, interrupt)

def work(go):
    open(os.path.join(FOLDER, "working"), "w").close()
    while not os.path.exists(go):
        time.sleep(0.01)
    return "the worker's own"

with CrewExecutor(1) as executor:
    future = executor.submit(work, os.path.join(FOLDER, "go"))
    try:
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        open(os.path.join(FOLDER, "interrupted"), "w").close()
    with open(os.path.join(FOLDER, "result"), "w") as file:
        file.write(future.result(30))
"""


@contextlib.contextmanager
def in_terminal(script: str, argument: Path) -> Iterator[int]:
    """Run a script in a terminal of its own, which the yielded descriptor types into."""
    mark = new_mark()
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.execve(sys.executable, [sys.executable, "-c", script, str(argument)], {**os.environ, **dict([mark])})
        finally:
            os._exit(127)
    try:
        yield terminal
        os.waitpid(pid, 0)
        wait_until(lambda: not family_of(mark), "no process of the script is left", 10)
    finally:
        kill_family(mark)
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(terminal)


def text_of(path: Path) -> str:
    wait_until(lambda: path.exists() and path.read_text() != "", f"{path.name} is written", 30)
    return path.read_text()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # pty.fork() execs at once
def test_a_task_has_no_terminal_to_wait_for(tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    with in_terminal(READS_TERMINAL, answer):
        assert text_of(answer) == str(errno.ENXIO)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("what", ["Ctrl-C", "hang-up"])
def test_what_happens_to_the_terminal_is_for_the_client(what: str, tmp_path: Path) -> None:
    with in_terminal(IS_INTERRUPTED, tmp_path) as terminal:
        wait_until((tmp_path / "working").exists, "the task runs", 30)
        if what == "Ctrl-C":
            os.write(terminal, b"\x03")
        else:
            os.close(terminal)
        wait_until((tmp_path / "interrupted").exists, "the client is interrupted", 30)
        (tmp_path / "go").touch()

        assert text_of(tmp_path / "result") == "the worker's own"


AUTOGROUP = Path("/proc/self/autogroup")


def autogroup() -> str:
    return AUTOGROUP.read_text()


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="the kernel does not divide CPU time among sessions")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Popen has no process_group before Python 3.11")
def test_client_and_workers_share_the_cpus_as_one() -> None:
    with CrewExecutor(1) as executor:
        assert executor.submit(autogroup).result() == autogroup()
