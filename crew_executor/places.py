"""Where functions, classes and modules are found: what of a by-value module has a name there. In the client and worker.

Only answers; must not pickle anything, nor keep anything alive.
"""

from __future__ import annotations

import functools
import sys
from types import CodeType, ModuleType
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


def names_in(code: CodeType) -> set[str]:
    """Return the names in the code of a function and of those inside it: its globals are among them."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= names_in(constant)
    return names
