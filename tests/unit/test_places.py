"""Checks places.py: what has a name where, and which submodules go along with a function."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle
import pytest

from crew_executor.places import Submodules, found, is_home, is_importable, names_in, place_of

HOME = """
import package

class Outer:
    class Inner: pass
    def method(self): pass

def plain(x):
    return package.part.deep.value, (lambda: later)

def closing():
    module = package
    return lambda: module.other

second = plain
"""


@pytest.fixture
def home() -> Iterator[Any]:
    """A module that travels by value, and a package that it uses."""
    before = set(sys.modules)
    package = ModuleType("package")
    package.__package__ = "package"
    sys.modules["package"], sys.modules["home"] = package, (module := ModuleType("home"))
    exec(HOME, module.__dict__)
    cloudpickle.register_pickle_by_value(module)
    yield module
    cloudpickle.unregister_pickle_by_value(module)
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_place_is_where_the_very_thing_is_found(home: Any) -> None:
    assert place_of(home.plain) == place_of(home.second) == ("home", "plain")
    assert place_of(home.Outer.Inner) == ("home", "Outer.Inner")
    assert place_of(home.closing()) is None
    old = home.plain
    exec("def plain(x): pass", home.__dict__)
    assert (place_of(old), place_of(home.plain)) == (None, ("home", "plain"))


def test_what_workers_can_import_is_found_and_has_no_place() -> None:
    assert found(Submodules) == ("crew_executor.places", "Submodules")
    assert place_of(Submodules) is None
    assert found(5) is None


def test_modules_that_travel_by_value_are_not_importable(home: Any) -> None:
    assert (is_importable(sys), is_importable(home), is_importable(ModuleType("nowhere"))) == (True, False, False)
    assert is_home("home", home.__dict__)
    assert not is_home("home", dict(home.__dict__))


def test_names_are_also_those_of_functions_inside(home: Any) -> None:
    assert names_in(home.plain.__code__) == {"package", "part", "deep", "value", "later"}


@pytest.mark.parametrize(
    ("function", "module", "is_change"),
    [
        ("plain", "package.part", True),
        ("plain", "package.part.deep", True),
        ("plain", "package.other", False),
        ("plain", "package.part.elsewhere", False),
        ("plain", "other.part", False),
        ("closing()", "package.other", True),
    ],
)
def test_a_submodule_that_is_loaded_later_is_a_change_if_it_is_named(
    home: Any, function: str, module: str, is_change: bool
) -> None:
    made: FunctionType = eval(function, home.__dict__)
    submodules = Submodules(made)
    assert submodules.are_any
    assert submodules.are_same()
    sys.modules[module] = ModuleType(module)

    assert [submodules.are_same() for _ in range(2)] == 2 * [not is_change]
    assert Submodules(made).are_same()


def test_a_function_without_packages_has_none(home: Any) -> None:
    assert not Submodules(home.Outer.method).are_any
