"""crew_executor: a concurrent.futures.Executor whose workers come and go with the work.

Importing it is cheap: pynng, cloudpickle, psutil and tblib are imported at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import CrewError, LaunchError, RemoteTaskError, TaskTimeoutError
from .executor import CrewExecutor
from .futures import CrewFuture, TaskRecord, TaskWarning
from .stats import Stats, WorkerStats

if TYPE_CHECKING:
    from .errors import BrokenCrewError, WorkerCrashError

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


def __getattr__(name: str) -> Any:
    if name not in {"BrokenCrewError", "WorkerCrashError"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import errors

    return getattr(errors, name)
