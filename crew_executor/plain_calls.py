"""Pickles calls of plain arguments sooner than pickle does: most calls of a program are of one function.

What names the function, or brings it along, is the same bytes as last time as long as everything is as it was; only
the arguments are pickled anew. In the client. Must not guess: in doubt it returns None, and pickle has the whole call.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from pickle import dumps
from sys import modules
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from . import namespace, serialize
from .calls import command_of
from .serialize import PROTOCOL

ARGUMENTS_BYTES_MAX = 60_000
"""Pickles of arguments above this may be in several frames."""

_PROTOCOL, _AT = b"\x80\x05", 2
_FRAME, _IN_FRAME = 0x95, _AT + 9  # its size is behind it
_TAIL = b"}\x87."  # no keywords; a tuple of the last three; the end


class PlainCalls:
    """Remember the function that was called last."""

    def __init__(self) -> None:
        self._last: _Known | None = None

    def command_of(self, function: Callable[..., Any]) -> str:
        """Return what calls.command_of() does, sooner for the function that was called last."""
        known = self._last
        return known.command if known is not None and known.function is function else command_of(function)

    def dumps(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes | None:
        """Return the pickle of (function, arguments, {}), or None if it must be pickled in the ordinary way.

        Args:
            function: a function, or one of a C module.
            arguments: numbers, strings, bools, None.
        """
        known = self._last
        if known is None or known.function is not function or not known.is_current():
            if not _is_bare(function):
                return None  # and not remembered: that would keep what it holds
            known = self._last = _look(function)
        head = known.head
        if head is None:
            return None
        if not arguments:
            return known.call_without_arguments
        # A pickle is a protocol, a frame if it is not tiny, the object, the end. The object refers to earlier parts of
        # itself by their numbers, which begin at 0 here as well: the head gives none away.
        data = dumps(arguments, PROTOCOL)
        if len(data) > ARGUMENTS_BYTES_MAX:
            return None
        return head + data[_IN_FRAME if data[_AT] == _FRAME else _AT : -1] + _TAIL


class _Known:
    """A function of which nothing is known: it is always pickled in the ordinary way."""

    head: bytes | None = None

    def __init__(self, function: Any) -> None:
        self.function = function
        self.command = command_of(function)

    def is_current(self) -> bool:
        """Answer whether all is as it was."""
        return True

    @property
    def call_without_arguments(self) -> bytes:
        """The whole pickle."""
        assert self.head is not None
        return self.head + b")" + _TAIL


class _Named(_Known):
    """A function that workers import."""

    def __init__(self, function: Any, module: str, name: str) -> None:
        super().__init__(function)
        self._module, self._name = module, name
        self._is_c = type(function) is BuiltinFunctionType  # those make their __qualname__ anew, the same each time
        self._home = modules[module]
        self.head = b"".join((_PROTOCOL, _text(module), _text(name), b"\x93"))
        self._whole = self.head + b")" + _TAIL

    def is_current(self) -> bool:
        function: Any = self.function
        return (
            modules.get(self._module) is self._home
            and getattr(self._home, self._name, None) is function
            and function.__module__ == self._module
            and (self._is_c or self.function.__qualname__ == self._name)
            and not serialize.is_module_by_value(self._module)
        )

    @property
    def call_without_arguments(self) -> bytes:
        return self._whole


class _Brought(_Known):
    """A function that travels by value, and is constant."""

    def __init__(self, function: FunctionType, constant: namespace.Constant) -> None:
        super().__init__(function)
        self._constant = constant
        self.head = constant.function_head

    def is_current(self) -> bool:
        return (
            serialize.is_module_by_value(self.function.__module__)
            and _is_bare(self.function)
            and self._constant.is_current()
        )


def _look(function: Any) -> _Known:
    if type(function) is FunctionType:
        constant = namespace.constant_of(function)
        if constant is not None:
            return _Brought(function, constant)
    elif BuiltinFunctionType in copyreg.dispatch_table:
        return _Known(function)
    module, name = function.__module__, function.__qualname__
    if not (type(module) is str and type(name) is str and module in modules and name.isidentifier()):
        return _Known(function)
    if max(len(module.encode()), len(name.encode())) > 255:
        return _Known(function)
    named = _Named(function, module, name)
    return named if named.is_current() else _Known(function)


def _is_bare(function: Any) -> bool:
    """Answer whether this is a function that holds no objects, which may be as large as an argument.

    A partial and a method do, and even a function may.
    """
    if type(function) is FunctionType:
        return not (function.__closure__ or function.__defaults__ or function.__kwdefaults__)
    return type(function) is BuiltinFunctionType and type(function.__self__) is ModuleType


def _text(word: str) -> bytes:
    data = word.encode()
    return b"\x8c" + bytes([len(data)]) + data
