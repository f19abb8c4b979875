"""A crew under load while workers, supervisor and client are killed, frozen and stalled: nothing is lost or doubled.

CREW_EXECUTOR_CHAOS_SECONDS (default 30) says how long; CREW_EXECUTOR_CHAOS_SEED repeats what a failed run did, as far
as chance and not time decided. `-s` shows the report of a run that passed. Must end every process of the run, also
when it fails.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from integration.helpers import is_alive, wait_until

from . import client
from .client import Paths
from .health import compare_halves
from .ledger import Marks, check_books
from .monkey import Monkey

SECONDS = float(os.environ.get("CREW_EXECUTOR_CHAOS_SECONDS", "30"))
READY_SECONDS = 30.0
SETTLE_SECONDS = 3 * client.DRAIN_SECONDS + client.REST_SECONDS + 30.0
END_SECONDS = 20.0
SUPERVISOR_FDS_MAX = 40
"""A supervisor has 8 of its own, those of the launches that it is at, and some for each worker (monkey.py)."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(SECONDS + READY_SECONDS + SETTLE_SECONDS + 6 * END_SECONDS),
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="looks into /proc and signals through pidfds: Linux"),
]

_MARK = "CREW_EXECUTOR_CHAOS_MARK"
_TAIL_CHARS = 4000


