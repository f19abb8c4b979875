"""The globals that go with calls whose functions travel by value: what is used, pickled name by name. In the client.

See namespace.py for what a worker makes of it. A pickle of the table names the classes and functions that come before
it in that order, and carries the rest by value. Classes may need one another in a circle: in its pickle, a class has
the others as skeletons, which cloudpickle knows again by their numbers, and each gets its attributes by its own. Must
not decide what travels by value: that is cloudpickle's to say.
"""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any

from . import process_local, serialize
from .buffers import Buffers
from .constant import Constant
from .large_globals import LARGE_BYTES, look_for_large_closures, mention_large
from .namespace import (
    Entry,
    find,
    make_cached,
    make_cached_property,
    make_once,
    namespace_of,
    open_call,
    open_joined,
    received_for,
)
from .notes import add_note
from .places import CACHED, Key, Submodules, is_home, is_importable, names_in, place_of
from .witness import Witness

OWN_BYTES_MAX = 64_000
"""Functions that are no globals, with longer pickles, are not kept."""

_CLASS, _FUNCTION, _OTHER, _CALL = range(4)

Reducer = Callable[[Any], Any]


def dumps_call(
    value: Any, reduce: Reducer | None = None, buffers: Buffers | None = None, *, is_relayed: bool = False
) -> bytes:
    """Pickle what goes to workers: with the globals of what travels by value.

    Args:
        value: anything.
        reduce: asked first for each object, as pickle's reducer_override; NotImplemented leaves it to pickle.
        buffers: takes large buffers, which the pickle then is without; those of globals stay in it.
        is_relayed: this is a worker, and the call goes to others of its pool: their globals are to be as the client
            has them, whatever has become of them here.

    Raises:
        whatever pickle or cloudpickle raised.
    """
    data = serialize.dumps_by_name(value, reduce, buffers)
    return Table(reduce, is_relayed, buffers).dumps(value) if data is None else data


def dumps_items(function: Any, items: Iterable[Any]) -> tuple[bytes, list[bytes]] | None:
    """Return the pickle of a function, and those of items that it is to be called with, to be opened after it.

    None if an item has large buffers: then each must have a pickle of its own.
    """
    return Table().dumps_items(function, items)


def join(head: bytes, rest: bytes) -> bytes:
    """Return the pickle of a call that was pickled in two."""
    return pickle.dumps(_Joined(head, rest), serialize.PROTOCOL) if head else rest


