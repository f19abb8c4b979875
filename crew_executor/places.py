"""Where functions, classes and modules are found: what of a by-value module has a name there. In the client and worker.

Only answers; must not pickle anything, nor keep anything alive.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any

from . import serialize

Key = tuple[str, str]
"""A module and a name in it."""
CACHED = type(functools.lru_cache(maxsize=1)(lambda: None))
"""What functools.lru_cache() makes of a function."""

_script_globals: dict[str, dict[str, Any]] = {}


def place_of(item: Any) -> Key | None:
    """Return module and qualified name under which a class or function of a by-value module is found, or None."""
    module = getattr(item, "__module__", None)
    return found(item) if isinstance(module, str) and serialize.is_module_by_value(module) else None


def found(item: Any) -> Key | None:
    """Return module and qualified name under which a class or function is found, or None."""
    module, name = getattr(item, "__module__", None), getattr(item, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    there: Any = sys.modules.get(module)
    for part in name.split("."):
        there = getattr(there, part, None)
    return (module, name) if there is item else None


def is_importable(module: ModuleType) -> bool:
    """Answer whether workers can import this module by its name."""
    name = module.__name__
    return sys.modules.get(name) is module and not serialize.is_module_by_value(name)


def is_home(module: str, namespace: dict[str, Any]) -> bool:
    """Answer whether a dictionary is where the globals of a module are.

    Scripts that multiprocessing, a profiler or a debugger runs have their globals in a dictionary that is no module's.
    """
    if getattr(sys.modules.get(module), "__dict__", None) is namespace:
        return True
    if module in serialize.MAIN_MODULES and "__file__" in namespace:
        return _script_globals.setdefault(module, namespace) is namespace
    return False


class Submodules:
    """Remember which modules cloudpickle would have imported with a function.

    Of a package that the function uses these are all that are loaded, and whose names are in its code.
    """

    def __init__(self, function: FunctionType) -> None:
        self._names = names_in(function.__code__)
        home = function.__globals__
        used = [home.get(name) for name in self._names]
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # it is empty
                used.append(cell.cell_contents)
        self._prefixes = tuple({f"{module.__name__}." for module in used if getattr(module, "__package__", None)
                                and isinstance(module, ModuleType)})  # fmt: skip
        self.are_any = bool(self._prefixes)
        """Whether it uses a package at all."""
        self._number = len(sys.modules)
        self._loaded = self._look()

    def are_same(self) -> bool:
        """Answer whether they are the same now."""
        number = len(sys.modules)
        if number == self._number or not self._prefixes:
            return True
        if self._look() != self._loaded:
            return False
        self._number = number
        return True

    def _look(self) -> set[str]:
        if not self._prefixes:
            return set()
        return {
            name
            for name in list(sys.modules)
            for prefix in self._prefixes
            if name.startswith(prefix) and self._names.issuperset(name[len(prefix) :].split("."))
        }


def names_in(code: CodeType) -> set[str]:
    """Return the names in the code of a function and of those inside it: its globals are among them."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= names_in(constant)
    return names
