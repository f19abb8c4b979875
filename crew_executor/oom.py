"""Whether the kernel has killed a process of this control group for memory: read from its oom_kill counter.

Linux only; elsewhere, and outside of a group with such a counter, nothing is known and nothing is said.
"""

from __future__ import annotations

import contextlib
import os

_MEMBERSHIP = "/proc/self/cgroup"
_ROOT = "/sys/fs/cgroup"


class OomCounter:
    """Compare the group's counter with what it was.

    Args:
        membership: the file that says which groups this process belongs to.
        root: where the groups are mounted.
    """

    def __init__(self, membership: str = _MEMBERSHIP, root: str = _ROOT) -> None:
        self._file = _find_counter(membership, root)
        self._known = 0
        self.rebase()

    def rebase(self) -> None:
        """Take the counter as it is now for what it was."""
        self._known = self._read()

    def verdict(self) -> str:
        """Return the verdict on a process that was just killed, in words, or "" if the counter has not risen.

        Each rise is spent on one death, so of two that die together both are told.
        """
        count = self._read()
        if count <= self._known:
            return ""
        self._known += 1
        return f"by the kernel for memory (the control group's oom_kill counter rose to {count})"

    def _read(self) -> int:
        if self._file is None:
            return 0
        with contextlib.suppress(OSError, ValueError):  # the group is gone, or its files look otherwise: not known
            # For each launch: without a buffer and a decoder it takes a third of the time.
            with open(self._file, "rb", buffering=0) as file:
                text = b"\n" + file.read(4096)
            return int(text.partition(b"\noom_kill ")[2].partition(b"\n")[0] or 0)
        return 0


def _lines_of(path: str) -> list[str]:
    with open(path) as file:
        return file.read().splitlines()


def _find_counter(membership: str, root: str) -> str | None:
    """Return the file with the counter: memory.events of version 2, memory.oom_control of version 1."""
    with contextlib.suppress(OSError, ValueError):  # no such files, or they look otherwise: nothing is known
        for line in _lines_of(membership):
            _number, controllers, path = line.split(":", 2)
            relative = path.lstrip("/")
            if not controllers:
                candidates = [os.path.join(root, relative, "memory.events"), os.path.join(root, "memory.events")]
            elif "memory" in controllers.split(","):
                candidates = [os.path.join(root, "memory", where, "memory.oom_control") for where in (relative, "")]
            else:
                continue
            for candidate in candidates:
                if os.path.exists(candidate):
                    return candidate
    return None
