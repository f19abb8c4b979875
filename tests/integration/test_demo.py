"""The command `demo`, run as a user runs it: in a process of its own, on real files, to the end."""

import io
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from crew_executor import demo, demo_show, demo_tasks
from crew_executor.report import Report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SECONDS_MAX = 200.0
MARK = "CREW_EXECUTOR_DEMO_TEST"

needs_posix = pytest.mark.skipif(os.name != "posix", reason="Ctrl-C and closed pipes are sent the POSIX way")


class Finished(NamedTuple):
    """A demo that came to its end."""

    status: int
    out: str
    err: str
    left: list[str]  # processes of it that are still there


class Demo:
    """A running demo; every process that descends from it carries a mark in its environment."""

    def __init__(self, *arguments: str, cwd: Path, **environment: str) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crew_executor", "demo", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=cwd,
            env={**os.environ, MARK: self.mark, "PYTHONIOENCODING": "utf-8", **environment},
        )

    def finish(self) -> Finished:
        try:
            out, err = self.process.communicate(timeout=SECONDS_MAX)
        finally:
            self.process.kill()
        return Finished(self.process.returncode, out, err, self.wait_until_none_left())

    def wait_until_none_left(self, seconds_max: float = 10.0) -> list[str]:
        """Wait until the marked processes are gone; return what stays."""
        deadline = time.monotonic() + seconds_max
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def left(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {process.cmdline()}")
            except psutil.Error:  # somebody else's, or gone meanwhile
                continue
        return found


def lines_with(text: str, output: str) -> list[str]:
    return [line for line in output.splitlines() if text in line]


@pytest.fixture(scope="module")
def breaking(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One run for many facts."""
    return Demo("--quick", "--break", "--workers", "2", cwd=tmp_path_factory.mktemp("breaking")).finish()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one file of each kind."""
    root = tmp_path / "tree"
    (root / "package").mkdir(parents=True)
    (root / "package" / "good.py").write_text("def f(x):\n    return x\n", "utf-8")
    (root / "package" / "warns.py").write_text("x = 1\nassert (x, 'always true')\n", "utf-8")
    (root / "euro.py").write_text("price = €\n", "utf-8")
    (root / "undecodable.py").write_bytes(b"# coding: utf-8\n\n\nname = '\xff'\n")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "skipped.py").write_text("(", "utf-8")
    return root


def test_quick_demo_that_breaks_a_worker_succeeds_and_says_so(breaking: Finished) -> None:
    assert 0 == breaking.status, breaking.out + breaking.err
    assert "every check holds, no worker is left." in breaking.out.splitlines()[-1]
    assert [] == lines_with("FAILED", breaking.out)
    assert "" == breaking.err


def test_no_process_of_the_demo_is_left(breaking: Finished) -> None:
    assert [] == breaking.left


def test_pool_grows_from_none_and_shrinks_to_none(breaking: Finished) -> None:
    changes = [(int(before), int(after)) for before, after in re.findall(r"pool \w+ from (\d+) to (\d+)", breaking.out)]

    assert 0 == changes[0][0]
    assert 0 == changes[-1][1]
    assert {0, 1, 2} >= {after for _, after in changes}
    assert lines_with("ok      the idle pool shrank to 0", breaking.out)


def test_killed_worker_costs_its_own_task_only(breaking: Finished) -> None:
    [killed] = re.findall(r"killing worker process (\d+) in mid-task", breaking.out)

    assert [killed] == re.findall(r"its record: status crash, worker \S+, pid (\d+)", breaking.out)
    assert 1 == len(lines_with("WorkerCrashError: ", breaking.out))
    assert lines_with("ok      every result and every error is the serial run's", breaking.out)
    assert lines_with("ok      the pool took new work afterwards", breaking.out)


def test_workers_and_slowest_tasks_are_shown(breaking: Finished) -> None:
    workers = breaking.out.partition("\nWorkers\n")[2].partition("\n\n")[0].splitlines()
    slowest = breaking.out.partition("\nSlowest tasks\n")[2].partition("\n\n")[0].splitlines()

    assert ["name", "pid", "tasks", "busy", "s"] == workers[0].split()
    # 150 files, the killed task, and one more afterwards, which belongs to no file.
    assert 151 == sum(int(line.split()[2]) for line in workers[1:])
    assert 1 + demo_show.SHOWN_SLOWEST == len(slowest)
    assert re.search(r"speed-up \d+\.\d\dx", breaking.out)


def test_errors_and_warnings_come_from_the_files_with_frames_of_the_worker(tree: Path) -> None:
    run = Demo(str(tree), "--workers", "1", cwd=tree).finish()
    frames = [line.strip() for line in lines_with("demo_tasks.py:", run.out)]

    assert 0 == run.status, run.out + run.err
    assert run.out.startswith("4 files of 4 in ")
    assert "Errors that the files caused: 2" in run.out
    assert 1 == len(lines_with("tree/euro.py: SyntaxError: ", run.out))
    assert 1 == len(lines_with("undecodable.py: UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff", run.out))
    assert 2 == len(lines_with("raised in worker ", run.out))
    assert any(re.fullmatch(r"demo_tasks\.py:\d+ in parse_source: .*", frame) for frame in frames)
    assert 1 == len(lines_with("warns.py:2: SyntaxWarning: assertion is always true", run.out))
    # The pool shows a task's warnings in the client as well; the demo keeps that off its output.
    assert "" == run.err
    assert [] == run.left


def test_tree_without_errors_gets_none_invented(tree: Path) -> None:
    run = Demo(str(tree / "package" / "good.py"), cwd=tree).finish()

    assert 0 == run.status, run.out + run.err
    assert "Errors that the files caused: 0\n  every file could be read and compiled" in run.out
    assert "Warnings that the files caused: 0\n  no file made Python warn" in run.out


def test_ascii_output_shows_other_characters_escaped(tree: Path) -> None:
    run = Demo(str(tree), cwd=tree, PYTHONIOENCODING="ascii", TERM="dumb").finish()

    assert 0 == run.status, run.out + run.err
    assert r"'\u20ac'" in run.out


def test_tree_without_files_ends_with_a_clear_sentence(tmp_path: Path) -> None:
    run = Demo(str(tmp_path), cwd=tmp_path).finish()

    assert 1 == run.status
    assert "There is nothing to analyse" in run.out
    assert "" == run.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["no/such/place"], "'no/such/place' does not exist"),
        (["--workers", "0"], "'0' is not a number of workers, 1 or more"),
        (["--wrkers=1"], "unrecognized arguments: --wrkers=1"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    run = Demo(*arguments, cwd=tmp_path).finish()

    assert 2 == run.status
    assert complaint in run.err


@needs_posix
def test_ctrl_c_ends_it_with_130_and_without_a_traceback(tmp_path: Path) -> None:
    running = Demo("--workers", "2", cwd=tmp_path)
    assert running.process.stdout is not None
    for line in running.process.stdout:
        if "grew" in line:
            break
    running.process.send_signal(signal.SIGINT)
    run = running.finish()

    assert (130, "\ninterrupted\n") == (run.status, run.err)
    assert [] == run.left


@needs_posix
def test_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    """`python -m crew_executor demo | head -1`."""
    running = Demo(cwd=tmp_path)
    assert running.process.stdout is not None
    assert running.process.stderr is not None
    running.process.stdout.readline()
    running.process.stdout.close()
    with running.process.stderr as stderr:
        err = stderr.read()

    assert (1, "") == (running.process.wait(SECONDS_MAX), err)
    assert [] == running.wait_until_none_left()


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_progress_is_overwritten_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    report = Report(terminal)

    report.progress("10 files")
    report.progress("9")
    report.line("done")

    assert "\r10 files\r9       \r \rdone\n" == terminal.getvalue()


def test_progress_is_an_occasional_line_on_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    report = Report(terminal, seconds_between=1000.0)

    report.progress("10 files")

    assert "" == terminal.getvalue()


def test_analysis_counts_what_a_reader_of_the_file_would_count(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        "class A:\n    def f(self, x):\n        if x:\n            pass\n        elif x > 1:\n            pass\n"
        "        elif x > 2:\n            return [y for y in x]\n",
        "utf-8",
    )

    report = demo_tasks.analyse_file(str(source))

    # Nested: class, def, if; the elif branches lie beside the if, not within it.
    assert (8, 1, 1, 3, 4) == (report.lines, report.functions, report.classes, report.nesting, report.branches)


def test_expression_nested_too_deep_for_a_recursive_walk_is_measured(tmp_path: Path) -> None:
    source = tmp_path / "deep.py"
    source.write_text("x = " + "1 + " * 400 + "1\n", "utf-8")

    assert 803 <= demo_tasks.analyse_file(str(source)).tokens


def test_sample_holds_what_is_there_to_fail_and_spreads_over_the_rest() -> None:
    files = [Path(f"{number:03}.py") for number in range(100)] + [Path("z/badsyntax_1.py")]

    chosen = demo.sample(files, 11)

    assert [Path("z/badsyntax_1.py"), *(Path(f"{number:03}.py") for number in range(0, 100, 10))] == chosen
    assert set(files) == set(demo.sample(files, 1000))
