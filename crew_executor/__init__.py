"""crew_executor: a concurrent.futures.Executor whose workers come and go with the work.

Importing it is cheap: pynng, cloudpickle, psutil and tblib are imported at first use.
"""

from __future__ import annotations

from .errors import (
    BrokenCrewError,
    CrewError,
    LaunchError,
    RemoteTaskError,
    TaskTimeoutError,
    WorkerCrashError,
)
from .executor import CrewExecutor
from .futures import CrewFuture, TaskRecord, TaskWarning
from .stats import Stats, WorkerStats

__all__ = [
    "BrokenCrewError",
    "CrewError",
    "CrewExecutor",
    "CrewFuture",
    "LaunchError",
    "RemoteTaskError",
    "Stats",
    "TaskRecord",
    "TaskTimeoutError",
    "TaskWarning",
    "WorkerCrashError",
    "WorkerStats",
]
