"""Calls in two pickles: the head, which is the function's, or a table's, and is the same for many calls; and the rest.

Most calls of a program are of one function. Its pickle is the same object as last time as long as everything is as it
was; so only the arguments are pickled anew, and a frame of many calls has the function once. In the client. Must not
guess: in doubt there is no head, and the whole call is pickled in the ordinary way.
"""

from __future__ import annotations

import copyreg
import sys
import weakref
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from . import serialize
from .buffers import Buffers
from .calls import command_of
from .constant import Constant
from .constants import Constants
from .head import TEXT_BYTES_MAX, named_head
from .places import Key
from .table import Table

NAMED_MAX = 1000
"""Functions of modules that are remembered."""


class Heads:
    """Remember the functions that one executor calls."""

    def __init__(self) -> None:
        self._last: _Known | None = None
        self._named: dict[Any, _Named] = {}
        self._constants = Constants(_make_constant)
        self._met: Callable[[], Any] = _nobody  # a function that is no global, weakly, which was called last

    def command_of(self, function: Callable[..., Any]) -> str:
        """Return what calls.command_of() does, sooner for the function that was called last."""
        known = self._last
        return known.command if known is not None and known.function is function else command_of(function)

    def head_of(self, function: Callable[..., Any]) -> bytes | None:
        """Return the pickle of a function, or None if its calls must be pickled in the ordinary way."""
        known = self._last
        if known is None or known.function is not function or not known.is_current():
            known = self._last = self._look(function, known)
        return None if known is None else known.head

    def dumps(
        self, head: bytes | None, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any],
        buffers: Buffers | None = None,
    ) -> tuple[bytes, bytes]:  # fmt: skip
        """Pickle a call in two.

        Args:
            head: what head_of() says of the function.
            function, arguments, keywords: the call.
            buffers: take large buffers, which the pickle then is without.

        Returns:
            The pickle of the function and that of (arguments, keywords); or the pickle of None, which brings a table,
            or nothing, and the pickle of the whole, to be opened after it.

        Raises:
            whatever pickle or cloudpickle raised.
        """
        call = (function, arguments, keywords)
        data = serialize.dumps_by_name(call if head is None else call[1:], None, buffers)
        if data is not None:
            return head or b"", data
        is_apart = head is not None and serialize.is_module_by_value(function.__module__)
        table = Table(buffers=buffers)
        data, values = table.dumps_part(call[1:] if is_apart else call)
        if not is_apart and not values:
            return b"", data
        constant = self._constant_of(function if is_apart else None, values)
        if constant is not None:
            return constant.head, data
        return b"", Table(buffers=buffers).dumps(call) if is_apart else table.enclose(data)

    def _look(self, function: Any, last: _Known | None) -> _Known | None:
        """Look at a function; None: it has no head, and is not to be remembered, for that would keep what it holds.

        `last`: what was known of the function that was called last, and is not so any more if it was this one.
        """
        if type(function) is FunctionType and serialize.is_module_by_value(function.__module__):
            if not function.__qualname__.isidentifier() and self._met() is not function:
                self._met = weakref.ref(function)  # many a lambda is called once: to look at it takes as long as that
                return None
            stale = last.constant if isinstance(last, _Brought) and last.function is function else None
            constant = self._constants.of(function, {}, stale)
            return None if constant is None else _Brought(function, constant)
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

    def _constant_of(self, function: FunctionType | None, values: Mapping[Key, Any]) -> Constant | None:
        for (module, name), value in values.items():
            if getattr(sys.modules.get(module), name, values) is not value:
                return None  # of a script whose globals are in a dictionary that is no module's
        return self._constants.of(function, values)


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
        self._home = sys.modules[module]
        self.head = named_head(module, name)

    def is_current(self) -> bool:
        function: Any = self.function
        return (
            sys.modules.get(self._module) is self._home
            and getattr(self._home, self._name, None) is function
            and function.__module__ == self._module
            and (self._is_c or self.function.__qualname__ == self._name)
            and not serialize.is_module_by_value(self._module)
        )


class _Brought(_Known):
    """A function that travels by value, of which can be told when it changes."""

    def __init__(self, function: FunctionType, constant: Constant) -> None:
        super().__init__(function)
        self.constant = constant
        self._is_same = constant.is_current
        self.head = constant.head

    def is_current(self) -> bool:
        return serialize.is_module_by_value(self.function.__module__) and self._is_same()


def _nobody() -> None: ...


def _make_constant(function: Any, values: Mapping[Key, Any]) -> Constant | None:
    return Table().make_constant(function, values)


def _named(function: Any) -> _Named | None:
    """Return a function that its module has under its name."""
    module, name = function.__module__, function.__qualname__
    if not (type(module) is str and type(name) is str and module in sys.modules and name.isidentifier()):
        return None
    if max(len(module.encode()), len(name.encode())) > TEXT_BYTES_MAX:
        return None
    if getattr(sys.modules[module], name, None) is not function:
        return None
    named = _Named(function, module, name)
    return named if named.is_current() else None
