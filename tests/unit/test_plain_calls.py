"""Checks plain_calls.py: its pickles are those of pickle, and it notices when something has changed."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from crew_executor import namespace
from crew_executor.plain_calls import ARGUMENTS_BYTES_MAX, PlainCalls

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


@settings(max_examples=40)
@given(st.lists(st.one_of(PLAIN, st.sampled_from(["again", "and again"])), max_size=6).map(tuple))
def test_its_pickles_are_calls(arguments: tuple[Any, ...]) -> None:
    calls = PlainCalls()
    for function in (noop, operator.add, noop):
        assert opened(calls.dumps(function, arguments)) == (function, arguments, {})


def test_the_same_object_twice_is_the_same_object_there() -> None:
    word = "a word that is the same object"
    _function, (first, second), _keywords = opened(PlainCalls().dumps(noop, (word, word)))

    assert first is second


def test_large_arguments_are_left_to_pickle() -> None:
    assert PlainCalls().dumps(noop, ("x" * ARGUMENTS_BYTES_MAX,)) is None


@pytest.mark.parametrize("function", [lambda: None, print, "".join, dict.fromkeys, pytest.MonkeyPatch.context, int])
def test_what_is_no_function_of_a_module_by_its_name_is_left_to_pickle(function: Any) -> None:
    data = PlainCalls().dumps(function, (1,))

    assert data is None or opened(data) == (function, (1,), {})
    assert (data is None) == (function is not print)


def test_a_function_that_another_has_replaced_is_left_to_pickle(module: types.ModuleType) -> None:
    calls, twice = PlainCalls(), module.twice
    assert opened(calls.dumps(twice, (1,)))[0] is twice
    module.twice = noop  # type: ignore[attr-defined]
    assert calls.dumps(twice, (1,)) is None
    module.twice = twice  # type: ignore[attr-defined]
    calls = PlainCalls()
    assert calls.dumps(twice, ()) is not None
    sys.modules[module.__name__] = types.ModuleType(module.__name__)
    assert calls.dumps(twice, ()) is None


@pytest.mark.parametrize(
    ("attribute", "value"), [("__qualname__", "other"), ("__module__", "other"), ("__module__", None)]
)
def test_a_function_with_another_name_is_left_to_pickle(module: types.ModuleType, attribute: str, value: Any) -> None:
    calls = PlainCalls()
    assert calls.dumps(module.twice, (1,)) is not None
    setattr(module.twice, attribute, value)

    assert calls.dumps(module.twice, (1,)) is None


def test_a_module_that_travels_by_value_from_now_on(module: types.ModuleType) -> None:
    calls = PlainCalls()
    before = calls.dumps(module.twice, (1,))
    cloudpickle.register_pickle_by_value(module)
    try:
        after = calls.dumps(module.twice, (1,))
        assert after is not None
        assert before is not None
        assert b"open_function" in after
        assert b"open_function" not in before
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert calls.dumps(module.twice, (1,)) == before


def test_a_function_that_travels_by_value_sees_what_its_globals_are_now(
    module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace, "_namespaces", {})
    function = types.FunctionType(scaled.__code__, module.__dict__, "scaled")
    function.__module__, module.scaled, module.FACTOR = module.__name__, function, 3  # type: ignore[attr-defined]
    cloudpickle.register_pickle_by_value(module)
    try:
        calls = PlainCalls()
        there, arguments, keywords = opened(calls.dumps(function, (2,)))
        assert there is not function
        assert (there(*arguments), keywords) == (6, {})
        module.FACTOR = 5  # type: ignore[attr-defined]
        there, arguments, _keywords = opened(calls.dumps(function, (2,)))
        assert there(*arguments) == 10
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
    held, calls = Holder(), PlainCalls()
    words = WeakWords(["one"])
    functions: dict[str, Any] = {
        "a method": held.method,
        "a closure": closing_over(held),
        "a default": lambda number, holder=held: holder.method(number),
        "a partial": functools.partial(Holder.method, held),
        "a built-in method": words.append,
    }
    seen = weakref.ref(words if way == "a built-in method" else held)
    calls.dumps(functions[way], (1,))
    calls.command_of(functions[way])
    del held, words, functions
    gc.collect()

    assert seen() is None