class Table:
    """The globals that go with one call."""

    def __init__(self, reduce: Reducer | None = None, is_relayed: bool = False, buffers: Buffers | None = None) -> None:
        self._reduce = reduce
        self._is_relayed = is_relayed
        self._buffers = buffers
        self._values: dict[Key, Any] = {}
        self._todo: list[Key] = []
        self._entries: list[Entry] = []

    def dumps(self, value: Any) -> bytes:
        """Pickle a value that functions or classes travel in by value, with its table."""
        data, _values = self.dumps_part(value)
        return self.enclose(data)

    def enclose(self, data: bytes) -> bytes:
        """Return the pickle of a value that dumps_part() has pickled, with its table."""
        while self._todo:
            module, name = self._todo.pop()
            if self._is_relayed:
                self._enter_as_received((module, name))
                continue
            try:
                self._enter(module, name, self._values[module, name])
            except Exception as error:
                add_note(error, f"raised while pickling {name}, a global of {module} that the call uses")
                raise
        if not self._entries:
            return data
        self._entries.sort(key=_order)
        return pickle.dumps(_Envelope(self._entries, data), serialize.PROTOCOL)

    def dumps_items(self, function: Any, items: Iterable[Any]) -> tuple[bytes, list[bytes]] | None:
        """Pickle items, and a function with the table for all of it; None if an item has large buffers."""
        self._buffers = buffers = Buffers()
        pickles = []
        for item in items:
            pickles.append(self._dumps_ranked(item, _CALL))
            if buffers.views:
                return None
        self._buffers = None
        return self.dumps(function), pickles

    def dumps_part(self, value: Any) -> tuple[bytes, dict[Key, Any]]:
        """Pickle a value; return also the globals that a worker must have before it opens that."""
        data = self._dumps_ranked(value, _CALL)
        if len(data) > LARGE_BYTES:
            look_for_large_closures(value)
        return data, self._values

    def make_constant(self, function: FunctionType | None, values: Mapping[Key, Any]) -> Constant | None:
        """Return a function, and more globals, with their table, if it can be told when that changes."""
        witness, place, own = Witness(), None if function is None else place_of(function), b""
        is_own_kept = False
        if place is not None and "." not in place[1]:
            self._add_root(place)
        elif function is not None:
            if place is not None or not witness.watch_function(function):
                return None
            own = self._dumps_ranked(function, _CALL)
            if len(own) > OWN_BYTES_MAX:
                return None
            is_own_kept = not function.__closure__  # a call may set what is in that
        for key, value in values.items():
            self._add(key, value)
        while self._todo:
            module, name = key = self._todo.pop()
            home, value = sys.modules[module].__dict__, self._values[key]
            # Watched before it is pickled: what changes in between is noticed next time.
            if home.get(name) is not value or not witness.watch(home, name):
                return None
            self._enter(module, name, value)
        table = sorted(self._entries, key=_order)
        return Constant(function, place, own, table, witness, is_own_kept=is_own_kept)

    def _enter_as_received(self, key: Key) -> None:
        """Add what the client has sent for a name, and what had come with it; nothing for what is only here."""
        received = received_for(key)
        if received is not None:
            self._entries.append(received.entry)
            for other in received.company:
                self._add(other, None)

    def _enter(self, module: str, name: str, value: Any) -> None:
        rank = _rank(value)
        if rank < _OTHER and place_of(value) not in {None, (module, name)}:
            rank = _OTHER  # a second name for it
        if rank == _FUNCTION and isinstance(value, FunctionType):
            blob = self._dumps_function(value)
        else:
            blob = self._dumps_ranked(value, rank)
        if len(blob) > LARGE_BYTES:
            mention_large(module, name, len(blob))
        bases = len(value.__mro__) if rank == _CLASS else 0
        self._entries.append(((rank, bases), module, name, blob))

    def _dumps_ranked(self, value: Any, rank: int) -> bytes:
        def reduce(item: Any) -> Any:
            if isinstance(item, (type, FunctionType, CACHED)):
                if _rank(item) < rank and (place := place_of(item)) is not None:
                    self._add_root(place)
                    return (find, (place[0][::-1], place[1]))
                if isinstance(item, CACHED) and serialize.is_module_by_value(item.__module__):
                    return (make_cached, (item.__wrapped__, item.cache_parameters()))
            elif isinstance(item, ModuleType) and is_importable(item):
                return (importlib.import_module, (item.__name__,))
            elif isinstance(item, functools.cached_property):  # until Python 3.12 it has a lock
                return (make_cached_property, (item.func, item.attrname))
            elif rank != _CALL and (own := process_local.reduction(item)) is not None:
                return own
            return NotImplemented

        def adapt(item: Any, reduced: Any) -> Any:
            if isinstance(item, FunctionType):
                return self._share_globals(item, reduced)
            if not isinstance(item, type) or len(reduced) < 3:
                return reduced  # of classes that travel by name, type(None) has a reduction, too
            make, args, state, *more = reduced
            more = [_without_caches(state), *more]
            if rank == _CLASS and (place := place_of(item)) and place[1].partition(".")[0] != value.__qualname__:
                self._add_root(place)
                more = []  # without the attributes
            return (make_once, (make, args), *more)

        reducer = serialize.chained(self._reduce, reduce)
        buffers = self._buffers if rank == _CALL else None
        # Plain pickle is several times as fast, and enough unless something is named that `reduce` has not replaced.
        data = serialize.dumps_by_name(value, reducer, buffers)
        return serialize.dumps_by_value(value, reducer, adapt, buffers) if data is None else data

    def _dumps_function(self, function: FunctionType) -> bytes:
        """Pickle a global function, or take its pickle of last time if nothing that is in it can have changed."""
        known = _known_functions.get(function)
        if known is not None and known.is_of(function):
            self._add_all(function, known.globals)
            return known.pickled
        before, self._values = self._values, {}
        todo, self._todo = self._todo, []
        try:
            pickled = self._dumps_ranked(function, _FUNCTION)
        finally:
            used = tuple(self._values)
            self._values, self._todo = before, todo
        self._add_all(function, used)
        known = _KnownFunction(function, pickled, used)
        if known.is_of(function):
            _known_functions[function] = known
        return pickled

    def _share_globals(self, item: FunctionType, reduced: Any) -> Any:
        """Let a function by value have its module's namespace, and its globals come in the table.

        Args:
            item: the function.
            reduced: what cloudpickle has made of it: (make, (code, globals, ...), (attributes, slots), ..., set state).
        """
        module = item.__globals__.get("__name__")
        if not isinstance(module, str) or not serialize.is_module_by_value(module):
            return reduced  # a decorator of a library made it: it keeps a copy of its globals
        if not is_home(module, item.__globals__):
            return reduced  # exec() made it: likewise
        make, (code, _globals, *rest), (attributes, slots), *more = reduced
        self._add_all(item, [(module, name) for name in slots["__globals__"]])
        return (make, (code, _Namespace(module), *rest), (attributes, slots | {"__globals__": {}}), *more)

    def _add_root(self, place: Key) -> None:
        module, name = place[0], place[1].partition(".")[0]
        self._add((module, name), getattr(sys.modules[module], name))

    def _add_all(self, function: FunctionType, keys: Iterable[Key]) -> None:
        """Add what a function uses: its own globals, and classes that its annotations name."""
        values = function.__globals__
        for key in keys:
            module, name = key
            is_own = values.get("__name__") == module and name in values
            self._add(key, values[name] if is_own else getattr(sys.modules[module], name))

    def _add(self, key: Key, value: Any) -> None:
        if key not in self._values:
            self._values[key] = value
            self._todo.append(key)


