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

import contextlib
import functools
import importlib
import pickle
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from . import process_local, serialize
from .buffers import Buffers
from .notes import add_note

LARGE_BYTES = 1_000_000
"""A pickled global above this is mentioned once in the log: it travels with every call that uses it."""

CONSTANTS_MAX = 1000
"""Functions whose tables a worker remembers."""

_CLASS, _FUNCTION, _OTHER, _CALL = range(4)
_CACHED = type(functools.lru_cache(maxsize=1)(lambda: None))


class _AtHome(threading.local):
    """Whether this thread loads a call of its own process."""

    is_loading = False


_at_home = _AtHome()

_Key = tuple[str, str]
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
    if reduce is None and not is_relayed and type(value) is tuple and len(value) == 3:
        function, args, kwargs = value
        if type(function) is FunctionType and (constant := constant_of(function)) is not None:
            arguments = serialize.dumps_by_name((args, kwargs), None, buffers)
            if arguments is not None:
                return constant.join(arguments)
    data = serialize.dumps_by_name(value, reduce, buffers)
    return _Table(reduce, is_relayed, buffers).dumps(value) if data is None else data


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
        self._values: dict[_Key, Any] = {}
        self._todo: list[_Key] = []
        self._entries: list[_Entry] = []

    def dumps(self, value: Any) -> bytes:
        """Pickle a value that functions or classes travel in by value, with its table."""
        data = self._dumps_ranked(value, _CALL)
        if len(data) > LARGE_BYTES:
            _look_for_large_closures(value)
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

    def dumps_constant(self, function: FunctionType) -> Constant | None:
        """Return a global function with its table, if that is the same as long as the same objects are in it."""
        place = _place_of(function)
        if place is None or "." in place[1]:
            return None
        self._add_root(place)
        while self._todo:
            key = self._todo.pop()
            if not _is_constant(self._values[key], key):
                return None
            self._enter(*key, self._values[key])
        return Constant(place, sorted(self._entries, key=_order), self._values)

    def _enter_as_received(self, key: _Key) -> None:
        """Add what the client has sent for a name, and what had come with it; nothing for what is only here."""
        received = _received.get(key)
        if received is not None:
            self._entries.append(received.entry)
            for other in received.company:
                self._add(other, None)

    def _enter(self, module: str, name: str, value: Any) -> None:
        rank = _rank(value)
        if rank < _OTHER and _place_of(value) not in {None, (module, name)}:
            rank = _OTHER  # a second name for it
        if rank == _FUNCTION and isinstance(value, FunctionType):
            blob = self._dumps_function(value)
        else:
            blob = self._dumps_ranked(value, rank)
        if len(blob) > LARGE_BYTES:
            _mention_large(module, name, len(blob))
        bases = len(value.__mro__) if rank == _CLASS else 0
        self._entries.append(((rank, bases), module, name, blob))

    def _dumps_ranked(self, value: Any, rank: int) -> bytes:
        def reduce(item: Any) -> Any:
            if isinstance(item, (type, FunctionType, _CACHED)):
                if _rank(item) < rank and (place := _place_of(item)) is not None:
                    self._add_root(place)
                    return (_find, (place[0][::-1], place[1]))
                if isinstance(item, _CACHED) and serialize.is_module_by_value(item.__module__):
                    return (_make_cached, (item.__wrapped__, item.cache_parameters()))
            elif isinstance(item, ModuleType) and _is_importable(item):
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
            if rank == _CLASS and (place := _place_of(item)) and place[1].partition(".")[0] != value.__qualname__:
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
        if not _is_home(module, item.__globals__):
            return reduced  # exec() made it: likewise
        make, (code, _globals, *rest), (attributes, slots), *more = reduced
        self._add_all(item, [(module, name) for name in slots["__globals__"]])
        return (make, (code, _Namespace(module), *rest), (attributes, slots | {"__globals__": {}}), *more)

    def _add_root(self, place: _Key) -> None:
        module, name = place[0], place[1].partition(".")[0]
        self._add((module, name), getattr(sys.modules[module], name))

    def _add_all(self, function: FunctionType, keys: Iterable[_Key]) -> None:
        """Add what a function uses: its own globals, and classes that its annotations name."""
        values = function.__globals__
        for key in keys:
            module, name = key
            is_own = values.get("__name__") == module and name in values
            self._add(key, values[name] if is_own else getattr(sys.modules[module], name))

    def _add(self, key: _Key, value: Any) -> None:
        if key not in self._values:
            self._values[key] = value
            self._todo.append(key)


