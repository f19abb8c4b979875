"""Checks heads.py: its pickles are those of functions, and it notices when something has changed."""

from __future__ import annotations

import functools
import gc
import operator
import pickle
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest
from hypothesis import strategies as st

from crew_executor import heads as heads_module
from crew_executor import namespace
from crew_executor.head import name_in
from crew_executor.heads import Heads

WORDS = st.text(max_size=100)
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), WORDS, st.complex_numbers(allow_nan=False)
)


def noop(*_arguments: Any) -> None:
    pass


def scaled(number: int) -> int:
    return number * FACTOR  # type: ignore[name-defined]  # noqa: F821  set in the module that it is put in


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """Return a module with a function of its own."""
    made = types.ModuleType("a_plain_module")
    exec("def twice(number):\n    return 2 * number\n", made.__dict__)
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def opened(data: bytes | None) -> Any:
    assert data is not None
    return pickle.loads(data)


def test_its_pickles_are_functions() -> None:
    heads = Heads()
    for function in (noop, operator.add, noop):
        assert opened(heads.head_of(function)) is function
        assert name_in(heads.head_of(function) or b"") == (function.__module__, function.__name__)


def test_calls_of_a_function_have_the_same_object_also_in_turns() -> None:
    heads = Heads()
    first = [heads.head_of(function) for function in (noop, operator.add, print)]
    again = [heads.head_of(function) for function in (noop, operator.add, print)]

    assert all(one is other for one, other in zip(first, again, strict=True))
    assert heads.command_of(noop) == f"{noop.__module__}.noop"


def test_it_forgets_functions_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads_module, "NAMED_MAX", 2)
    heads = Heads()
    for function in 3 * [noop, operator.add, print, operator.sub]:
        assert opened(heads.head_of(function)) is function
        assert len(heads._named) <= 2


@pytest.mark.parametrize("function", [lambda: None, print, "".join, dict.fromkeys, pytest.MonkeyPatch.context, int])
def test_what_is_no_function_of_a_module_by_its_name_is_left_to_pickle(function: Any) -> None:
    head = Heads().head_of(function)

    assert head is None or opened(head) is function
    assert (head is None) == (function is not print)


def test_a_function_that_is_no_global_has_a_head_the_second_time(module: types.ModuleType) -> None:
    """To look at it the first time would take as long as to pickle it, and many a lambda is called once."""
    cloudpickle.register_pickle_by_value(module)
    try:
        exec("def make(by): return lambda number: number + by", module.__dict__)
        heads, first, second = Heads(), module.make(1), module.make(2)
        assert [heads.head_of(function) for function in (first, second, first, second)] == 4 * [None]
        head = heads.head_of(second)
        assert opened(head)(1) == 3
        assert heads.head_of(second) is head
        second.__closure__[0].cell_contents = 5
        assert opened(heads.head_of(second))(1) == 6
        second.__closure__[0].cell_contents = [5]
        assert heads.head_of(second) is None, "it would be kept, and each call is to have its own"
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_a_function_that_another_has_replaced_is_left_to_pickle(module: types.ModuleType) -> None:
    heads, twice = Heads(), module.twice
    assert opened(heads.head_of(twice)) is twice
    module.twice = noop  # type: ignore[attr-defined]
    assert heads.head_of(twice) is None
    module.twice = twice  # type: ignore[attr-defined]
    heads = Heads()
    assert heads.head_of(twice) is not None
    sys.modules[module.__name__] = types.ModuleType(module.__name__)
    assert heads.head_of(twice) is None


@pytest.mark.parametrize(
    ("attribute", "value"), [("__qualname__", "other"), ("__module__", "other"), ("__module__", None)]
)
def test_a_function_with_another_name_is_left_to_pickle(module: types.ModuleType, attribute: str, value: Any) -> None:
    heads = Heads()
    assert heads.head_of(module.twice) is not None
    setattr(module.twice, attribute, value)

    assert heads.head_of(module.twice) is None


def test_a_module_that_travels_by_value_from_now_on(module: types.ModuleType) -> None:
    heads = Heads()
    before = heads.head_of(module.twice)
    cloudpickle.register_pickle_by_value(module)
    try:
        after = heads.head_of(module.twice)
        assert after is not None
        assert before is not None
        assert b"open_function" in after
        assert b"open_function" not in before
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert heads.head_of(module.twice) == before


def test_a_function_that_travels_by_value_sees_what_its_globals_are_now(
    module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace, "_namespaces", {})
    function = types.FunctionType(scaled.__code__, module.__dict__, "scaled")
    function.__module__, module.scaled, module.FACTOR = module.__name__, function, 3  # type: ignore[attr-defined]
    cloudpickle.register_pickle_by_value(module)
    try:
        heads = Heads()
        there = opened(heads.head_of(function))
        assert there is not function
        assert there(2) == 6
        module.FACTOR = 5  # type: ignore[attr-defined]
        assert opened(heads.head_of(function))(2) == 10
    finally:
        cloudpickle.unregister_pickle_by_value(module)


class Holder:
    def method(self, number: int) -> int:
        return number


class WeakWords(list[str]):
    pass


def closing_over(holder: Holder) -> Any:
    return lambda number: holder.method(number + 0)


@pytest.mark.parametrize("way", ["a method", "a closure", "a default", "a partial", "a built-in method"])
def test_what_a_function_holds_is_not_kept_alive(way: str) -> None:
    held, heads = Holder(), Heads()
    words = WeakWords(["one"])
    functions: dict[str, Any] = {
        "a method": held.method,
        "a closure": closing_over(held),
        "a default": lambda number, holder=held: holder.method(number),
        "a partial": functools.partial(Holder.method, held),
        "a built-in method": words.append,
    }
    seen = weakref.ref(words if way == "a built-in method" else held)
    for _ in range(3):
        assert heads.head_of(functions[way]) is None
    heads.command_of(functions[way])
    del held, words, functions
    gc.collect()

    assert seen() is None
