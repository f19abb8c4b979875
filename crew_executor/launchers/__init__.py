"""Where workers come from. A launcher is found by its entry-point name or passed as an instance."""

from __future__ import annotations

from .base import Invitation, Launcher, WorkerExit
from .local import LocalLauncher

__all__ = ["Invitation", "Launcher", "LocalLauncher", "WorkerExit", "make_launcher"]

ENTRY_POINT_GROUP = "crew_executor.launchers"


def make_launcher(launcher: str | Launcher) -> Launcher:
    """Return a launcher for an executor.

    Args:
        launcher: an instance, or a name: "local", or one that a package registered as an entry point.

    Raises:
        ValueError: no launcher has this name; the text lists those that are known.
        TypeError: it is neither a name nor a launcher.
    """
    if isinstance(launcher, Launcher):
        return launcher
    if not isinstance(launcher, str):
        raise TypeError(f"launcher must be a name or a Launcher, not {type(launcher).__name__}")
    if launcher == "local":
        return LocalLauncher()
    from importlib.metadata import entry_points  # late: 20 ms

    found = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if launcher not in found:
        names = ", ".join(sorted({"local", *found}))
        raise ValueError(f"no launcher is named {launcher!r}; known are: {names}")
    made = found[launcher].load()()
    if not isinstance(made, Launcher):
        raise TypeError(f"the entry point {launcher!r} made a {type(made).__name__}, which is no Launcher")
    return made
