"""CREW_EXECUTOR_LOG: what a program writes to stderr with it, and that it writes nothing without."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import logging
from crew_executor import CrewExecutor

def shout():
    logging.getLogger("crew_executor.of.a.task").info("heard from the worker")

with CrewExecutor(1, name="told") as executor:
    executor.submit(shout).result()
"""


def stderr_of(level: str | None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "CREW_EXECUTOR_LOG"}
    if level is not None:
        environment["CREW_EXECUTOR_LOG"] = level
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=50, check=True, env=environment
    )
    assert run.stdout == ""
    return run.stderr


def test_debug_shows_workers_tasks_and_decisions() -> None:
    lines = stderr_of("debug").splitlines()

    for words in (
        "told: worker told-1 launched", " joined", "task __main__.shout: success, at told-1, began ", "gone: left",
        "; launch 1: 1 open tasks", "heard from the worker",
    ):  # fmt: skip
        assert len([line for line in lines if words in line]) == 1, (words, lines)
    assert all(line[2] == line[5] == ":" for line in lines), lines


@pytest.mark.parametrize("level", ["info", "INFO "])
def test_info_shows_no_events_but_what_is_logged(level: str) -> None:
    assert [line.split()[-4:] for line in stderr_of(level).splitlines()] == [["heard", "from", "the", "worker"]]


def test_without_it_there_is_nothing() -> None:
    assert stderr_of(None) == ""
    assert stderr_of("") == ""


def test_a_word_that_is_no_level_is_told() -> None:
    assert "CREW_EXECUTOR_LOG=loud is none of debug, info, warning, error" in stderr_of("loud")
