"""Tells whether functions, classes and values are still as they were when a pickle was made of them. In the client.

A pickle of a function that travels by value holds all that it uses. To make it for each call takes a tenth of a
millisecond where there is a class among that; to look whether anything has changed takes a few microseconds:

- what cannot change inside, by its identity: numbers, strings, modules, functions of a library;
- functions by their code, defaults and closure, classes by their attributes: each by its identity, and what is inside;
- any other value by its plain pickle, made anew each time. That names classes and functions, which are looked after by
  themselves.

Must not guess: watch() answers False for what it cannot be sure of, or is too much. A global that is looked at by its
pickle is not kept.
"""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Callable, Iterable, KeysView, Mapping
from functools import partial
from operator import attrgetter, is_
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from . import process_local, serialize
from .places import CACHED, Submodules, found, is_home, is_importable, names_in, place_of

PICKLE_BYTES_MAX = 1_000_000
"""What is watched may have so long pickles, together: to keep longer ones, and compare them, would cost too much."""
OBJECTS_MAX = 1000
"""So many objects are watched at most: to look at them for each call would cost too much."""

_CONSTANTS = frozenset(
    (
        int, float, complex, bool, str, bytes, type(None), type(NotImplemented), type(...), range,
        GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType,
    )
)  # fmt: skip
"""Types whose instances cannot change."""
_CONSTANT_NAMES = {
    ("datetime", "date"), ("datetime", "timedelta"),
    ("decimal", "Decimal"), ("fractions", "Fraction"), ("logging", "Logger"), ("numpy", "ufunc"),
    ("pathlib", "PosixPath"), ("pathlib", "PurePosixPath"), ("re", "Pattern"), ("uuid", "UUID"),
}  # fmt: skip
"""More of them, whose modules are not always loaded; of a logger nothing but the name is sent."""
_ALIASES = {("types", "GenericAlias"), ("types", "UnionType"), ("annotationlib", "ForwardRef")}
"""Types of what annotations consist of, besides those of typing."""
_annotations_of = attrgetter("__annotate__" if sys.version_info >= (3, 14) else "__annotations__")
"""Since Python 3.14 annotations are made when somebody asks for them."""


