"""What must be asked of the operating system about processes: the only importer of psutil."""

from __future__ import annotations

import os
import socket
import time

import psutil

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


def is_supervisor(pid: int, client_pid: int) -> bool:
    """Answer whether a process is the supervisor of a client, and this user's."""
    try:
        process = psutil.Process(pid)
        if process.uids().real != os.getuid() or process.ppid() != client_pid:
            return False
        return any("crew_executor.supervisor" in word for word in process.cmdline())
    except psutil.Error:  # it has ended, or is none of ours
        return False


def began_at(pid: int) -> float | None:
    """Return when a process began, in seconds since the epoch; None if it is not there, or not any more."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def child_pids() -> frozenset[int]:
    """Return the process ids of this process's children."""
    return frozenset(child.pid for child in psutil.Process().children())


def kill_children_except(earlier: frozenset[int]) -> None:
    """Kill the children of this process, with their descendants, that are not among the earlier ones; and reap them.

    Those in a process group of their own are left alone: they were detached on purpose.
    """
    group = os.getpgrp()
    for child in psutil.Process().children():
        if child.pid not in earlier:
            _kill_family(child, group)


def _kill_family(process: psutil.Process, group: int) -> None:
    try:
        if os.getpgid(process.pid) != group:
            return
        family = process.children()
        process.kill()
        for child in family:
            _kill_family(child, group)
        process.wait(timeout=1)
    except (psutil.NoSuchProcess, ProcessLookupError, psutil.TimeoutExpired):
        return  # it ended by itself


def resident_memory() -> int:
    """Return how much memory this process has now, in bytes."""
    return int(psutil.Process().memory_info().rss)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def interface_addresses() -> dict[str, list[str]]:
    """Return this machine's IPv4 addresses, by the names of its interfaces; those that are down left out."""
    stats = psutil.net_if_stats()
    return {
        name: [address.address for address in addresses if address.family == socket.AF_INET]
        for name, addresses in psutil.net_if_addrs().items()
        if name not in stats or stats[name].isup
    }