def _order(entry: _Entry) -> tuple[int, int]:
    return entry[0]


class _KnownFunction:
    """The pickle of a function, as long as that is nothing but its code and the names of its globals."""

    def __init__(self, function: FunctionType, pickled: bytes, used: tuple[_Key, ...]) -> None:
        self.pickled = pickled
        self.globals = used
        self._code = function.__code__
        self._names = tuple(_names_in(function.__code__))
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


def _names_in(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names_in(constant)
    return names


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
    return _CLASS if isinstance(value, type) else _FUNCTION if isinstance(value, (FunctionType, _CACHED)) else _OTHER


def _place_of(item: Any) -> _Key | None:
    """Return module and qualified name under which a class or function of a by-value module is found, or None."""
    module, name = getattr(item, "__module__", None), getattr(item, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not serialize.is_module_by_value(module):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name) if found is item else None


def _is_importable(module: ModuleType) -> bool:
    name = module.__name__
    return sys.modules.get(name) is module and not serialize.is_module_by_value(name)


def _is_home(module: str, namespace: dict[str, Any]) -> bool:
    """Answer whether a dictionary is where the globals of a module are.

    Scripts that multiprocessing, a profiler or a debugger runs have their globals in a dictionary that is no module's.
    """
    if getattr(sys.modules.get(module), "__dict__", None) is namespace:
        return True
    if module in serialize.MAIN_MODULES and "__file__" in namespace:
        return _script_globals.setdefault(module, namespace) is namespace
    return False


_script_globals: dict[str, dict[str, Any]] = {}


_mentioned: set[_Key] = set()


def _mention_large(module: str, name: str, size: int, what: str = "global") -> None:
    if (module, name) not in _mentioned:
        _mentioned.add((module, name))
        from .log import logger  # late: a worker need not import logging

        logger.warning(
            "the %s %s of %s takes %.1f MB and travels with every call of a function that uses it: pass what is "
            "needed as an argument, load it in an initializer, or put it into a module that workers can import",
            what, name, module, size / 1e6,
        )  # fmt: skip


def _look_for_large_closures(call: Any) -> None:
    """Mention variables that the called function has taken along from the function that made it."""
    function = call[0] if isinstance(call, tuple) and call else call
    if not isinstance(function, FunctionType):
        return
    place = f"{function.__module__}.{function.__qualname__}"
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if (place, name) in _looked_at:
            continue
        _looked_at.add((place, name))
        with contextlib.suppress(Exception):  # an empty cell; what cannot be pickled alone: this is only a hint
            size = len(serialize.dumps(cell.cell_contents))
            if size > LARGE_BYTES:
                _mention_large(place, name, size, "variable")


_looked_at: set[_Key] = set()


_CONSTANT_TYPES = (int, float, complex, bool, str, bytes, type(None))


def _is_constant(value: Any, key: _Key) -> bool:
    """Answer whether this global is the same as long as it is this object."""
    if isinstance(value, FunctionType):
        known = _known_functions.get(value)
        return _place_of(value) == key and (known is None or known.is_of(value))
    if isinstance(value, BuiltinFunctionType):
        return isinstance(value.__self__, ModuleType)  # else it is a method of something
    return type(value) in _CONSTANT_TYPES or (isinstance(value, ModuleType) and _is_importable(value))


class Constant:
    """A function of a script that uses nothing but functions, modules, numbers and the like: what is sent for it.

    Most functions are of this kind, and to look whether it is still so takes a tenth of pickling it again.
    """

    def __init__(self, place: _Key, table: list[_Entry], values: dict[_Key, Any]) -> None:
        self._values = [(sys.modules[module].__dict__, name, value) for (module, name), value in values.items()]
        functions = [value for value in values.values() if isinstance(value, FunctionType)]
        self._functions = [(known, function) for function in functions if (known := _known_functions.get(function))]
        self.is_usable = len(self._functions) == len(functions)
        blob = pickle.dumps((place, table), serialize.PROTOCOL)
        self._blob = _BYTES.pack(b"B", len(blob)) + blob
        self._head = _OPEN + self._blob

    def is_current(self) -> bool:
        """Answer whether all is as it was."""
        for namespace, name, value in self._values:
            if namespace.get(name) is not value:
                return False
        return all(known.is_of(function) for known, function in self._functions)

    @property
    def function_head(self) -> bytes:
        """The beginning of a pickle: what leaves the function on the stack, and refers to nothing before it."""
        return _OPEN_FUNCTION + self._blob + b"\x85R"

    def join(self, arguments: bytes) -> bytes:
        """Return the pickle of a call."""
        return b"".join((self._head, _BYTES.pack(b"B", len(arguments)), arguments, _CLOSE))


# The pickle of open_constant(blob, arguments), by hand: protocol, global, two bytes objects, tuple of two, call, end.
_OPEN, _CLOSE = b"\x80\x05c" + __name__.encode() + b"\nopen_constant\n", b"\x86R."
_OPEN_FUNCTION = b"\x80\x05c" + __name__.encode() + b"\nopen_function\n"
_BYTES = struct.Struct("<cI")
_constants: weakref.WeakKeyDictionary[FunctionType, Constant | None] = weakref.WeakKeyDictionary()


def constant_of(function: FunctionType) -> Constant | None:
    """Return what is sent for a function whatever its arguments are, or None if that is not so simple."""
    if not serialize.is_module_by_value(function.__module__):
        return None
    constant = _constants.get(function)
    if constant is None or not constant.is_current():
        try:
            constant = _Table(None, False).dumps_constant(function)
        except Exception:
            return None  # the ordinary way says what is wrong
        if constant is not None and not constant.is_usable:
            constant = None
        _constants[function] = constant
    return constant


class _Envelope:
    """A call with its table; unpickled, it is the call."""

    def __init__(self, table: list[_Entry], data: bytes) -> None:
        self.table, self.data = table, data

    def __reduce__(self) -> tuple[Any, ...]:
        return (_open_call, (self.table, self.data))


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
    company: tuple[_Key, ...]


_received: dict[_Key, _Received] = {}


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


def _open_call(table: list[_Entry], data: bytes) -> Any:
    _fill(table)
    return serialize.loads(data)


def _fill(table: list[_Entry]) -> None:
    """Put into the namespaces what the client has changed."""
    company: tuple[_Key, ...] | None = None
    for entry in table:
        _place, module, name, blob = entry
        if _at_home.is_loading and name in namespace_of(module):
            continue
        known = _received.get((module, name))
        if known is not None and known.entry[3] == blob:
            continue
        try:
            namespace_of(module)[name] = serialize.loads(blob)
        except Exception as error:
            add_note(error, f"raised while unpickling {name}, a global of {module} that the call uses")
            raise
        if company is None:
            company = tuple([(module, name) for _place, module, name, _blob in table])
        _received[module, name] = _Received(entry, company)


_opened: dict[bytes, tuple[_Key, list[tuple[_Key, _Received]]]] = {}  # what came for constant functions


def open_constant(blob: bytes, arguments: bytes) -> Any:
    """Open a call of a function whose table has been seen before, perhaps: see Constant."""
    return (open_function(blob), *serialize.loads(arguments))


def open_function(blob: bytes) -> Any:
    """Return a function whose table has been seen before, perhaps: see Constant."""
    opened = _opened.get(blob)
    if _at_home.is_loading:
        (module, name), table = serialize.loads(blob)
        _fill(table)
        return namespace_of(module)[name]
    if opened is None or any(_received.get(key) is not received for key, received in opened[1]):
        place, table = serialize.loads(blob)
        _fill(table)
        if len(_opened) >= CONSTANTS_MAX:
            _opened.clear()
        keys = [(module, name) for _place, module, name, _blob in table]
        opened = _opened[blob] = (place, [(key, _received[key]) for key in keys])
    module, name = opened[0]
    return namespace_of(module)[name]


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
    if not _received or not isinstance(item, (type, FunctionType, _CACHED)):
        return NotImplemented
    module, name = item.__module__, item.__qualname__
    if module not in serialize.MAIN_MODULES or (module, name.partition(".")[0]) not in _received:
        return NotImplemented
    if _place_of(item) is None or not _is_home(module, _namespaces[module]):
        return NotImplemented
    return name
