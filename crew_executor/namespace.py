"""The globals of functions that travel by value: each worker has one namespace for each module that it lacks.

A call from a script or notebook carries, beside its own pickle, a table of the globals that its functions use: module,
name and pickled value. The worker puts a value into the module's namespace only if the client has changed it since
(RULES 23): what an initializer or an earlier task has set there, in place of it or inside it, stays. All functions of
the module see that namespace as their globals, as they do at home. For `__main__` it is the worker's own `__main__`.

    client:  pickle of the call + [(module, name, pickled value), ...]
    worker:  classes, functions, other values, in this order, each if its bytes are new -> namespace; then the call

A pickle of the table names the classes and functions that come before it in that order, and carries the rest by value.
Classes may need one another in a circle: in its pickle, a class has the others as skeletons, which cloudpickle knows
again by their numbers, and each gets its attributes by its own. Must not decide what travels by value: that is
cloudpickle's to say.
"""

from __future__ import annotations

import functools
import importlib
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from . import process_local, serialize
from .buffers import Buffers
from .constant import Constant
from .large_globals import LARGE_BYTES, look_for_large_closures, mention_large
from .notes import add_note
from .places import CACHED, Key, is_home, is_importable, names_in, place_of
from .recent import Recent
from .witness import Witness

OWN_BYTES_MAX = 64_000
"""Functions that are no globals, with longer pickles, are not kept."""

_CLASS, _FUNCTION, _OTHER, _CALL = range(4)


class _AtHome(threading.local):
    """Whether this thread loads a call of its own process."""

    is_loading = False


_at_home = _AtHome()

_Entry = tuple[tuple[int, int], str, str, bytes]  # place in the order, module, name, pickle
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
    return _Table(reduce, is_relayed, buffers).dumps(value) if data is None else data


def dumps_headed(
    head: bytes | None, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any],
    buffers: Buffers | None = None,
) -> tuple[bytes, bytes]:  # fmt: skip
    """Pickle a call in two: a head, which is the same object for many calls, and the rest.

    Args:
        head: the pickle of the function, or None: it has none by itself.
        function, arguments, keywords: the call.
        buffers: as in dumps_call().

    Returns:
        The pickle of the function and that of (arguments, keywords); or else that of None, after whose opening the rest
        can be opened, or nothing, and the pickle of the whole.
    """
    call = (function, arguments, keywords)
    data = serialize.dumps_by_name(call if head is None else call[1:], None, buffers)
    if data is not None:
        return head or b"", data
    is_apart = head is not None and serialize.is_module_by_value(function.__module__)
    table = _Table(None, False, buffers)
    headed = table.dumps_headed(function if is_apart else None, call[1:] if is_apart else call)
    return headed or (b"", _Table(None, False, buffers).dumps(call))


def dumps_items(function: Any, items: Iterable[Any]) -> tuple[bytes, list[bytes]] | None:
    """Return the pickle of a function, and those of items that it is to be called with, to be opened after it.

    None if an item has large buffers: then each must have a pickle of its own.
    """
    return _Table(None, False).dumps_items(function, items)


def join(head: bytes, rest: bytes) -> bytes:
    """Return the pickle of a call that was pickled in two."""
    return pickle.dumps(_Joined(head, rest), serialize.PROTOCOL) if head else rest


def dumps_answer(value: Any, reduce: Reducer | None = None, buffers: Buffers | None = None) -> bytes:
    """Pickle what goes back to the client: what came from its `__main__` is named, the rest as in serialize.dumps().

    Args:
        value, reduce, buffers: as in dumps_call().
    """
    return serialize.dumps(value, reduce, _name_in_client, buffers)


# ---------------------------------------------------------------------- in the client


class _Table:
    """The globals that go with one call."""

    def __init__(self, reduce: Reducer | None, is_relayed: bool, buffers: Buffers | None = None) -> None:
        self._reduce = reduce
        self._is_relayed = is_relayed
        self._buffers = buffers
        self._values: dict[Key, Any] = {}
        self._todo: list[Key] = []
        self._entries: list[_Entry] = []

    def dumps(self, value: Any) -> bytes:
        """Pickle a value that functions or classes travel in by value, with its table."""
        data = self._dumps_ranked(value, _CALL)
        if len(data) > LARGE_BYTES:
            look_for_large_closures(value)
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

    def dumps_headed(self, function: FunctionType | None, value: Any) -> tuple[bytes, bytes] | None:
        """Pickle a value, with its table in a head, together with a function; None if that is not so simple."""
        data = self._dumps_ranked(value, _CALL)
        if len(data) > LARGE_BYTES:
            look_for_large_closures(value)
        if function is None and not self._values:
            return b"", data
        constant = constant_of(function, self._values)
        return None if constant is None else (constant.head, data)

    def dumps_constant(self, function: FunctionType | None, values: dict[Key, Any]) -> Constant | None:
        """Return a function, and other globals, with their table, if it can be told when that changes."""
        witness, place, own = Witness(), None if function is None else place_of(function), b""
        if place is not None and "." not in place[1]:
            self._add_root(place)
        elif function is not None:
            if place is not None or not witness.watch_function(function):
                return None
            own = self._dumps_ranked(function, _CALL)
            if len(own) > OWN_BYTES_MAX:
                return None
        for key, value in values.items():
            self._add(key, value)
        while self._todo:
            module, name = key = self._todo.pop()
            home, value = sys.modules[module].__dict__, self._values[key]
            # Watched before it is pickled: what changes in between is noticed next time.
            if home.get(name) is not value or not witness.watch(home, name):
                return None
            self._enter(module, name, value)
        return Constant(function, place, own, sorted(self._entries, key=_order), witness)

    def _enter_as_received(self, key: Key) -> None:
        """Add what the client has sent for a name, and what had come with it; nothing for what is only here."""
        received = _received.get(key)
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
                    return (_find, (place[0][::-1], place[1]))
                if isinstance(item, CACHED) and serialize.is_module_by_value(item.__module__):
                    return (_make_cached, (item.__wrapped__, item.cache_parameters()))
            elif isinstance(item, ModuleType) and is_importable(item):
                return (importlib.import_module, (item.__name__,))
            elif isinstance(item, functools.cached_property):  # until Python 3.12 it has a lock
                return (_make_cached_property, (item.func, item.attrname))
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
            return (_make_once, (make, args), *more)

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