class Run:
    """One client process and all that descends from it, known by a mark in the environment."""

    def __init__(self, directory: Path, seed: str) -> None:
        self.paths = Paths(directory)
        self.paths.temporary.mkdir()
        self._mark = secrets.token_hex(8)
        tests = Path(__file__).parents[1]
        environment = {
            **os.environ,
            _MARK: self._mark,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(tests), os.environ.get("PYTHONPATH")))),
            "TMPDIR": str(self.paths.temporary),
            # Large blocks go back to the system when freed, and threads share heaps: memory at rest is what is used.
            "MALLOC_MMAP_THRESHOLD_": "131072",
            "MALLOC_ARENA_MAX": "2",
        }
        with self.paths.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "chaos.client", str(directory), seed],
                cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_for(self, path: Path, what: str, seconds: float) -> None:
        """Wait for a file of the client's; fail when it ends before, or with its stacks when it takes too long."""
        try:
            wait_until(lambda: path.exists() or self.process.poll() is not None, what, seconds)
        except AssertionError:
            self.process.send_signal(signal.SIGUSR1)
            wait_until(self.paths.stacks.read_text, "the client shows its stacks", END_SECONDS)
            raise
        assert path.exists(), f"the client ended with {self.process.returncode} before: {what}"

    def living(self) -> list[str]:
        """Return every process of this run that lives, in words."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark and is_alive(process.pid):
                    found.append(f"{process.pid} (child of {process.ppid()}): {' '.join(process.cmdline())[:100]}")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def end(self) -> None:
        """Kill what lives, and what that has started meanwhile."""
        until = time.monotonic() + END_SECONDS
        while (living := self.living()) and time.monotonic() < until:
            for words in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(words.split()[0]), signal.SIGKILL)
            self.process.wait(END_SECONDS)

    def tails(self) -> str:
        """Return the ends of what the client wrote."""
        texts = []
        for path in (self.paths.output, self.paths.log, self.paths.stacks):
            if path.exists():
                texts.append(f"--- {path.name}:\n{path.read_text(errors='replace')[-_TAIL_CHARS:]}")
        return "\n".join(texts)


@pytest.fixture
def seed() -> str:
    return os.environ.get("CREW_EXECUTOR_CHAOS_SEED") or secrets.token_hex(4)


@pytest.fixture
def run(tmp_path: Path, seed: str) -> Iterator[Run]:
    # pytest's own watch over tests that hang would end a long run; this one waits with deadlines alone.
    faulthandler.cancel_dump_traceback_later()
    run = Run(tmp_path, seed)
    try:
        yield run
    finally:
        run.end()


def test_nothing_is_lost_doubled_or_left_behind(run: Run, seed: str) -> None:
    monkey = Monkey(run.process.pid, seed)
    again = f"again with CREW_EXECUTOR_CHAOS_SEED={seed} CREW_EXECUTOR_CHAOS_SECONDS={SECONDS:g}"
    problems: list[str] = []
    try:
        run.wait_for(run.paths.ready, "the client is ready", READY_SECONDS)
        try:
            monkey.run(SECONDS, is_over=lambda: run.paths.settled.exists() or run.process.poll() is not None)
        finally:
            monkey.release()
        run.paths.stop.touch()
        run.wait_for(run.paths.settled, "all futures are done, all workers have left", SETTLE_SECONDS)
        findings = json.loads(run.paths.settled.read_text())
        if not findings.pop("is hopeless"):
            run.wait_for(run.paths.shut, "the executor is shut down", END_SECONDS)
            problems += _what_is_left(run)
    except AssertionError as error:
        pytest.fail(f"{error}\n{again}\n{dict(monkey.counts)}\n{run.tails()}")

    found, counts = check_books(
        Marks(run.paths.marks), run.paths.verdicts, monkey.killed, monkey.counts["supervisors killed"]
    )
    grown, figures = compare_halves(run.paths.samples)
    problems = [*findings.pop("problems"), *found, *grown, *problems, *_tracebacks(run.paths.output)]
    if monkey.supervisor_fds_most > SUPERVISOR_FDS_MAX:
        problems.append(f"a supervisor had {monkey.supervisor_fds_most} descriptors, those of its workers not counted")
    report = _report(seed, findings, monkey, counts, figures)
    print(f"\n{report}")

    assert not problems, "\n".join(["", *problems, again, report, run.tails()])


def _what_is_left(run: Run) -> list[str]:
    """Look for processes and files, first beside the client whose executor is shut down, then after its end."""
    problems = []
    supervisors = [child.pid for child in psutil.Process(run.process.pid).children()]
    expected = 1 + len(supervisors)
    if not _comes_true(lambda: len(run.living()) <= expected):
        problems.append(f"left after shutdown(): {run.living()}, the client being {run.process.pid}")
    if len(supervisors) != 1:
        problems.append(f"the client has children: {supervisors}")
    run.paths.leave.touch()
    if not _comes_true(lambda: run.process.poll() is not None):
        problems.append("the client does not end")
    elif run.process.returncode != 0:
        problems.append(f"the client ended with {run.process.returncode}")
    if not _comes_true(lambda: not run.living()):
        problems.append(f"left after the client's end: {run.living()}")
    files = [str(path) for path in run.paths.temporary.rglob("*")]
    if files:
        problems.append(f"temporary files are left: {files[:20]}")
    return problems


def _tracebacks(output: Path) -> list[str]:
    """Return what client, supervisors and workers have printed of errors: nothing the monkey does justifies one."""
    text = output.read_text(errors="replace")
    found = [text[match.start() :][:_TAIL_CHARS] for match in re.finditer(r"Traceback \(most recent call last\)", text)]
    return [f"printed, {len(found)} times: {words}" for words in found[:3]]


def _comes_true(condition: Callable[[], bool]) -> bool:
    try:
        wait_until(condition, "", END_SECONDS)
    except AssertionError:
        return False
    return True


def _report(seed: str, findings: dict[str, Any], monkey: Monkey, counts: dict[str, int], figures: list[str]) -> str:
    lines = [f"chaos: {SECONDS:g} s, seed {seed}, {len(monkey.killed)} workers killed"]
    figures_of_monkey = {**dict(sorted(monkey.counts.items())), "supervisors seen": len(monkey.supervisors)}
    figures_of_monkey["most descriptors of a supervisor"] = monkey.supervisor_fds_most
    for title, values in (
        ("settings", findings.pop("settings")),
        ("futures and items", counts),
        ("by kind", dict(sorted(findings.pop("verdicts").items()))),
        ("monkey", figures_of_monkey),
        ("client", findings),
    ):
        lines.append(f"{title}: {', '.join(f'{name} {value}' for name, value in values.items())}")
    return "\n".join([*lines, *figures])
