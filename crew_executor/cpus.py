"""How many CPUs this process may use: the least of what each authority allows. Asks nobody but the operating system."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_MEMBERSHIP = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def usable_cpus(membership: Path = _MEMBERSHIP, root: Path = _ROOT) -> int:
    """Return the number of CPUs that this process may use, at least 1.

    The least of: its affinity, else the machine's CPUs; the quota of its control groups (containers), rounded up; what
    Slurm has given to each task of a job (SLURM_CPUS_PER_TASK).

    Args:
        membership: the file that says which control groups this process belongs to.
        root: where the groups are mounted.
    """
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    limits += [math.ceil(quota) for quota in _quotas(membership, root)]
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdecimal():
        limits.append(int(slurm))
    return max(1, min(limits))


def _quotas(membership: Path, root: Path) -> Iterator[float]:
    """Yield the quota, in CPUs, of each control group that this process is in and that has one."""
    try:
        lines = membership.read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in _upward(root, path):
                yield from _quota_of(_words(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for mount in (root / "cpu", root / controllers):
                for folder in _upward(mount, path):
                    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
                    yield from _quota_of(quota + period)


def _upward(mount: Path, path: str) -> Iterator[Path]:
    """Yield a group's folder and those above it. In a container the group itself is often mounted as the root."""
    folder = mount / path.lstrip("/")
    while True:
        yield folder
        if folder == mount:
            return
        folder = folder.parent


def _words(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8").split()
    except OSError:
        return []


def _quota_of(words: list[str]) -> Iterator[float]:
    """Yield CPUs from a quota and its period in microseconds; "max" and -1 are no quota."""
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]) > 0:
        yield int(words[0]) / int(words[1])
