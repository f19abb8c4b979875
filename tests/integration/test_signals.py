"""Signals that end the client: no worker is left, and nothing that a task has started. Each test runs a script.

Killing it in the middle of busy workers is tested in test_ends.py.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from . import clients
from .helpers import wait_until

FAMILY = """
def work_with_a_family():
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()  # a grandchild that leaves the worker's group
        mark()
        time.sleep(600)
        os._exit(0)
    work()

"""
"""Each task marks three processes; the worker is one of them, and idle workers may have been one for both tasks."""

BUSY = """
futures = [executor.submit(work_with_a_family) for _ in range(2)]
ready()
futures[0].result()
"""
IDLE = """
for future in [executor.submit(work_with_a_family) for _ in range(2)]:
    future.result()
ready()
time.sleep(600)
"""
EXITING = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
with CrewExecutor(2) as executor:
    futures = [executor.submit(work) for _ in range(1002)]
    ready()
    futures[0].result()
"""


def _end_and_expect_nothing_left(text: str, number: signal.Signals, folder: Path, marks: int) -> None:
    with clients.running(text, folder) as client:
        client.wait_ready(marks)
        os.kill(client.pid, number)

        assert client.wait_over() == -number
        wait_until(lambda: not client.family(), "no process of the client is left", 10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("how", ["asleep", "in python", "in c"])
def test_a_signal_to_a_client_with_busy_workers(how: str, number: signal.Signals, tmp_path: Path) -> None:
    _end_and_expect_nothing_left(clients.script(FAMILY + BUSY, how), number, tmp_path, 6)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=["SIGTERM", "SIGHUP", "SIGKILL"]
)
def test_a_signal_to_a_client_with_idle_workers(number: signal.Signals, tmp_path: Path) -> None:
    _end_and_expect_nothing_left(clients.script(FAMILY + IDLE, "done"), number, tmp_path, 5)


@pytest.mark.parametrize("how", ["asleep", "in python", "in c"])
def test_a_handler_that_exits_ends_what_runs_within_with(how: str, tmp_path: Path) -> None:
    with clients.running(clients.script(EXITING, how, opening="pass"), tmp_path) as client:
        client.wait_ready()
        clients.wait_asleep(client.pid)
        os.kill(client.pid, signal.SIGTERM)

        assert client.wait_over() == 3
        wait_until(lambda: not client.family(), "no process of the client is left", 10)
        assert "left by SystemExit: " in client.errors()
        assert client.errors().count("\n") == 1
