"""How much memory a worker may use: a size above which it retires, and one that no task may pass.

The second is a limit of the kernel: an allocation beyond it fails, which Python tells the task as MemoryError at once.
To watch and kill would be too late for a task that takes 10 GB in a tenth of a second.
"""

from __future__ import annotations

import resource
import sys
import time

from .. import late

LOOK_SECONDS = 0.01
"""Between two looks at the size: one takes about 20 us."""

RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def max_rss() -> int:
    """Return this process's high-water mark of resident memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


class MemoryLimits:
    """Know the limits of this process, and whether it is above the first.

    Args:
        worker_max: bytes of resident memory above which the worker is to retire, or None.
        task_max: bytes of data that the process may have, or None.
    """

    def __init__(self, worker_max: int | None = None, task_max: int | None = None) -> None:
        self.worker_max = worker_max
        self.task_max = task_max
        self.is_spent = False
        """Set when it was too large, and after a MemoryError: what the task has freed the C library may keep, in pieces
        too small for the next, and the kernel counts it. And when an import was interrupted. The worker is of little
        use."""
        self._looked_at = 0.0
        self._outer = resource.getrlimit(resource.RLIMIT_DATA)  # what the worker itself has

    def impose(self) -> None:
        """Let the kernel enforce `task_max` from now on: while a task runs."""
        if self.task_max:
            soft, hard = self._outer
            within = self.task_max if soft == resource.RLIM_INFINITY else min(self.task_max, soft)
            resource.setrlimit(resource.RLIMIT_DATA, (within, hard))

    def lift(self) -> None:
        """Let the worker itself have what it needs: to receive, to send, to tell of an error."""
        if self.task_max:
            resource.setrlimit(resource.RLIMIT_DATA, self._outer)

    def is_exceeded(self) -> bool:
        """Answer whether this process is above `worker_max`, or spent; looks at most every LOOK_SECONDS."""
        if self.is_spent:
            return True
        if self.worker_max is None:
            return False
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = now
        with late.imports():
            from ..processes import resident_memory  # late: it imports psutil

        self.is_spent = resident_memory() > self.worker_max
        return self.is_spent

    def describe(self) -> str:
        """Return the limit of tasks in words."""
        return f"the worker may have {self.task_max} bytes of data (LocalLauncher(max_task_memory=...))"
