"""What controllers and groups of them have in common: how they wait, and what is done about a failure."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

from ..condition import may_hold
from .result import Result

may_hold(__file__)

ERROR_MODES = ("stop", "warn", "silent")
WAIT_MODES = ("all", "one")


def check_error_mode(error: str) -> None:
    """Raise ValueError unless it is one of ERROR_MODES."""
    if error not in ERROR_MODES:
        raise ValueError(f"error must be one of {', '.join(ERROR_MODES)}, not {error!r}")


def heed(result: Result, error: str, stacklevel: int = 3) -> Result:
    """Return the record of a task; raise its error or warn of it, at this level, if that is asked for."""
    if result.status != "success" and error != "silent":
        if error == "stop" and result.error is not None:
            raise result.error
        warnings.warn(describe(result), RuntimeWarning, stacklevel=stacklevel)
    return result


def describe(result: Result) -> str:
    """Return in a line what became of a task."""
    try:
        words = f"{type(result.error).__name__}: {result.error}" if result.error is not None else ""
    except Exception:  # of a __str__ of the user's: the record must be had all the same
        words = f"{type(result.error).__name__}, which cannot be told in words"
    return f"task {result.name}, {result.command}, status {result.status}: {words}"


def wait_for(
    condition: threading.Condition, is_so: Callable[[], bool], mode: str = "all", timeout: float | None = None
) -> bool:
    """Wait until something is so; return whether it is.

    Args:
        condition: notified whenever that may have changed.
        is_so: called with the condition held.
        mode: only checked: one of WAIT_MODES.
        timeout: seconds; None, or more than a thread can wait, for as long as it takes.
    """
    if mode not in WAIT_MODES:
        raise ValueError(f"mode must be one of {', '.join(WAIT_MODES)}, not {mode!r}")
    with condition:
        return condition.wait_for(is_so, None if timeout is None or timeout > threading.TIMEOUT_MAX else timeout)
