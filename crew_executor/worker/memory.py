"""How much memory a worker may use: a size above which it retires, and one that no task may pass.

The second is a limit of the kernel: an allocation beyond it fails, which Python tells the task as MemoryError at once.
To watch and kill would be too late for a task that takes 10 GB in a tenth of a second.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator

LOOK_SECONDS = 0.01
"""Between two looks at the size: one takes about 20 us."""


class MemoryLimits:
    """Know the limits of this process, and whether it is above the first.

    Args:
        worker_max: bytes of resident memory above which the worker is to retire, or None.
        task_max: bytes of data that the process may have, or None.
    """

    def __init__(self, worker_max: int | None = None, task_max: int | None = None) -> None:
        self.worker_max = worker_max
        self.task_max = task_max
        self._looked_at = 0.0

    def impose(self) -> None:
        """Let the kernel enforce `task_max` from now on."""
        if self.task_max:
            _soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            within = self.task_max if hard == resource.RLIM_INFINITY else min(self.task_max, hard)
            resource.setrlimit(resource.RLIMIT_DATA, (within, hard))

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Give room to tell of an error while the memory of the failed task is still held by its frames."""
        if not self.task_max:
            yield
            return
        _soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        try:
            yield
        finally:
            self.impose()

    def is_exceeded(self) -> bool:
        """Answer whether this process is above `worker_max`; looks at most every LOOK_SECONDS."""
        if self.worker_max is None:
            return False
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = now
        from ..processes import resident_memory  # late: it imports psutil

        return resident_memory() > self.worker_max

    def describe(self) -> str:
        """Return the limit of tasks in words."""
        return f"the worker may have {self.task_max} bytes of data (LocalLauncher(max_task_memory=...))"
