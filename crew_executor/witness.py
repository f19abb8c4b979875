"""Tells whether functions, classes and values are still as they were when a pickle was made of them. In the client.

A pickle of a function that travels by value holds all that it uses. To make it for each call takes a tenth of a
millisecond where there is a class among that; to look whether anything has changed takes a few microseconds:

- what cannot change inside, by its identity: numbers, strings, modules, functions of a library;
- functions by their code, defaults and closure, classes by their attributes: each by its identity, and what is inside;
- any other value by its plain pickle, made anew each time. That names classes and functions, which are looked after by
  themselves.

Must not guess: watch() answers False for what it cannot be sure of. Keeps no values that have a pickle of their own.
"""

from __future__ import annotations

import functools
import pickle
import sys
from collections.abc import Callable, Iterable, KeysView, Mapping
from functools import partial
from operator import is_
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from . import process_local, serialize
from .places import CACHED, found, is_home, is_importable, names_in, place_of

PICKLE_BYTES_MAX = 1_000_000
"""Values with longer pickles are not watched: to keep those, and to compare them, would cost more than it gains."""

_CONSTANTS = frozenset(
    (
        int, float, complex, bool, str, bytes, type(None), type(NotImplemented), type(...), range,
        GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType,
    )
)  # fmt: skip
"""Types whose instances cannot change."""
_CONSTANT_NAMES = {("typing", "ForwardRef"), ("annotationlib", "ForwardRef"), ("typing", "TypeVar")}
"""More of them, whose modules are not always loaded."""