def _order(entry: Entry) -> tuple[int, int]:
    return entry[0]


class _KnownFunction:
    """The pickle of a function, as long as that is nothing but its code and the names of its globals."""

    def __init__(self, function: FunctionType, pickled: bytes, used: tuple[Key, ...]) -> None:
        self.pickled = pickled
        self.globals = used
        self._code = function.__code__
        self._names = tuple(names_in(function.__code__))
        self._submodules = Submodules(function)
        self._present = self._present_in(function)

    def is_of(self, function: FunctionType) -> bool:
        """Answer whether the pickle is still that of the function."""
        is_code_alone = not (
            function.__closure__ or function.__defaults__ or function.__kwdefaults__ or function.__dict__
        )
        is_same = is_code_alone and function.__code__ is self._code and self._submodules.are_same()
        return is_same and self._present_in(function) == self._present

    def _present_in(self, function: FunctionType) -> list[bool]:
        # A global that was not there and is now, or the other way round, changes what the function needs.
        return [name in function.__globals__ for name in self._names]


_known_functions: weakref.WeakKeyDictionary[FunctionType, _KnownFunction] = weakref.WeakKeyDictionary()


def _without_caches(state: Any) -> Any:
    """Drop what Python itself keeps in a class after its first use, as if the user had changed it."""
    attributes, slots = state
    attributes = {
        name: value
        for name, value in attributes.items()
        if name != "__slotnames__" and not (name == "__annotations__" and not value)
    }
    return attributes, slots


def _rank(value: Any) -> int:
    return _CLASS if isinstance(value, type) else _FUNCTION if isinstance(value, (FunctionType, CACHED)) else _OTHER


class _Envelope:
    """A call with its table; unpickled, it is the call."""

    def __init__(self, table: list[Entry], data: bytes) -> None:
        self.table, self.data = table, data

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_call, (self.table, self.data))


class _Joined:
    """A call in two pickles; unpickled, it is the call."""

    def __init__(self, head: bytes, rest: bytes) -> None:
        self.head, self.rest = head, rest

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_joined, (self.head, self.rest))


class _Namespace:
    """Stands for a module's namespace; unpickled, it is the worker's."""

    def __init__(self, module: str) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return (namespace_of, (self.module,))
