"""What belongs to one process and cannot travel: each worker makes its own, where a global or a class has one.

A script's lock around a cache, its threading.local, a queue between its threads: with fork, the workers of a
ProcessPoolExecutor have a copy that nobody shares; with spawn, each makes one when it imports the script. So does this.
Not so for what a task is given as an argument: there a user means that very object, and is told that it cannot be sent.
"""

from __future__ import annotations

import _thread
import contextvars
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

_LOCK, _RLOCK = type(_thread.allocate_lock()), type(threading.RLock())


def reduction(item: Any) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """Return how a worker makes its own, as __reduce__ does; None for what is not of this kind."""
    make = _MAKERS.get(type(item))
    if make is not None:
        return make, ()
    if isinstance(item, contextvars.ContextVar):
        return _make_variable, (item.name, *_default_of(item))
    return None


def inside(item: Any) -> tuple[Any, ...] | None:
    """Return what of its inside goes to workers; None for what is not of this kind."""
    if type(item) in _MAKERS:
        return ()
    return _default_of(item) if isinstance(item, contextvars.ContextVar) else None


def _make_lock() -> Any:
    return threading.Lock()


def _make_rlock() -> Any:
    return threading.RLock()


_MAKERS: dict[type, Callable[[], Any]] = {
    _LOCK: _make_lock,
    _RLOCK: _make_rlock,
    threading.local: threading.local,
    queue.SimpleQueue: queue.SimpleQueue,
    weakref.WeakKeyDictionary: weakref.WeakKeyDictionary,
    weakref.WeakValueDictionary: weakref.WeakValueDictionary,
    weakref.WeakSet: weakref.WeakSet,
}


def _default_of(variable: contextvars.ContextVar[Any]) -> tuple[Any, ...]:
    try:
        return (contextvars.Context().run(variable.get),)
    except LookupError:
        return ()


def _make_variable(name: str, *default: Any) -> contextvars.ContextVar[Any]:
    if default:
        return contextvars.ContextVar(name, default=default[0])
    return contextvars.ContextVar(name)
