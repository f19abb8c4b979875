"""Calls and results to bytes: when plain pickle is enough."""

from __future__ import annotations

import copyreg
import functools
import gc
import pickle
import sys
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

from crew_executor import serialize


def no_cloudpickle(*_arguments: Any, **_options: Any) -> bytes:
    raise AssertionError("cloudpickle is asked")


def as_text(item: Any) -> Any:
    return (str, (b"some text", "ascii")) if isinstance(item, Exception) else NotImplemented


@pytest.mark.parametrize("reduce", [None, as_text], ids=["no reducer", "with a reducer"])
def test_what_needs_no_cloudpickle_is_a_plain_pickle(
    reduce: Callable[[Any], Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serialize, "dumps_by_value", no_cloudpickle)

    assert (len, [1.5]) == pickle.loads(serialize.dumps((len, [1.5]), reduce))


def test_a_reducer_is_asked_in_a_plain_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "dumps_by_value", no_cloudpickle)

    assert ["some text"] == pickle.loads(serialize.dumps([ValueError()], as_text))


# ---------------------------------------------------------------------- with a reducer, a module's name may stand there

THERE = """
class Thing:
    def __init__(self):
        self.attribute = 1

def function():
    return 1
"""


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that travels by value."""
    module = ModuleType("module_by_value")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(THERE, module.__dict__)
    cloudpickle.register_pickle_by_value(module)
    yield module
    cloudpickle.unregister_pickle_by_value(module)


class Named:
    """Its reduction is a string: the name of a global."""

    def __reduce__(self) -> str:
        return "named"


class Surprising:
    def __getattribute__(self, name: str) -> Any:
        if name == "__module__":
            raise ValueError("what a user's attribute may do")
        return super().__getattribute__(name)


named = Named()
surprising = Surprising()


def test_a_string_with_the_name_of_a_module_by_value_needs_no_cloudpickle(there: Any) -> None:
    value = [there.__name__, {"__main__": 1.5}, as_text, functools.partial(len)]

    assert pickle.dumps(value, serialize.PROTOCOL) == serialize.dumps_by_name(value, as_text)


@pytest.mark.parametrize(
    "make",
    [
        lambda there: there.Thing,
        lambda there: there.Thing(),
        lambda there: there.function,
        lambda there: [functools.partial(there.function)],
        lambda there: {1: (there.__name__, there.Thing)},
    ],
    ids=["a class", "an instance", "a function", "in a partial", "after its name"],
)
def test_what_is_of_a_module_by_value_is_not_named(make: Callable[[Any], Any], there: Any) -> None:
    assert serialize.dumps_by_name(make(there), as_text) is None


def test_what_names_itself_is_not_named_where_it_is_by_value(there: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert serialize.dumps_by_name([there.__name__, named], as_text) is not None

    monkeypatch.setattr(Named, "__module__", there.__name__)
    there.named = named

    assert serialize.dumps_by_name([named], as_text) is None


def test_who_knows_is_by_value(there: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What hides its module, or might be found anywhere, goes to cloudpickle."""
    assert serialize.dumps_by_name([there.__name__, surprising], as_text) is None
    assert serialize.dumps_by_name([there.__name__, 1 + 2j, range(3)], as_text) is None  # copyreg has complex numbers
    monkeypatch.delitem(copyreg.dispatch_table, complex)
    assert serialize.dumps_by_name([there.__name__, 1 + 2j, range(3)], as_text) is not None


def test_what_the_reducer_replaces_is_not_named(there: Any) -> None:
    def reduce(item: Any) -> Any:
        return (str, (b"in its place", "ascii")) if item is there.Thing else NotImplemented

    data = serialize.dumps_by_name([there.__name__, there.Thing], reduce)

    assert data is not None
    assert [there.__name__, "in its place"] == pickle.loads(data)


class _Thing:
    """Something to be pickled by value, and watched."""


def test_what_was_pickled_by_value_is_not_kept_until_the_collector_comes() -> None:
    thing = _Thing()
    gone = weakref.ref(thing)
    gc.disable()
    try:
        serialize.dumps_by_value((lambda: 1, thing))
        del thing
        assert gone() is None
    finally:
        gc.enable()


def test_a_function_by_value_knows_where_its_lines_are() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("def outer():\n    return lambda: 1\n", "<cell 7>", "exec"), names)

    outer = serialize.loads(serialize.dumps_by_value(names["outer"]))

    assert outer.__code__.co_filename == outer().__code__.co_filename == "<cell 7>"
    assert (outer.__code__.co_firstlineno, outer().__code__.co_firstlineno) == (1, 2)
