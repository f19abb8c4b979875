"""What must be asked of the operating system about processes: the only importer of psutil."""

from __future__ import annotations

import time

import psutil

START_TICK = 0.02
"""The kernel tells when a process was started in steps of 10 ms."""
KILL_SECONDS = 3.0
"""How long kill_descendants() goes on: processes that fork while being killed need more than one round."""


def kill_descendants() -> None:
    """Kill every descendant of this process with SIGKILL, and those they fork meanwhile."""
    me = psutil.Process()
    until = time.monotonic() + KILL_SECONDS
    while time.monotonic() < until:
        living = [child for child in me.children(recursive=True) if _is_alive(child)]
        if not living:
            return
        for child in living:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue  # it ended between the listing and now
        psutil.wait_procs(living, timeout=0.1)


def kill_children_since(started: float) -> None:
    """Kill the descendants of this process that were started at or after a Unix time, and reap them."""
    since = started + _create_time_error() - START_TICK
    for child in psutil.Process().children(recursive=True):
        try:
            if child.create_time() >= since:
                child.kill()
                child.wait(timeout=1)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            continue


def _create_time_error() -> float:
    """Return how far create_time() is ahead of time.time(): Linux counts from the boot, known in whole seconds only."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return psutil.boot_time() - booted


def resident_memory() -> int:
    """Return how much memory this process has now, in bytes."""
    return int(psutil.Process().memory_info().rss)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
