"""crew_executor: a concurrent.futures.Executor whose workers come and go with the work.

Importing it is cheap: pynng, cloudpickle, psutil and tblib are imported at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import CrewError, LaunchError, RemoteTaskError, TaskTimeoutError
from .executor import CrewExecutor
from .futures import CrewFuture

if TYPE_CHECKING:
    from .errors import BrokenCrewError, WorkerCrashError
    from .records import TaskRecord, TaskWarning
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


_LATE = {
    "BrokenCrewError": "errors",
    "WorkerCrashError": "errors",
    "Stats": "stats",
    "TaskRecord": "records",
    "TaskWarning": "records",
    "WorkerStats": "stats",
}
"""Where names are whose modules import more than most programs need."""


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
