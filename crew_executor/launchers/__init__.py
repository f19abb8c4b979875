"""Where workers come from. A launcher is found by its entry-point name or passed as an instance."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .base import (
    BaseLauncher,
    Invitation,
    Job,
    JobState,
    JobStatus,
    Launcher,
    LaunchRetry,
    SubmitTimeout,
    WorkerExit,
)
from .equipment import Equipment, Outfit
from .local import LocalLauncher

if TYPE_CHECKING:
    from .aws_batch import AWSBatchLauncher
    from .dask import DaskLauncher
    from .kubernetes import KubernetesLauncher
    from .lsf import LSFLauncher
    from .mpi import MPILauncher
    from .pbs import PBSLauncher
    from .ray import RayLauncher
    from .script import ScriptLauncher
    from .sge import SGELauncher
    from .slurm import SlurmLauncher
    from .ssh import SSHLauncher

__all__ = [
    "AWSBatchLauncher",
    "BaseLauncher",
    "DaskLauncher",
    "Equipment",
    "Invitation",
    "Job",
    "JobState",
    "JobStatus",
    "KubernetesLauncher",
    "LSFLauncher",
    "LaunchRetry",
    "Launcher",
    "LocalLauncher",
    "MPILauncher",
    "Outfit",
    "PBSLauncher",
    "RayLauncher",
    "SGELauncher",
    "SSHLauncher",
    "ScriptLauncher",
    "SlurmLauncher",
    "SubmitTimeout", "WorkerExit",
    "make_launcher", "named_class",
]  # fmt: skip

ENTRY_POINT_GROUP = "crew_executor.launchers"


_BY_NAME = {
    "dask": "DaskLauncher", "lsf": "LSFLauncher", "mpi": "MPILauncher", "pbs": "PBSLauncher", "ray": "RayLauncher",
    "sge": "SGELauncher", "slurm": "SlurmLauncher",
}  # fmt: skip
"""What the names stand for that need no options; "local" is one more. SSHLauncher, for one, needs hosts."""

_LATE = {
    "AWSBatchLauncher": "aws_batch", "DaskLauncher": "dask", "KubernetesLauncher": "kubernetes", "LSFLauncher": "lsf",
    "MPILauncher": "mpi", "PBSLauncher": "pbs", "RayLauncher": "ray", "SGELauncher": "sge", "SSHLauncher": "ssh",
    "ScriptLauncher": "script", "SlurmLauncher": "slurm",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATE:  # most never need any
        return getattr(importlib.import_module(f".{_LATE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def make_launcher(launcher: str | BaseLauncher) -> BaseLauncher:
    """Return a launcher for an executor.

    Args:
        launcher: an instance, or a name: "local", "slurm", "sge", "pbs", "lsf", "mpi", "dask", "ray", or one that a
            package registered as an entry point.

    Raises:
        ValueError: no launcher has this name, and the text lists those that are known; or it needs options.
        TypeError: it is neither a name nor a launcher.
    """
    if isinstance(launcher, BaseLauncher):
        if not hasattr(launcher, "max_failed_launches"):
            raise TypeError(f"{type(launcher).__name__}.__init__() must call super().__init__(), with its options")
        return launcher
    if not isinstance(launcher, str):
        raise TypeError(f"launcher must be a name or a Launcher, not {type(launcher).__name__}")
    if launcher == "local" or launcher in _BY_NAME:
        return named_class(launcher)()
    from importlib.metadata import entry_points  # late: 20 ms

    found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if launcher not in found:
        names = ", ".join(sorted({"local", *_BY_NAME, *found}))
        raise ValueError(f"no launcher is named {launcher!r}; known are: {names}")
    kind = found[launcher].load()
    needed = _arguments_needed(kind)
    if needed:
        raise ValueError(f"the launcher {launcher!r} needs options: give launcher={kind.__name__}({needed[0]}=...)")
    made = kind()
    if not isinstance(made, BaseLauncher):
        raise TypeError(f"the entry point {launcher!r} made a {type(made).__name__}, which is no Launcher")
    return made


def _arguments_needed(kind: Any) -> list[str]:
    import inspect  # late: most need none

    try:
        parameters = inspect.signature(kind).parameters.values()
    except ValueError:  # written in C: it says so itself
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]


def named_class(name: str) -> type[BaseLauncher]:
    """Return the class that a name of ours stands for.

    Raises:
        KeyError: it stands for none.
    """
    kind: type[BaseLauncher] = LocalLauncher if name == "local" else __getattr__(_BY_NAME[name])
    return kind
