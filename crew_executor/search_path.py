"""Where workers look for modules: where the client looked when a call was submitted, if that has changed meanwhile."""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import Any

from . import serialize

_adopted: list[str] | None = None  # in a worker: what the client sent last


def current() -> list[str]:
    """Return a copy of sys.path."""
    return list(map(str, sys.path))


def attach(path: list[str], data: bytes) -> bytes:
    """Return the pickle of a call with sys.path at its side; unpickled, it is the call."""
    return pickle.dumps(_Attached(path, data), serialize.PROTOCOL)


class _Attached:
    def __init__(self, path: list[str], data: bytes) -> None:
        self.path, self.data = path, data

    def __reduce__(self) -> tuple[Any, ...]:
        return (_adopt, (self.path, self.data))


def _adopt(path: list[str], data: bytes) -> Any:
    global _adopted
    if path != _adopted:  # else what tasks have done to it since stays
        _adopted = path
        sys.path[:] = path
        importlib.invalidate_caches()  # a module may have been written a moment ago
    return serialize.loads(data)
