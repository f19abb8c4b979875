"""`ps --watch` on a terminal, with rich and without, and into a pipe."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_executor import CrewExecutor, registry

from .helpers import touch_and_wait, wait_until

__all__ = ["CrewExecutor", "fail", "touch_and_wait"]  # for the script, too

WITHOUT_RICH = (
    "import importlib.util, sys; find = importlib.util.find_spec; "
    "importlib.util.find_spec = lambda name, *more: None if name == 'rich' else find(name, *more); "
    "from crew_executor.__main__ import main; sys.exit(main(['ps', '--watch']))"
)
"""The command where rich is not installed."""
TABLE = ["-m", "crew_executor", "ps", "--watch"]


def fail(number: int) -> None:
    raise ValueError(f"number {number}")


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An executor with a busy worker and two failures; its supervisor is one of its own, found by the test alone."""
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "registry"))
    script = (
        "import sys\n"
        "from integration.test_watch import *\n"
        "with CrewExecutor(2, name='seen') as executor:\n"
        "    for number in range(2): executor.submit(fail, number).exception()\n"
        f"    executor.submit(touch_and_wait, {str(tmp_path / 'begun')!r}, {str(tmp_path / 'release')!r})\n"
    )
    tests = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as process:
        try:
            wait_until((tmp_path / "begun").exists, "the task runs")
            yield
        finally:
            (tmp_path / "release").touch()
            process.wait(30)


class Terminal:
    """A command on a terminal, and what it has written there."""

    def __init__(self, words: list[str]) -> None:
        master, self._end = pty.openpty()
        self._master = master
        os.set_blocking(master, False)
        self.written = ""
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdout=self._end,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def shows(self, words: str) -> bool:
        """Answer whether it has written this, its escapes left out."""
        with contextlib.suppress(OSError):  # there is no more now, or it is closed
            while data := os.read(self._master, 65536):
                self.written += data.decode(errors="replace")
        return words in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.written)

    def close(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.shows("")
            os.close(self._master)
            os.close(self._end)


@pytest.mark.parametrize("words", [TABLE, ["-c", WITHOUT_RICH]], ids=["rich", "plain"])
def test_a_terminal_shows_tasks_workers_rates_and_errors(watched: None, words: list[str]) -> None:
    if words is TABLE:
        pytest.importorskip("rich")
    terminal = Terminal(words)
    try:
        wait_until(lambda: terminal.shows("0/s"), "the second look was shown")
        for what in ("seen", "1 busy", "seen-1", "ValueError: number 1", "ValueError: number 0"):
            assert terminal.shows(what), terminal.written
    finally:
        status = terminal.close()

    assert status == 130
    assert terminal.shows("interrupted")
    if words is TABLE:
        assert "\x1b[?1049l" in terminal.written  # the other page was left


def test_a_pipe_gets_plain_lines(watched: None) -> None:
    with subprocess.Popen([sys.executable, *TABLE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        process.stdout.close()
        process.wait(30)

    assert re.match(
        r"run [0-9a-f]{16}  seen  \(client \d+\)  0 queued, 1 running, 2 done, 2 failed; workers:", lines[0]
    )
    assert "seen-1" in lines[1]
    assert "\x1b" not in "".join(lines)


def test_the_executor_counts_what_fails() -> None:
    with CrewExecutor(1) as executor:
        executor.submit(fail, 1).exception()
        executor.submit(os.abort).exception()
        executor.submit(len, "abc").result()
        announcer = executor._dispatcher._announcer

        assert announcer.failures == 2
        assert "ValueError: number 1" in announcer.last_failures[0]
        assert "SIGABRT" in announcer.last_failures[1]
