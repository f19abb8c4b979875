"""What calls bring along of the client's process, if it has changed since: sys.path, and the levels of its loggers.

A worker has both from when it was launched.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import Any, Protocol

from . import serialize


class _RootLogger(Protocol):
    @property
    def level(self) -> int: ...


class Surroundings:
    """Notice changes in this process.

    Args:
        root: the root logger, or what knows its level where logging is not imported yet.
    """

    def __init__(self, root: _RootLogger) -> None:
        self._path = current_path()
        self._root = root
        self._level = root.level
        self._is_changed = False  # and stays so, though it may become again what it was

    def have_changed(self) -> bool:
        """Answer whether calls must bring something along.

        Of levels that were set only that of the root logger is looked at: this is done for each call.
        """
        if not self._is_changed and (sys.path != self._path or self._root.level != self._level):
            self._is_changed = True
        return self._is_changed

    def attach(self, data: bytes) -> bytes:
        """Return the pickle of a call, with what has changed at its side; unpickled, it is the call."""
        if self.have_changed():
            return pickle.dumps(_Attached(current_path(), _log_records().current_levels(), data), serialize.PROTOCOL)
        return data


def _log_records() -> Any:
    """Return the module: late, for it imports logging, which is set up with the help of that module (LogSetup)."""
    import logging  # noqa: F401  first: what sets it up would find half a module else

    from . import log_records

    return log_records


def current_path() -> list[str]:
    """Return a copy of sys.path."""
    return list(map(str, sys.path))


class _Attached:
    def __init__(self, path: list[str], levels: dict[str, Any], data: bytes) -> None:
        self.path, self.levels, self.data = path, levels, data

    def __reduce__(self) -> tuple[Any, ...]:
        return (_adopt, (self.path, self.levels, self.data))


# ---------------------------------------------------------------------- in the worker

_adopted: list[str] | None = None  # what the client sent last


def _adopt(path: list[str], levels: dict[str, Any], data: bytes) -> Any:
    global _adopted
    if path != _adopted:  # else what tasks have done to it since stays
        _adopted = path
        sys.path[:] = path
        importlib.invalidate_caches()  # a module may have been written a moment ago
    _log_records().adopt_levels(levels)
    return serialize.loads(data)
