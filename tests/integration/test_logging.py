"""What tasks log reaches the client's handlers, with the names of worker and task."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from crew_executor import CrewExecutor, TaskTimeoutError, WorkerCrashError

from .helpers import DEADLINE

SECONDS = DEADLINE


def log(level: int, text: str, *args: object, name: str = "of.a.task", **keywords: Any) -> int:
    logging.getLogger(name).log(level, text, *args, **keywords)
    return os.getpid()


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "of.a.task"]


def test_a_record_arrives_before_the_result_with_the_names_of_worker_and_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with CrewExecutor(1) as executor:
        future = executor.options(name="the third").submit(log, logging.WARNING, "%d of %s", 3, "many")
        pid = future.result(timeout=SECONDS)
        (record,) = (record for record in caplog.records if record.name == "of.a.task")

    assert (record.levelname, record.getMessage(), record.process) == ("WARNING", "3 of many", pid)
    fields = record.__dict__
    assert (fields["worker"], fields["task"], record.processName) == (
        future.record().worker,
        "the third",
        future.record().worker,
    )


def test_levels_of_the_client_decide_what_travels_also_when_they_change(caplog: pytest.LogCaptureFixture) -> None:
    with CrewExecutor(1) as executor:
        executor.submit(log, logging.INFO, "too low").result(timeout=SECONDS)
        caplog.set_level(logging.DEBUG)
        executor.submit(log, logging.DEBUG, "low enough").result(timeout=SECONDS)
        caplog.set_level(logging.ERROR)
        executor.submit(log, logging.WARNING, "too low again").result(timeout=SECONDS)

    assert texts(caplog) == ["low enough"]


def test_levels_of_single_loggers_count_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "of")
    with CrewExecutor(1) as executor:
        executor.submit(log, logging.DEBUG, "wanted").result(timeout=SECONDS)
        executor.submit(log, logging.DEBUG, "not wanted", name="other").result(timeout=SECONDS)

    assert texts(caplog) == ["wanted"]
    assert "not wanted" not in caplog.text


def configure(path: str) -> None:
    logging.basicConfig(filename=path, format="%(message)s", level=logging.INFO)


def test_handlers_that_an_initializer_sets_up_are_left_alone(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with CrewExecutor(1, initializer=configure, initargs=(str(path),)) as executor:
        executor.submit(log, logging.INFO, "for the file").result(timeout=SECONDS)

    assert (texts(caplog), path.read_text()) == ([], "for the file\n")


def test_what_an_initializer_logs_arrives(caplog: pytest.LogCaptureFixture) -> None:
    with CrewExecutor(1, initializer=log, initargs=(logging.WARNING, "beginning")) as executor:
        executor.submit(int).result(timeout=SECONDS)

    assert texts(caplog) == ["beginning"]


def log_from_elsewhere() -> None:
    thread = threading.Thread(target=log, args=(logging.WARNING, "from a thread"))
    thread.start()
    thread.join()
    pid = os.fork()
    if pid == 0:
        log(logging.WARNING, "from a forked process")
        os._exit(0)
    os.waitpid(pid, 0)
    log(logging.WARNING, "at last")


def test_threads_of_a_task_may_log_and_processes_of_it_harm_nobody(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with CrewExecutor(1) as executor:
        executor.submit(log_from_elsewhere).result(timeout=SECONDS)

    assert texts(caplog) == ["from a thread", "at last"]
    assert capfd.readouterr().err == "from a forked process\n"


def test_a_record_that_cannot_be_made_is_told_as_logging_does(capfd: pytest.CaptureFixture[str]) -> None:
    with CrewExecutor(1) as executor:
        assert executor.submit(log, logging.WARNING, "%d", "no number").result(timeout=SECONDS) > 0

    assert "--- Logging error ---" in capfd.readouterr().err


def log_and_die() -> None:
    log(logging.WARNING, "the last words")
    os._exit(3)


def test_the_last_words_are_shown_and_are_in_the_crash_report(caplog: pytest.LogCaptureFixture) -> None:
    with CrewExecutor(1) as executor:
        error = executor.submit(log_and_die).exception(timeout=SECONDS)

    assert isinstance(error, WorkerCrashError)
    assert "WARNING:of.a.task:the last words" in str(error)
    assert texts(caplog) == ["the last words"]


def test_records_are_no_output(caplog: pytest.LogCaptureFixture) -> None:
    with CrewExecutor(1) as executor:
        future = executor.options(capture_output=True).submit(log, logging.WARNING, "a record")
        future.result(timeout=SECONDS)

    assert (future.record().output, texts(caplog)) == ("", ["a record"])


def log_for_ever() -> None:
    while True:
        log(logging.WARNING, "on and on")


def test_an_interrupt_in_the_midst_of_logging_tears_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with CrewExecutor(1) as executor:
        pid = executor.submit(os.getpid).result(timeout=SECONDS)
        for _ in range(10):
            future = executor.options(timeout=0.05).submit(log_for_ever)
            assert isinstance(future.exception(timeout=SECONDS), TaskTimeoutError)
            caplog.clear()

        assert executor.submit(os.getpid).result(timeout=SECONDS) == pid, "the worker lives"


def test_without_any_handler_a_warning_is_shown_on_stderr_once(tmp_path: Path) -> None:
    script = """
import logging
from crew_executor import CrewExecutor
def log():
    logging.getLogger("here").warning("look out")
    logging.getLogger("here").info("of no interest")
with CrewExecutor(2) as executor:
    executor.submit(log).result()
"""
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, cwd=tmp_path, timeout=SECONDS, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "look out\n")


def log_by_module(text: str) -> None:
    logging.warning("first %s", text)  # noqa: LOG015  what is tested
    logging.getLogger("of.a.task").warning("second %s", text)


def test_the_functions_of_the_logging_module_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """logging.warning() calls basicConfig() where the root logger has no handler, as in a worker."""
    with CrewExecutor(1) as executor:
        for number in range(2):
            executor.submit(log_by_module, str(number)).result(timeout=SECONDS)

    ours = [record.getMessage() for record in caplog.records if record.name in ("root", "of.a.task")]
    assert ours == ["first 0", "second 0", "first 1", "second 1"]


def configure_by_default() -> int:
    logging.basicConfig()
    return len(logging.root.handlers)


def test_a_task_may_configure_its_workers_logging() -> None:
    with CrewExecutor(1) as executor:
        assert executor.submit(configure_by_default).result(timeout=SECONDS) == 1


class Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(f"cannot handle {record.getMessage()}")


def test_a_handler_that_raises_costs_no_task(capsys: pytest.CaptureFixture[str]) -> None:
    handler = Broken()
    logging.root.addHandler(handler)
    try:
        with CrewExecutor(1) as executor:
            pids = [executor.submit(log, logging.WARNING, "this").result(timeout=SECONDS) for _ in range(3)]
    finally:
        logging.root.removeHandler(handler)

    assert len(set(pids)) == 1
    assert capsys.readouterr().err.count("RuntimeError: cannot handle this") == 3
