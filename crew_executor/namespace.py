"""The globals of functions that travel by value: each worker has one namespace for each module that it lacks.

A call from a script or notebook carries, beside its own pickle, a table of the globals that its functions use: module,
name and pickled value; table.py makes it. The worker puts a value into the module's namespace only if the client has
changed it since (RULES 23): what an initializer or an earlier task has set there, in place of it or inside it, stays.
All functions of the module see that namespace as their globals, as they do at home. For `__main__` it is the worker's
own `__main__`.

    client:  pickle of the call + [(module, name, pickled value), ...]
    worker:  classes, functions, other values, in this order, each if its bytes are new -> namespace; then the call
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from . import serialize
from .buffers import Buffers
from .notes import add_note
from .places import CACHED, Key, is_home, place_of
from .recent import Recent

Entry = tuple[tuple[int, int], str, str, bytes]
"""Place in the order, module, name, pickle."""


class _AtHome(threading.local):
    """Whether this thread loads a call of its own process."""

    is_loading = False


_at_home = _AtHome()


def dumps_answer(value: Any, reduce: Callable[[Any], Any] | None = None, buffers: Buffers | None = None) -> bytes:
    """Pickle what goes back to the client: what came from its `__main__` is named, the rest as in serialize.dumps().

    Args:
        value, reduce, buffers: as in serialize.dumps().
    """
    return serialize.dumps(value, reduce, _name_in_client, buffers)


_namespaces: dict[str, dict[str, Any]] = {}


class _Received(NamedTuple):
    """What the client sent for a name when it was last put into a namespace, and the names of the same table."""

    entry: Entry
    company: tuple[Key, ...]


_received: dict[Key, _Received] = {}


def received_for(key: Key) -> _Received | None:
    """Return what the client has sent for a name."""
    return _received.get(key)


def fillings() -> int:
    """Return how often something was put into a namespace: as long as that is the same, nothing else was."""
    return _fillings


def namespace_of(module: str) -> dict[str, Any]:
    """Return this worker's namespace for a module that travels by value."""
    namespace = _namespaces.get(module)
    if namespace is None:
        home = sys.modules["__main__"] if module in serialize.MAIN_MODULES else ModuleType(module)
        namespace = _namespaces[module] = home.__dict__
    return namespace


def load() -> None:
    """Import ahead what opening a call needs."""
    serialize.load()


def load_at_home(data: bytes) -> Any:
    """Return a call that was pickled in this process, with its functions and globals as they are now.

    In a worker, loading it would set the globals to what they were.
    """
    _at_home.is_loading = True
    try:
        return serialize.loads(data)
    finally:
        _at_home.is_loading = False


def open_joined(head: bytes, rest: bytes) -> Any:
    """Open a call that was pickled in two: see heads.py."""
    function = serialize.loads(head)
    return serialize.loads(rest) if function is None else (function, *serialize.loads(rest))


def open_call(table: list[Entry], data: bytes) -> Any:
    """Open a call after its table."""
    _fill(table)
    return serialize.loads(data)


def _fill(table: list[Entry]) -> None:
    """Put into the namespaces what the client has changed."""
    global _fillings
    company: tuple[Key, ...] | None = None
    for entry in table:
        _place, module, name, blob = entry
        if _at_home.is_loading and name in namespace_of(module):
            continue
        known = _received.get((module, name))
        if known is not None and known.entry[3] == blob:
            continue
        try:
            value = serialize.loads(blob)
        except Exception as error:
            add_note(error, f"raised while unpickling {name}, a global of {module} that the call uses")
            raise
        namespace_of(module)[name] = value
        _fillings += 1
        if company is None:
            company = tuple([(module, name) for _place, module, name, _blob in table])
        _received[module, name] = _Received(entry, company)


_fillings = 0
"""How often something was put into a namespace."""


class Brought:
    """A table that has come, perhaps with a function, and has been put into the namespaces."""

    __slots__ = ("_fillings", "_function", "_own", "_place", "_received")

    def __init__(self, blob: bytes) -> None:
        self._place, table, self._own, is_own_kept = serialize.loads(blob)
        _fill(table)
        self._function = serialize.loads(self._own) if is_own_kept else None
        self._fillings = _fillings
        self._received = [((home, name), _received[home, name]) for _place, home, name, _blob in table]

    def is_current(self) -> bool:
        """Answer whether nothing of the table has been replaced by what the client has sent since."""
        if self._fillings == _fillings:
            return True
        if any(_received.get(key) is not received for key, received in self._received):
            return False
        self._fillings = _fillings
        return True

    def function(self) -> Any:
        """Return the function, or the one that has its name now; None if nothing but a table has come."""
        if self._own:
            return self._function or serialize.loads(self._own)
        return _at(self._place)


def _at(place: Key | None) -> Any:
    return None if place is None else namespace_of(place[0])[place[1]]


_opened: Recent[bytes, Brought] = Recent()


def open_function(blob: bytes) -> Any:
    """Return a function whose table has been opened before, perhaps: see Constant."""
    if _at_home.is_loading:
        place, table, own, _is_own_kept = serialize.loads(blob)
        _fill(table)
        return serialize.loads(own) if own else _at(place)
    opened = _opened.get(blob)
    if opened is None or not opened.is_current():
        opened = Brought(blob)
        _opened.add(blob, opened, len(blob))
    return opened.function()


def find(backward: str, name: str) -> Any:
    """Return a class or function of the client's module, whose name is spelt backward, by its qualified name."""
    first, *rest = name.split(".")
    found = namespace_of(backward[::-1])[first]
    for part in rest:
        found = getattr(found, part)
    return found


def make_once(make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Make the skeleton of a class, unless it is here: to make another calls its base's __init_subclass__() again.

    Args:
        make: cloudpickle's function.
        args: its arguments; the last but one is the class's number.
    """
    known = _classes.get(args[-2])
    if known is None:
        known = _classes[args[-2]] = make(*args)
    return known


_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()


def make_cached_property(function: Callable[[Any], Any], name: str | None) -> functools.cached_property[Any]:
    """Return what functools.cached_property() makes of a function, with its name."""
    made = functools.cached_property(function)
    if name is not None:
        made.__set_name__(object, name)
    return made


def make_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Return what functools.lru_cache() makes of a function."""
    return functools.lru_cache(**parameters)(function)


def _name_in_client(item: Any) -> Any:
    """Reduce what came from a `__main__` of the client to its name there; a reducer."""
    if not _received or not isinstance(item, (type, FunctionType, CACHED)):
        return NotImplemented
    module, name = item.__module__, item.__qualname__
    if module not in serialize.MAIN_MODULES or (module, name.partition(".")[0]) not in _received:
        return NotImplemented
    if place_of(item) is None or not is_home(module, _namespaces[module]):
        return NotImplemented
    return name
