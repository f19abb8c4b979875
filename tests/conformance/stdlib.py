"""Finds the standard library's tests of concurrent.futures on this interpreter.

Knows their layout and nothing about us: one module in Python 3.10 and early 3.11, a package since.
What is looked up is found by what it is, not by a list of names, so a class that a new Python adds is noticed.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import platform
import unittest
from types import ModuleType
from typing import Any

PACKAGE = "test.test_concurrent_futures"


class StdlibTestsMissingError(ImportError):
    """This interpreter cannot run the standard library's tests of concurrent.futures."""


@functools.cache
def modules() -> tuple[ModuleType, ...]:
    """Import every module of the standard library's tests of concurrent.futures."""
    try:
        root = importlib.import_module(PACKAGE)
    except (ImportError, unittest.SkipTest) as error:
        # SkipTest: the package refuses at import, on builds with a sanitizer or without threads.
        raise StdlibTestsMissingError(
            f"Python {platform.python_version()} has no usable {PACKAGE} ({error}); conformance runs on "
            "interpreters installed with the standard library's tests"
        ) from error
    found = [root]
    for info in sorted(pkgutil.iter_modules(getattr(root, "__path__", ())), key=lambda info: info.name):
        try:
            found.append(importlib.import_module(f"{PACKAGE}.{info.name}"))
        except unittest.SkipTest:
            continue  # A module about something that this build lacks, such as subinterpreters.
    return tuple(found)


def lookup(name: str) -> Any:
    """Return the first thing of that name in any of the modules."""
    for module in modules():
        if hasattr(module, name):
            return getattr(module, name)
    raise LookupError(f"{PACKAGE} of Python {platform.python_version()} has no {name!r}")


def concrete_cases() -> dict[str, type[unittest.TestCase]]:
    """Return each test class of the standard library that holds tests, by name."""
    found: dict[str, type[unittest.TestCase]] = {}
    for module in modules():
        for name, value in vars(module).items():
            is_case = isinstance(value, type) and issubclass(value, unittest.TestCase)
            # What a module imported from another one is counted there.
            if is_case and value.__module__ == module.__name__ and names_of_tests(value):
                found[name] = value
    return found


def behaviours() -> dict[str, type]:
    """Return the mixins that hold the tests of process pools, by name: WaitTests, ExecutorDeadlockTest, ...

    The standard library joins each of them with one pool class per start method; what it joins with spawn is all.
    """
    spawn_pool: type = lookup("ProcessPoolSpawnMixin")
    found = {case.__bases__[0] for case in concrete_cases().values() if issubclass(case, spawn_pool)}
    return {behaviour.__name__: behaviour for behaviour in sorted(found, key=lambda behaviour: behaviour.__name__)}


def process_pools() -> tuple[type, ...]:
    """Return the standard library's mixins that make a pool of processes, one per start method."""
    return tuple(lookup(f"ProcessPool{method}Mixin") for method in ("Fork", "Forkserver", "Spawn"))


def names_of_tests(case: type) -> list[str]:
    """Return the names of the tests of a class or a mixin, inherited ones included."""
    return [name for name in dir(case) if name.startswith("test") and callable(getattr(case, name))]
