"""What tasks write: live on the client's streams, or on the record with options(capture_output=True)."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_executor import CrewExecutor, TaskTimeoutError, WorkerCrashError

from .helpers import DEADLINE, wait_until


@pytest.fixture(scope="module")
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(2) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_leaks() -> None:
    """The pool of these tests is one."""


def write(*texts: str) -> int:
    for text in texts:
        print(text)
    return len(texts)


def write_in_every_way() -> None:
    print("by print")
    print("to stderr", file=sys.stderr)
    sys.stdout.flush()
    os.write(1, b"by a descriptor\n")
    ctypes.CDLL(None).puts(b"by C")
    ctypes.CDLL(None).fflush(None)
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    print("without an end", end="")


def write_and_fail(error: type[Exception]) -> None:
    print("before the error")
    warnings.warn("look out", UserWarning, stacklevel=1)
    raise error("of the task")


def write_and_die() -> None:
    print("last words")
    print("and more", file=sys.stderr, end="")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_stay() -> None:
    print("I stay", flush=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        signal.pause()


def test_all_that_a_task_writes_is_on_its_record(executor: CrewExecutor, capfd: pytest.CaptureFixture[str]) -> None:
    future = executor.options(capture_output=True).submit(write_in_every_way)

    output = future.record().output if future.exception(timeout=DEADLINE) is None else None
    assert output == "by print\nto stderr\nby a descriptor\nby C\nby a child\nwithout an end"
    assert capfd.readouterr() == ("", "")


def test_of_other_tasks_nothing_is_kept(executor: CrewExecutor) -> None:
    future = executor.submit(write)

    assert future.result(timeout=DEADLINE) == 0
    assert future.record().output is None


def test_each_task_has_its_own(executor: CrewExecutor) -> None:
    view = executor.options(capture_output=True)
    futures = [view.submit(write, f"number {number}") for number in range(50)]

    assert [future.record().output for future in futures if future.result(timeout=DEADLINE)] == [
        f"number {number}\n" for number in range(50)
    ]


def test_a_task_that_writes_nothing_has_an_empty_text(executor: CrewExecutor) -> None:
    future = executor.options(capture_output=True, name="silent").submit(write)

    assert future.result(timeout=DEADLINE) == 0
    assert future.record().output == ""


def test_the_output_of_a_failed_task_is_kept_beside_its_error_and_its_warnings(executor: CrewExecutor) -> None:
    future = executor.options(capture_output=True).submit(write_and_fail, ValueError)

    record = future.record() if isinstance(future.exception(timeout=DEADLINE), ValueError) else None
    assert record is not None
    assert record.output == "before the error\n"
    assert [warning.message for warning in record.warnings] == ["look out"]


def test_with_retries_the_output_is_that_of_the_last_run(executor: CrewExecutor, tmp_path: Path) -> None:
    future = executor.options(capture_output=True, retries=1, retry_on=LookupError).submit(
        write_and_fail_once, str(tmp_path / "there")
    )

    assert future.result(timeout=DEADLINE) is None
    assert (future.record().output, future.record().attempts) == ("run again\n", 2)


def write_and_fail_once(path: str) -> None:
    if os.path.exists(path):
        print("run again")
        return
    Path(path).touch()
    write_and_fail(LookupError)


def test_the_last_words_of_a_task_that_killed_its_worker_are_on_its_record(executor: CrewExecutor) -> None:
    future = executor.options(capture_output=True).submit(write_and_die)

    assert isinstance(future.exception(timeout=DEADLINE), WorkerCrashError)
    assert future.record().output == "last words\nand more"


def test_the_output_of_a_task_that_had_to_be_killed_is_on_its_record(executor: CrewExecutor) -> None:
    future = executor.options(capture_output=True, timeout=0.2).submit(write_and_stay)

    assert isinstance(future.exception(timeout=DEADLINE), TaskTimeoutError)
    assert future.record().output == "I stay"


def write_much(lines: int) -> None:
    sys.stdout.writelines(f"line {number:9}\n" for number in range(lines))


def test_of_very_much_the_end_is_kept(executor: CrewExecutor) -> None:
    future = executor.options(capture_output=True).submit(write_much, 100_000)

    assert future.exception(timeout=DEADLINE) is None
    first, *_, last, _nothing = (future.record().output or "").split("\n")
    assert (first, last) == ("(500000 bytes are left out here)", "line     99999")


def test_what_is_not_caught_is_shown_live_also_without_the_end_of_a_line(tmp_path: Path) -> None:
    script = """
from crew_executor import CrewExecutor
def write():
    print("in the task", end="")
with CrewExecutor(1) as executor:
    executor.options(capture_output=True).submit(write).result()
    executor.submit(write).result()
    input()
"""
    (tmp_path / "script.py").write_text(script)
    shown = tmp_path / "shown"
    with (
        shown.open("wb") as file,
        subprocess.Popen([sys.executable, "script.py"], stdin=subprocess.PIPE, stdout=file, cwd=tmp_path) as process,
    ):
        wait_until(lambda: shown.read_bytes() == b"in the task", "the line is shown though it has no end")
        process.communicate(b"\n", timeout=DEADLINE)

    assert (process.returncode, shown.read_bytes()) == (0, b"in the task")


def test_output_is_shown_again_after_a_task_that_has_closed_its_streams(
    executor: CrewExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    with CrewExecutor(1) as own:
        future = own.options(capture_output=True).submit(close_streams)
        assert future.exception(timeout=DEADLINE) is None
        assert own.submit(os.write, 2, b"shown").result(timeout=DEADLINE) == 5

    assert (future.record().output, capfd.readouterr().err) == ("before\n", "shown")


def close_streams() -> None:
    print("before")
    os.close(1)
    os.close(2)
