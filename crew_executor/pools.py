"""Which executor a pickled one stands for: itself in its own process, the front of its pool in one of its workers."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

_executors: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_joined: dict[int, Callable[[str, int], Any]] = {}


def add(run: int, executor: Any) -> None:
    """Note an executor of this process."""
    _executors[run] = executor


def join(run: int, make_front: Callable[[str, int], Any]) -> None:
    """Note that this process is a worker; `make_front` returns what its tasks can submit to."""
    _joined[run] = make_front


def find(run: int, name: str, max_workers: int) -> Any:
    """Return what an executor that was pickled is here.

    Args:
        run: tells executors apart.
        name, max_workers: the executor's.

    Raises:
        RuntimeError: this process is neither its client nor one of its workers.
    """
    if run in _joined:
        return _joined[run](name, max_workers)
    executor = _executors.get(run)
    if executor is None:
        raise RuntimeError(
            f"executor {name} cannot be used in process {os.getpid()}: a task can submit to the pool that runs it, and "
            "to executors of its own"
        )
    return executor