class Witness:
    """Remember how things are; nothing is watched at first."""

    def __init__(self) -> None:
        self._named: list[tuple[Mapping[str, Any], str, Any]] = []
        self._absent: dict[int, tuple[KeysView[str], set[str]]] = {}
        self._functions: list[tuple[FunctionType, CodeType, Any, Any, bool]] = []
        self._tables: list[tuple[Mapping[Any, Any], tuple[Any, ...], tuple[Any, ...]]] = []
        self._checks: list[Callable[[], bool]] = []
        self._seen: dict[int, Any] = {}

    def watch(self, namespace: Mapping[str, Any], name: str) -> bool:
        """Watch a global; return False if nobody can say whether it changes."""
        value = namespace[name]
        if self._is_watched(value, is_pickle_enough=False):
            self._named.append((namespace, name, value))
            return True
        if self._watcher_of(value) is not None:
            return False
        # Its table entry names the classes and functions that it refers to, as this pickle does: they are globals, too.
        pickled = _pickled(value)
        if pickled is not None:
            self._checks.append(partial(_is_global_pickled_as, pickled, namespace, name))
        return pickled is not None

    def watch_function(self, function: FunctionType) -> bool:
        """Watch a function that is no global; False also if it holds objects: these would be kept with it."""
        try:
            held = [*(function.__defaults__ or ()), *(cell.cell_contents for cell in function.__closure__ or ())]
        except ValueError:  # an empty cell
            return False
        holds_nothing = _CONSTANTS.issuperset(map(type, held)) and not (function.__kwdefaults__ or function.__dict__)
        return holds_nothing and self._watch_function(function)

    def is_current(self) -> bool:
        """Answer whether all is as it was."""
        try:
            for namespace, name, value in self._named:
                if namespace.get(name) is not value:
                    return False
            for names_there, names in self._absent.values():
                if not names_there.isdisjoint(names):
                    return False
            return self._have_same_insides()
        except Exception:  # a user's __reduce__, a dictionary that another thread changes: who pickles it will say
            return False

    def _have_same_insides(self) -> bool:
        for function, code, defaults, keyword_defaults, has_attributes in self._functions:
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__ is not keyword_defaults
                or bool(function.__dict__) is not has_attributes
            ):
                return False
        for table, keys, values in self._tables:
            if tuple(table) != keys or not all(map(is_, table.values(), values)):
                return False
        return not self._checks or all(check() for check in self._checks)

    # ------------------------------------------------------------------ what is remembered

    def _is_watched(self, value: Any, *, is_pickle_enough: bool = True) -> bool:
        """Watch what can change inside a value whose identity somebody else watches; False if that cannot be done.

        `is_pickle_enough`: to keep a value that is of no kind known here, with its pickle.
        """
        kind = type(value)
        if kind in _CONSTANTS or id(value) in self._seen:
            return True
        if kind in (tuple, frozenset):
            return all(map(self._is_watched, value))
        watch = self._watcher_of(value)
        if watch is not None:
            self._seen[id(value)] = value  # before: a method refers to its class
            return watch(value)
        return is_pickle_enough and self._is_watched_by_pickle(value)

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
        elif process_local.is_one(value) or (kind.__module__, kind.__name__) in _CONSTANT_NAMES:
            watch = _is_constant
        elif kind.__module__ == "dataclasses":
            watch = self._watch_field
        elif isinstance(kind, _class_named("enum", "EnumMeta")):
            watch = self._watch_member
        return watch

    def _watch_function(self, function: FunctionType) -> bool:
        """Watch a function that travels by value; those of a library travel by name."""
        module = function.__module__
        if not serialize.is_module_by_value(module or "") and found(function) is not None:
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
        defaults, keyword_defaults = function.__defaults__, function.__kwdefaults__
        self._functions.append((function, code, defaults, keyword_defaults, bool(function.__dict__)))
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # it is empty, as yet
                return False
            if not self._is_watched(value):
                return False
            self._checks.append(partial(_is_cell_of, cell, value))
        tables = [table for table in (keyword_defaults, function.__dict__) if table]
        return self._is_watched(defaults) and all(map(self._watch_table, tables))

    def _watch_class(self, cls: type) -> bool:
        """Watch a class that travels by value, with its attributes; those of a library travel by name."""
        if not serialize.is_module_by_value(cls.__module__):
            return found(cls) is not None
        if serialize.is_module_by_value(type(cls).__module__) or place_of(cls) is None:
            return False
        attributes = vars(cls)
        if "_abc_impl" in attributes:
            self._checks.append(partial(_has_registry, cls, _registry_of(cls)))
        self._checks.append(partial(_has_bases, cls, cls.__bases__))
        return self._watch_table(attributes, without="_abc_impl") and all(map(self._is_watched, cls.__bases__))

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
        return all(self._is_watched(getattr(value, name)) for name in _PARTS[type(value)])

    def _watch_field(self, field: Any) -> bool:
        """Watch what dataclasses keep in a class: nobody changes it, but what a default refers to."""
        return self._is_watched(getattr(field, "default", None)) and self._is_watched(
            getattr(field, "default_factory", None)
        )

    def _watch_member(self, member: Any) -> bool:
        """Watch a member of an enumeration: it is what its class says."""
        return self._is_watched(type(member))

    def _is_watched_by_pickle(self, value: Any) -> bool:
        pickled = _pickled(value)
        # What it names by value would be in the pickle of the whole, by value: of that, this one does not tell.
        if pickled is not None and not serialize.is_by_value(pickled):
            self._checks.append(partial(_is_pickled_as, pickled, value))
            return True
        if type(value) is dict:
            return self._watch_table(value)
        if type(value) is list:
            self._checks.append(partial(_has_items, value, tuple(value)))
            return self._are_watched(value)
        return False


_PARTS: dict[type, tuple[str, ...]] = {
    property: ("fget", "fset", "fdel"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    functools.cached_property: ("func",),
    CACHED: ("__wrapped__",),
}
"""What is inside of what makes attributes, or remembers results."""


def _pickled(value: Any) -> bytes | None:
    try:
        pickled = pickle.dumps(value, serialize.PROTOCOL)
    except Exception:
        return None
    return pickled if len(pickled) <= PICKLE_BYTES_MAX else None


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


def _is_global_pickled_as(pickled: bytes, namespace: Mapping[str, Any], name: str) -> bool:
    return _pickled(namespace.get(name)) == pickled


def _is_pickled_as(pickled: bytes, value: Any) -> bool:
    return _pickled(value) == pickled


def _is_cell_of(cell: CellType, value: Any) -> bool:
    return cell.cell_contents is value


def _has_items(items: list[Any], before: tuple[Any, ...]) -> bool:
    return len(items) == len(before) and all(map(is_, items, before))


def _has_bases(cls: type, bases: tuple[type, ...]) -> bool:
    return cls.__bases__ is bases


def _has_registry(cls: type, registry: Any) -> bool:
    return bool(_registry_of(cls) == registry)
