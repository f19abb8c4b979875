"""How many CPUs this process may use: the least of what each authority allows. Asks nobody but the operating system."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

_MEMBERSHIP = "/proc/self/cgroup"
_ROOT = "/sys/fs/cgroup"


def usable_cpus(membership: str = _MEMBERSHIP, root: str = _ROOT) -> int:
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


def _quotas(membership: str, root: str) -> Iterator[float]:
    """Yield the quota, in CPUs, of each control group that this process is in and that has one."""
    for line in _read(membership).splitlines():
        _number, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in _upward(root, path):
                yield from _quota_of(_read(f"{folder}/cpu.max").split())
        elif "cpu" in controllers.split(","):
            for mount in (f"{root}/cpu", f"{root}/{controllers}"):
                for folder in _upward(mount, path):
                    words = (_read(f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period"))
                    yield from _quota_of(" ".join(words).split())


def _upward(mount: str, path: str) -> Iterator[str]:
    """Yield a group's folder and those above it. In a container the group itself is often mounted as the root."""
    names = [name for name in path.split("/") if name]
    for number in range(len(names), -1, -1):
        yield "/".join([mount, *names[:number]])


def _read(path: str) -> str:
    """Return what is in a file; nothing if there is none, as on other systems than Linux."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def _quota_of(words: list[str]) -> Iterator[float]:
    """Yield CPUs from a quota and its period in microseconds; "max" and -1 are no quota."""
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]) > 0:
        yield int(words[0]) / int(words[1])
