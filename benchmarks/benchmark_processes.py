"""What the kernel says of the processes of a pool: their memory and their CPU time. Linux only."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import psutil
from leftovers import marked

MARK = "CREW_EXECUTOR_BENCHMARK_MARK"
"""The environment variable by which a measuring process, and all that it has started, is found."""


def processes_of_this_measurement() -> dict[int, psutil.Process]:
    """Find this process and all that descends from it and lives, also what has another parent by now."""
    mark = os.environ.get(MARK)
    found = {process.pid: process for process in marked(MARK, mark)} if mark else {}
    own = psutil.Process()
    found |= {process.pid: process for process in [own, *own.children(recursive=True)]}
    return {pid: process for pid, process in found.items() if _is_alive(process)}


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def pss_bytes(pid: int) -> int:
    """Return the memory of a process; what several processes share is shared out among them."""
    with contextlib.suppress(OSError):  # it ended meanwhile
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
        if found := re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE):
            return int(found[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process that live, finer than the clock ticks of psutil."""
    total = 0
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text("ascii").split()[0])
    return total / 1e9
