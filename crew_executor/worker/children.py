"""Which child processes this worker has had before a task: what is there besides when it is stopped, it has started.

Cheap enough for a look after each task: one call of the kernel when there are none. Must not import psutil, which takes
20 ms and is needed only when a task is stopped.
"""

from __future__ import annotations

import os

from .. import late

START_SECONDS = 0.0002
"""Nobody starts a process in less: after shorter tasks there is nothing to look for. fork() alone takes 300 us here."""


class Children:
    """The children of this process that no running task has started."""

    def __init__(self) -> None:
        self.earlier: frozenset[int] = child_pids()

    def task_ended(self) -> None:
        """Count what is there now as left behind by earlier tasks; of no use after one shorter than START_SECONDS."""
        self.earlier = child_pids()

    def kill_new(self) -> None:
        """Kill what was started since, unless it was detached."""
        with late.imports():
            from ..processes import kill_children_except  # late: it imports psutil

        kill_children_except(self.earlier)


def child_pids() -> frozenset[int]:
    """Return the process ids of this process's children, those of all its threads."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return frozenset()
    except AttributeError:  # macOS before Python 3.13
        pass
    try:
        return frozenset(int(pid) for thread in os.listdir("/proc/self/task") for pid in _children_of(thread))
    except OSError:  # no /proc, or a kernel without this list
        with late.imports():
            from ..processes import child_pids as ask  # late: see above

        return ask()


def _children_of(thread: str) -> list[str]:
    try:
        with open(f"/proc/self/task/{thread}/children", encoding="utf-8") as file:
            return file.read().split()
    except FileNotFoundError:
        if os.path.exists(f"/proc/self/task/{thread}"):
            raise
        return []  # the thread has ended meanwhile; its children went to another