class Witness:
    """Remember how things are; nothing is watched at first.

    Attributes:
        size: bytes of pickles that are kept.
    """

    def __init__(self) -> None:
        self._named: list[tuple[Mapping[str, Any], str, Any]] = []
        self._absent: dict[int, tuple[KeysView[str], set[str]]] = {}
        self._functions: list[tuple[Any, ...]] = []
        self._tables: list[tuple[Mapping[Any, Any], tuple[Any, ...], tuple[Any, ...]]] = []
        self._attributes: list[tuple[Any, str, Any]] = []
        self._pickled_globals: list[tuple[Mapping[str, Any], str, bytes]] = []
        self._checks: list[Callable[[], bool]] = []
        self._seen: dict[int, tuple[Any, bool]] = {}
        serialize.load()  # who registers modules needs it, too
        self._registered, self._registry = serialize.registered(), serialize.registry()
        self.size = 0

    def watch(self, namespace: Mapping[str, Any], name: str) -> bool:
        """Watch a global; return False if nobody can say whether it changes."""
        value = namespace[name]
        is_known = self._watcher_of(value) is not None
        if is_known or _is_plain(value):
            self._named.append((namespace, name, value))
            return not is_known or self._is_watched(value)
        # Its table entry names the classes and functions that it refers to, as this pickle does: they are globals, too.
        pickled = self._pickle(value)
        if pickled is not None:
            self._pickled_globals.append((namespace, name, pickled))
        return pickled is not None

    def watch_function(self, function: FunctionType) -> bool:
        """Watch a function that is no global; False also if it holds objects, which would be kept with it.

        A function that exec() has made in a dictionary of its own holds all that is in there.
        """
        try:
            held = [*(function.__defaults__ or ()), *(cell.cell_contents for cell in function.__closure__ or ())]
        except ValueError:  # an empty cell
            return False
        holds_nothing = _CONSTANTS.issuperset(map(type, held)) and not (function.__kwdefaults__ or function.__dict__)
        return holds_nothing and is_home(function.__module__, function.__globals__) and self._is_watched(function)

    def is_current(self) -> bool:
        """Answer whether all is as it was."""
        try:
            if not self.has_names():
                return False
            for names_there, names in self._absent.values():
                if not names_there.isdisjoint(names):
                    return False
            if not self._have_same_insides():
                return False
            for namespace, name, pickled in self._pickled_globals:
                if pickle.dumps(namespace.get(name), serialize.PROTOCOL) != pickled:
                    return False
            return True
        except Exception:  # a user's __reduce__, a dictionary that another thread changes: who pickles it will say
            return False

    def has_names(self) -> bool:
        """Answer whether the globals have their names, without a look inside, and so without a call of a user's."""
        for namespace, name, value in self._named:  # noqa: SIM110  a generator takes longer
            if namespace.get(name) is not value:
                return False
        return True

    def _have_same_insides(self) -> bool:
        for function, code, defaults, keyword_defaults, attributes, noted, name, path, module, doc in self._functions:
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__ is not keyword_defaults
                or (function.__dict__ or None) is not attributes
                or (_annotations_of(function) or None) is not noted
                or function.__name__ is not name
                or function.__qualname__ is not path
                or function.__module__ is not module
                or function.__doc__ is not doc
            ):
                return False
        for value, name, before in self._attributes:
            if getattr(value, name) is not before:
                return False
        for table, keys, values in self._tables:
            if tuple(table) != keys or not all(map(is_, table.values(), values)):
                return False
        return self._registry() == self._registered and all(check() for check in self._checks)

    # ------------------------------------------------------------------ what is remembered

    def _is_watched(self, value: Any) -> bool:
        """Watch what can change inside a value whose identity somebody else watches; False if that cannot be done.

        Once it is False, all is in vain: whoever asked must not go on in another way.
        """
        if type(value) in _CONSTANTS:
            return True
        seen = self._seen.get(id(value))
        if seen is not None:
            return seen[1]
        if len(self._seen) >= OBJECTS_MAX:
            return False
        self._seen[id(value)] = value, True  # before: a method refers to its class
        watch = self._watcher_of(value) or self._watch_value
        is_watched = watch(value)
        if not is_watched:
            self._seen[id(value)] = value, False
        return is_watched

    def _watcher_of(self, value: Any) -> Callable[[Any], bool] | None:
        """Return how to watch a value of a kind that is known."""
        kind = type(value)
        watch: Callable[[Any], bool] | None = None
        if kind is FunctionType:
            watch = self._watch_function
        elif isinstance(value, type):
            watch = self._watch_class
        elif kind in _PARTS:
            watch = self._watch_parts
        elif isinstance(value, ModuleType):
            watch = is_importable
        elif kind is BuiltinFunctionType:
            watch = _is_no_method
        elif (kind.__module__, kind.__name__) in _CONSTANT_NAMES:
            watch = _is_constant
        elif kind.__module__ == "typing" or (kind.__module__, kind.__name__) in _ALIASES:
            watch = self._watch_type
        elif process_local.inside(value) is not None:
            watch = self._watch_own
        elif kind.__module__ == "dataclasses":
            watch = self._watch_field
        elif isinstance(kind, _class_named("enum", "EnumMeta")):
            watch = self._watch_member
        return watch

    def _watch_function(self, function: FunctionType) -> bool:
        """Watch a function that travels by value; those of a library travel by name."""
        if not serialize.is_module_by_value(function.__module__ or "") and found(function) is not None:
            return True
        home, code = function.__globals__, function.__code__
        names = names_in(code)
        absent = names - home.keys()
        self._absent.setdefault(id(home), (home.keys(), set()))[1].update(absent)
        name = home.get("__name__")
        if not (isinstance(name, str) and serialize.is_module_by_value(name) and is_home(name, home)):
            # A decorator of a library made it: it brings a copy of what it uses there.
            for name in names - absent:
                if not self._is_watched(home[name]):
                    return False
                self._named.append((home, name, home[name]))
        submodules = Submodules(function)
        if submodules.are_any:
            self._checks.append(submodules.are_same)
        attributes, noted = function.__dict__ or None, _annotations_of(function) or None
        defaults, keyword_defaults = function.__defaults__, function.__kwdefaults__
        words = (function.__name__, function.__qualname__, function.__module__, function.__doc__)
        self._functions.append((function, code, defaults, keyword_defaults, attributes, noted, *words))
        tables = [table for table in (keyword_defaults, attributes, noted) if table and isinstance(table, dict)]
        return self._is_closure_watched(function) and all(map(self._watch_table, tables))

    def _is_closure_watched(self, function: FunctionType) -> bool:
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # it is empty, as yet
                return False
            if not self._is_watched(value):
                return False
            self._checks.append(partial(_is_cell_of, cell, value))
        return self._is_watched(function.__defaults__)

    def _watch_class(self, cls: type) -> bool:
        """Watch a class that travels by value, with its attributes; those of a library travel by name."""
        if not serialize.is_module_by_value(cls.__module__):
            return found(cls) is not None or cls.__module__ == "builtins"
        if serialize.is_module_by_value(type(cls).__module__) or place_of(cls) is None:
            return False
        attributes = vars(cls)
        if "_abc_impl" in attributes:
            self._checks.append(partial(_has_registry, cls, _registry_of(cls)))
        self._watch_attributes(cls, "__bases__", "__name__", "__qualname__")
        return self._watch_table(attributes, without="_abc_impl") and all(map(self._is_watched, cls.__bases__))

    def _watch_attributes(self, value: Any, *names: str) -> None:
        """Watch the identity of attributes, not what is inside of them."""
        self._attributes += [(value, name, getattr(value, name)) for name in names]

    def _watch_table(self, table: Mapping[Any, Any], without: str | None = None) -> bool:
        """Watch what is in a dictionary; for the inside of one of them somebody else cares."""
        keys, values = tuple(table), tuple(table.values())
        self._tables.append((table, keys, values))
        return self._are_watched(keys) and self._are_watched(
            value for key, value in zip(keys, values, strict=True) if key != without
        )

    def _are_watched(self, values: Iterable[Any]) -> bool:
        return all(map(self._is_watched, values))

    def _watch_parts(self, value: Any) -> bool:
        parts, changeable = _PARTS[type(value)]
        self._watch_attributes(value, *changeable)
        return all(self._is_watched(getattr(value, name)) for name in parts)

    def _watch_type(self, alias: Any) -> bool:
        """Watch what an annotation consists of: that cannot change, but what it is annotated with can."""
        parts = [getattr(alias, name, None) for name in ("__origin__", "__args__", "__metadata__")]
        return self._are_watched(parts)

    def _watch_own(self, value: Any) -> bool:
        """Watch what of its inside goes along with what each process makes anew."""
        return self._are_watched(process_local.inside(value) or ())

    def _watch_field(self, field: Any) -> bool:
        """Watch what dataclasses keep in a class; the types of fields are globals, or words."""
        names = getattr(type(field), "__slots__", ())
        if len(names) > 1:  # else an attrgetter returns no tuple; and those are what stands for nothing
            get = attrgetter(*names)
            self._checks.append(partial(_has_attributes, field, get, get(field)))
        metadata = getattr(field, "metadata", None)
        return (
            self._is_watched(getattr(field, "default", None))
            and self._is_watched(getattr(field, "default_factory", None))
            and (not metadata or self._watch_table(metadata))
        )

    def _watch_member(self, member: Any) -> bool:
        """Watch a member of an enumeration."""
        return self._is_watched(type(member)) and self._watch_table(vars(member))

    def _watch_value(self, value: Any) -> bool:
        """Watch a value of a kind that is not known here, with a pickle, or by what is in it."""
        if _is_plain(value):
            return True
        pickled = self._pickle(value)
        # What it names by value would be in the pickle of the whole, by value: of that, this one does not tell.
        if pickled is not None and not serialize.is_by_value(pickled):
            self._checks.append(partial(_is_pickled_as, pickled, value))
            return True
        kind = type(value)
        if kind is dict:
            return self._watch_table(value)
        if kind is list:
            self._checks.append(partial(_has_items, value, tuple(value)))
        return kind in (list, tuple, frozenset) and self._are_watched(value)

    def _pickle(self, value: Any) -> bytes | None:
        """Return a plain pickle, which is kept; None if there is none, or too much is kept."""
        pickled = _pickled(value)
        if pickled is None or self.size + len(pickled) > PICKLE_BYTES_MAX:
            return None
        self.size += len(pickled)
        return pickled


