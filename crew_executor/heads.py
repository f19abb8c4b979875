"""What calls begin with: the pickle of the function, apart from that of the arguments.

Most calls of a program are of one function. Its pickle is the same object as last time as long as everything is as it
was; so only the arguments are pickled anew, and a frame of many calls has the function once. In the client. Must not
guess: in doubt there is no head, and the whole call is pickled in the ordinary way.
"""

from __future__ import annotations

import copyreg
import weakref
from collections.abc import Callable
from sys import modules
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from . import namespace, serialize
from .calls import command_of
from .constant import Constant

_PROTOCOL = b"\x80\x05"
_TEXT = b"\x8c"  # a short string; its size is behind it
_GLOBAL = b"\x93."  # what has the last two strings as module and name; the end


NAMED_MAX = 1000
"""Functions of modules that are remembered."""


class Heads:
    """Remember the function that was called last, and those of modules."""

    def __init__(self) -> None:
        self._last: _Known | None = None
        self._named: dict[Any, _Named] = {}
        self._met: Callable[[], Any] = _nobody  # a function that is no global, weakly, which was called last

    def command_of(self, function: Callable[..., Any]) -> str:
        """Return what calls.command_of() does, sooner for the function that was called last."""
        known = self._last
        return known.command if known is not None and known.function is function else command_of(function)

    def head_of(self, function: Callable[..., Any]) -> bytes | None:
        """Return the pickle of a function, or None if its calls must be pickled in the ordinary way."""
        known = self._last
        if known is None or known.function is not function or not known.is_current():
            known = self._last = self._look(function)
        return None if known is None else known.head

    def _look(self, function: Any) -> _Known | None:
        """Look at a function; None: it has no head, and is not to be remembered, for that would keep what it holds."""
        if type(function) is FunctionType:
            if not function.__qualname__.isidentifier() and self._met() is not function:
                self._met = weakref.ref(function)  # many a lambda is called once: to look at it takes as long as that
                return None
            constant = namespace.constant_of(function)
            if constant is not None:
                return _Brought(function, constant)
        return self._look_up(function)

    def _look_up(self, function: Any) -> _Known | None:
        """Return a function that workers import."""
        kind = type(function)
        is_c = kind is BuiltinFunctionType and type(function.__self__) is ModuleType
        if kind is not FunctionType and (not is_c or kind in copyreg.dispatch_table):
            return None
        named = self._named.get(function)
        if named is None or not named.is_current():
            named = _named(function)
            if named is not None:
                if len(self._named) >= NAMED_MAX:
                    self._named.clear()
                self._named[function] = named
        return named


class _Known:
    """A function that was looked at."""

    head: bytes

    def __init__(self, function: Any) -> None:
        self.function = function
        self.command = command_of(function)

    def is_current(self) -> bool:
        """Answer whether all is as it was."""
        raise NotImplementedError


class _Named(_Known):
    """A function that workers import."""

    def __init__(self, function: Any, module: str, name: str) -> None:
        super().__init__(function)
        self._module, self._name = module, name
        self._is_c = type(function) is BuiltinFunctionType  # those make their __qualname__ anew, the same each time
        self._home = modules[module]
        self.head = b"".join((_PROTOCOL, _text(module), _text(name), _GLOBAL))

    def is_current(self) -> bool:
        function: Any = self.function
        return (
            modules.get(self._module) is self._home
            and getattr(self._home, self._name, None) is function
            and function.__module__ == self._module
            and (self._is_c or self.function.__qualname__ == self._name)
            and not serialize.is_module_by_value(self._module)
        )


class _Brought(_Known):
    """A function that travels by value, of which can be told when it changes."""

    def __init__(self, function: FunctionType, constant: Constant) -> None:
        super().__init__(function)
        self._is_same = constant.is_current
        self.head = constant.head

    def is_current(self) -> bool:
        return serialize.is_module_by_value(self.function.__module__) and self._is_same()


def _nobody() -> None: ...


def _named(function: Any) -> _Named | None:
    """Return a function that its module has under its name."""
    module, name = function.__module__, function.__qualname__
    if not (type(module) is str and type(name) is str and module in modules and name.isidentifier()):
        return None
    if max(len(module.encode()), len(name.encode())) > 255 or getattr(modules[module], name, None) is not function:
        return None
    named = _Named(function, module, name)
    return named if named.is_current() else None


def _text(word: str) -> bytes:
    data = word.encode()
    return _TEXT + bytes([len(data)]) + data


def name_in(head: bytes) -> tuple[str, str] | None:
    """Return the module and the name of which a head consists; None: it is of another kind."""
    words = []
    at = len(_PROTOCOL)
    while head[at : at + 1] == _TEXT:
        start, at = at + 2, at + 2 + head[at + 1]
        words.append(head[start:at].decode())
    return (words[0], words[1]) if len(words) == 2 and head[at:] == _GLOBAL else None