def _order(entry: _Entry) -> tuple[int, int]:
    return entry[0]


class _KnownFunction:
    """The pickle of a function, as long as that is nothing but its code and the names of its globals."""

    def __init__(self, function: FunctionType, pickled: bytes, used: tuple[Key, ...]) -> None:
        self.pickled = pickled
        self.globals = used
        self._code = function.__code__
        self._names = tuple(names_in(function.__code__))
        self._present = self._present_in(function)

    def is_of(self, function: FunctionType) -> bool:
        """Answer whether the pickle is still that of the function."""
        is_code_alone = not (
            function.__closure__ or function.__defaults__ or function.__kwdefaults__ or function.__dict__
        )
        return is_code_alone and function.__code__ is self._code and self._present_in(function) == self._present

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


_constants: Recent[tuple[str, str, frozenset[Key]], Constant] = Recent()


def constant_of(function: FunctionType | None, values: dict[Key, Any] | None = None) -> Constant | None:
    """Return what is sent for a function whatever its arguments are, or None if that is not so simple.

    `values`: more globals that the worker is to have; all, where the function is None.
    """
    module = name = ""
    if function is not None:
        module, name = function.__module__, function.__qualname__
        if not serialize.is_module_by_value(module):
            return None
    values = values or {}
    for (home, global_name), value in values.items():
        if getattr(sys.modules.get(home), global_name, values) is not value:
            return None  # of a script whose globals are in a dictionary that is no module's
    key = (module, name, frozenset(values))
    known = _constants.get(key)
    if known is not None and known.function is function and known.is_current():
        return known
    try:
        constant = _Table(None, False).dumps_constant(function, values)
    except Exception:
        return None  # the ordinary way says what is wrong
    if constant is None:
        _constants.remove(key)
    else:
        _constants.add(key, constant, len(constant.head))
    return constant


class _Envelope:
    """A call with its table; unpickled, it is the call."""

    def __init__(self, table: list[_Entry], data: bytes) -> None:
        self.table, self.data = table, data

    def __reduce__(self) -> tuple[Any, ...]:
        return (_open_call, (self.table, self.data))


class _Joined:
    """A call in two pickles; unpickled, it is the call."""

    def __init__(self, head: bytes, rest: bytes) -> None:
        self.head, self.rest = head, rest

    def __reduce__(self) -> tuple[Any, ...]:
        return (_open_joined, (self.head, self.rest))


class _Namespace:
    """Stands for a module's namespace; unpickled, it is the worker's."""

    def __init__(self, module: str) -> None:
        self.module = module

    def __reduce__(self) -> tuple[Any, ...]:
        return (namespace_of, (self.module,))


# ---------------------------------------------------------------------- in the worker

_namespaces: dict[str, dict[str, Any]] = {}


class _Received(NamedTuple):
    """What the client sent for a name when it was last put into a namespace, and the names of the same table."""

    entry: _Entry
    company: tuple[Key, ...]


_received: dict[Key, _Received] = {}


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


def _open_joined(head: bytes, rest: bytes) -> Any:
    function = serialize.loads(head)
    return serialize.loads(rest) if function is None else (function, *serialize.loads(rest))


def _open_call(table: list[_Entry], data: bytes) -> Any:
    _fill(table)
    return serialize.loads(data)


def _fill(table: list[_Entry]) -> None:
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

    __slots__ = ("_fillings", "_function", "_place", "_received")

    def __init__(self, blob: bytes) -> None:
        self._place, table, own = serialize.loads(blob)
        _fill(table)
        self._function = serialize.loads(own) if own else None  # it holds nothing that a call could change
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
        return self._function or _at(self._place)


def _at(place: Key | None) -> Any:
    return None if place is None else namespace_of(place[0])[place[1]]


_opened: Recent[bytes, Brought] = Recent()


def open_function(blob: bytes) -> Any:
    """Return a function whose table has been seen before, perhaps: see Constant."""
    if _at_home.is_loading:
        place, table, own = serialize.loads(blob)
        _fill(table)
        return serialize.loads(own) if own else _at(place)
    opened = _opened.get(blob)
    if opened is None or not opened.is_current():
        opened = Brought(blob)
        _opened.add(blob, opened, len(blob))
    return opened.function()


def _find(backward: str, name: str) -> Any:
    """Return a class or function of the client's module, whose name is spelt backward, by its qualified name."""
    first, *rest = name.split(".")
    found = namespace_of(backward[::-1])[first]
    for part in rest:
        found = getattr(found, part)
    return found


def _make_once(make: Callable[..., type], args: tuple[Any, ...]) -> type:
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


def _make_cached_property(function: Callable[[Any], Any], name: str | None) -> functools.cached_property[Any]:
    made = functools.cached_property(function)
    if name is not None:
        made.__set_name__(object, name)
    return made


def _make_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
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
