"""Every exception that crew_executor raises, split by whose fault it is.

Each message says who failed, in what state, and what to do. All of them survive pickling with their attributes. Those
that ProcessPoolExecutor's users expect are in broken.py, and imported when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .broken import BrokenCrewError, WorkerCrashError

__all__ = [
    "BrokenCrewError",
    "CrewError",
    "LaunchError",
    "ProtocolError",
    "RemoteTaskError",
    "TaskTimeoutError",
    "WorkerCrashError",
]


TOLD_TO_END = "the executor's workers were told to end"
"""Why a worker was killed by terminate_workers(), kill_workers() and the like; it stands in the errors of its tasks."""


def load() -> None:
    """Import broken.py ahead of its first use: as a pool breaks, or at the interpreter's end, an import may fail."""
    from . import broken  # noqa: F401


class CrewError(Exception):
    """The root of all exceptions of crew_executor."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only attributes live in __dict__; __init__ is not called again on the other side.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(cls: type[CrewError], args: tuple[Any, ...], attributes: dict[str, Any]) -> CrewError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class TaskTimeoutError(CrewError, TimeoutError):
    """The task ran longer than options(timeout=...) allows and was ended.

    Its frames are those of the task where it was interrupted. When it did not heed the interrupt (it was in C code, or
    caught it), its worker was killed; then there are none.
    """


class RemoteTaskError(CrewError):
    """The task's own exception or result could not travel to the client; here is what is known of it.

    Attributes:
        type_name: the qualified name of the original exception's class.
        text: str() of the original exception.
        traceback_text: the formatted traceback of the worker.
    """

    def __init__(self, message: str, *, type_name: str = "", text: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.text = text
        self.traceback_text = traceback_text


class LaunchError(CrewError):
    """A launcher could not bring a worker up; the text holds the command, the exit code and the tail of its output."""


class ProtocolError(CrewError):
    """The peer of a link broke the rules of the wire; the link is closed and its worker counts as lost."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import broken  # late: see there

    return getattr(broken, name)
