"""crew_executor: a concurrent.futures.Executor whose workers come and go with the work.

Importing it costs nothing: each public name is imported when it is first asked for, and pynng, cloudpickle, psutil and
tblib when they are needed. The supervisor, which imports the package too, must be up in a moment: it needs few of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import late as _late

if TYPE_CHECKING:
    from .errors import BrokenCrewError, CrewError, LaunchError, RemoteTaskError, TaskTimeoutError, WorkerCrashError
    from .executor import CrewExecutor
    from .futures import CrewFuture
    from .gauge import progress
    from .records import TaskRecord, TaskWarning
    from .stats import SeatStats, Stats, WorkerStats

__all__ = [
    "BrokenCrewError",
    "CrewError",
    "CrewExecutor",
    "CrewFuture",
    "LaunchError",
    "RemoteTaskError",
    "SeatStats",
    "Stats",
    "TaskRecord",
    "TaskTimeoutError",
    "TaskWarning",
    "WorkerCrashError",
    "WorkerStats",
    "progress",
]


_MODULES = {
    "BrokenCrewError": "errors",
    "CrewError": "errors",
    "CrewExecutor": "executor",
    "CrewFuture": "futures",
    "LaunchError": "errors",
    "RemoteTaskError": "errors",
    "SeatStats": "stats",
    "Stats": "stats",
    "TaskRecord": "records",
    "TaskTimeoutError": "errors",
    "TaskWarning": "records",
    "WorkerCrashError": "errors",
    "WorkerStats": "stats",
    "progress": "gauge",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    with _late.imports():
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
