"""Fixtures of the integration tests: a test that leaves a process, thread, descriptor or socket file behind fails."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest

from crew_executor.launchers import ledger, supervisor_handle

from .helpers import wait_until

lasting: set[int] = set()
"""Processes that a library has started for as long as this process lives."""


def _own_processes() -> set[int]:
    """Return all descendants but the supervisor itself, which lives as long as this process."""
    handle = supervisor_handle.running()
    known = {resource_tracker._resource_tracker._pid} | lasting | (set() if handle is None else {handle.pid})
    return {child.pid for child in psutil.Process().children(recursive=True)} - known


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("crew-")} - {"crew-supervisor"}


def _descriptors() -> dict[str, str]:
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[entry] = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue  # the descriptor of the listing itself
    return found


@pytest.fixture(scope="session", autouse=True)
def _warm_up() -> None:
    """Start what lives as long as the process, so that no test is blamed for its descriptors."""
    from crew_executor import CrewExecutor

    # Ignored when the tests are run in the background or under nohup; the programs that tests start would inherit it.
    # Unit tests that run before, in this process, may have left a handler of the worker's.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    resource_tracker.ensure_running()
    with CrewExecutor(1) as executor:
        executor.submit(len, 3_000_000 * "x").result()  # more than a socket takes at once: NNG starts


@pytest.fixture(autouse=True)
def _no_leaks(_warm_up: None, tmp_path: Path) -> Iterator[None]:
    handle = supervisor_handle.running()
    before = _descriptors()
    files = set(Path("/dev/shm").glob("crew*"))
    # Not the fixture `monkeypatch`: what a test does with that must be undone before its other fixtures end.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ledger.FOLDER_VARIABLE, str(tmp_path / "ledger"))  # not the home directory
        yield
    gc.collect()
    wait_until(lambda: not _own_processes(), "all worker processes of the test are gone", 10)
    wait_until(lambda: not _threads(), "all threads of the test are gone", 10)
    if supervisor_handle.running() is handle:
        wait_until(lambda: len(_descriptors()) <= len(before), "all descriptors of the test are closed", 5)

    assert set(Path("/dev/shm").glob("crew*")) == files
