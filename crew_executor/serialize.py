"""Calls and results to bytes and back: the only importer of cloudpickle.

Plain pickle is ten times faster than cloudpickle, but it names functions instead of carrying them. That is wrong for
whatever lives in a module that a worker does not have: `__main__`, and modules registered with
cloudpickle.register_pickle_by_value. So: pickle first; if the bytes mention such a module, or pickling fails,
cloudpickle. A string that happens to contain the name costs time, never correctness.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

PROTOCOL = 5
_MAIN = b"_main__"  # __main__, and __mp_main__: the main module as multiprocessing's children know it


def dumps(value: Any, reduce: Callable[[Any], Any] | None = None) -> bytes:
    """Pickle anything a user may hand over, functions of `__main__` and lambdas by value.

    Args:
        value: anything.
        reduce: asked first for each object, as pickle's reducer_override; NotImplemented leaves it to pickle.

    Raises:
        whatever cloudpickle raised.
    """
    try:
        data = pickle.dumps(value, PROTOCOL) if reduce is None else _dumps_with(value, reduce)
    except Exception:  # a lambda, a local class: cloudpickle may know better, or raises the error to report
        data = b""
    # Not in the except block: what cloudpickle raises is the whole story, and a Ctrl-C during it is no consequence.
    return dumps_by_value(value, reduce) if not data or is_by_value(data) else data


def _dumps_with(value: Any, reduce: Callable[[Any], Any]) -> bytes:
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, PROTOCOL)
    # The C pickler looks the method up on the instance when dump() begins.
    pickler.reducer_override = reduce  # type: ignore[method-assign]
    pickler.dump(value)
    return buffer.getvalue()


def load() -> None:
    """Import cloudpickle ahead of its first use."""
    import cloudpickle  # noqa: F401


def loads(data: Any) -> Any:
    """Unpickle; cloudpickle's bytes are ordinary pickles."""
    return pickle.loads(data)


def is_by_value(data: bytes) -> bool:
    """Answer whether a pickle mentions a module that workers do not have."""
    if _MAIN in data:
        return True
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return False  # nobody can have registered a module with it
    registered = cloudpickle.list_registry_pickle_by_value()
    return bool(registered) and any(name.encode() in data for name in registered)


def dumps_by_value(value: Any, reduce: Callable[[Any], Any] | None = None) -> bytes:
    """Pickle with cloudpickle.

    Args:
        value: anything.
        reduce: asked first for each object, as pickle's reducer_override; NotImplemented leaves it to cloudpickle.
    """
    import cloudpickle  # late: 15 ms that most programs need not pay

    main = sys.modules.get("__mp_main__")
    if main is not None and main.__name__ not in cloudpickle.list_registry_pickle_by_value():
        cloudpickle.register_pickle_by_value(main)
    buffer = io.BytesIO()
    pickler = cloudpickle.Pickler(buffer, PROTOCOL)
    if reduce is not None:
        by_value = pickler.reducer_override

        def reducer_override(obj: Any) -> Any:
            reduced = reduce(obj)
            return by_value(obj) if reduced is NotImplemented else reduced

        # The C pickler looks the method up on the instance when dump() begins.
        pickler.reducer_override = reducer_override
    pickler.dump(value)
    return buffer.getvalue()
