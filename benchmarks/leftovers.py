"""Finds and kills what a measuring process has left behind: every process that carries its mark in the environment.

behaviour.py and benchmark.py give each of their measuring processes a mark; what those start inherits it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator

import psutil

_PR_SET_CHILD_SUBREAPER = 36


def marked(variable: str, value: str) -> Iterator[psutil.Process]:
    """Find the living processes whose environment, as they were started, has this variable. Zombies have none."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable, "").startswith(value):
                yield process
        except (psutil.Error, OSError):
            continue  # it ended meanwhile, or it is somebody else's


def kill_marked(variable: str, value: str) -> None:
    """Kill every process with this mark, until none is left: they may be starting more."""
    for _ in range(50):
        processes = list(marked(variable, value))
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not processes:
            return
        time.sleep(0.02)


def adopt_orphans() -> None:
    """Become the parent of what measuring processes leave behind, so that it can be collected. Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def collect_children(seconds: float = 2.0) -> None:
    """Wait for children that were killed. Those who call it have none that they still need."""
    until = time.monotonic() + seconds
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.02)