_PARTS: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {
    property: (("fget", "fset", "fdel"), ("__doc__",)),
    staticmethod: (("__func__",), ()),
    classmethod: (("__func__",), ()),
    functools.cached_property: (("func",), ("func", "attrname")),
    CACHED: (("__wrapped__",), ("__wrapped__",)),
}
"""What is inside of what makes attributes, or remembers results; and which of their own attributes can be set."""


def _is_plain(value: Any) -> bool:
    """Answer whether nothing can change inside a value, which is no kind that is known."""
    kind = type(value)
    return kind in _CONSTANTS or (kind in (tuple, frozenset) and all(map(_is_plain, value)))


def _pickled(value: Any) -> bytes | None:
    try:
        return pickle.dumps(value, serialize.PROTOCOL)
    except Exception:
        return None


def _is_constant(_value: Any) -> bool:
    return True


def _is_no_method(function: Any) -> bool:
    """Answer whether a function of C belongs to a module or a class, not to an object that may change."""
    return isinstance(function.__self__, (ModuleType, type))


def _class_named(module: str, name: str) -> Any:
    """Return a class of a module if that is loaded: else there is no instance of it."""
    return getattr(sys.modules.get(module), name, ())


def _registry_of(cls: type) -> Any:
    """Return the classes that count as subclasses of an abstract one because they were registered."""
    import _abc  # type: ignore[import-not-found]  # late: as cloudpickle does; not all Pythons have it

    return _abc._get_dump(cls)[0]


def _has_attributes(value: Any, get: Callable[[Any], tuple[Any, ...]], before: tuple[Any, ...]) -> bool:
    return all(map(is_, get(value), before))


def _is_pickled_as(pickled: bytes, value: Any) -> bool:
    return _pickled(value) == pickled


def _is_cell_of(cell: CellType, value: Any) -> bool:
    return cell.cell_contents is value


def _has_items(items: list[Any], before: tuple[Any, ...]) -> bool:
    return len(items) == len(before) and all(map(is_, items, before))


def _has_registry(cls: type, registry: Any) -> bool:
    return bool(_registry_of(cls) == registry)
