"""Functions that travel by value share the globals of their module in a worker: which are put there, and which stay.

The module `home` travels by value; this process is client and worker in one, as its namespaces are not the modules.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import weakref
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_executor import constants, large_globals, namespace, recent, serialize, table
from crew_executor.heads import Heads
from crew_executor.recent import Recent

from .fakes import hypothesis_settings

HOME = """
import functools
import json

value = 1
cache = {}

def read():
    return value

def set_value(new):
    global value
    value = new

def remember(key):
    cache[key] = cache.get(key, 0) + 1
    return cache[key]

def factorial(number):
    return 1 if number < 2 else number * factorial(number - 1)

def is_even(number):
    return True if number == 0 else is_odd(number - 1)

def is_odd(number):
    return False if number == 0 else is_even(number - 1)

def count(step, counts=[0]):
    counts[0] += step
    return counts[0]

def only_there():
    return unknown_here

def define():
    global unknown_here
    unknown_here = "set by a task"

def lines():
    return json.dumps([value])

@functools.lru_cache(maxsize=2)
def slow(number):
    computed.append(number)
    return number

computed = []

def call_slow(number):
    slow(number)
    return list(computed), slow.cache_info().maxsize

def inner(step):
    return lambda: value + step

def shadowed():
    return [value for value in "ab"], (lambda: value)()

class Outer:
    made = 0

    class Inner:
        def get(self):
            return value

alias = read
"""


@pytest.fixture(params=["whole", "in two"])
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return such a module; calls of its functions are pickled in one way or the other."""
    monkeypatch.setattr(sys.modules[__name__], "dumps", dumps_whole if request.param == "whole" else dumps_in_two)
    with a_home() as module:
        yield module


def dumps_whole(function: Callable[..., Any], *args: Any) -> bytes:
    return table.dumps_call((function, args, {}))


def dumps_in_two(function: Callable[..., Any], *args: Any) -> bytes:
    """Do what a submit() does; and what is done where the two are needed in one."""
    heads = Heads()
    heads.head_of(function)  # a lambda has none the first time
    return table.join(*heads.dumps(heads.head_of(function), function, args, {}))


dumps = dumps_whole


@contextlib.contextmanager
def a_home() -> Iterator[Any]:
    """Make a module that travels by value, and a worker that has nothing of it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, empty in (
            ("_namespaces", {}),
            ("_received", {}),
            ("_opened", Recent()),
        ):
            monkeypatch.setattr(namespace, name, empty)
        for name in ("_mentioned", "_looked_at"):
            monkeypatch.setattr(large_globals, name, set())
        monkeypatch.setattr(namespace, "_classes", weakref.WeakValueDictionary())
        module = ModuleType("home")
        monkeypatch.setitem(sys.modules, "home", module)
        exec(HOME, module.__dict__)
        cloudpickle.register_pickle_by_value(module)
        try:
            yield module
        finally:
            cloudpickle.unregister_pickle_by_value(module)


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Do what a submit() and a worker do."""
    there, arguments, keywords = serialize.loads(dumps(function, *args))
    return there(*arguments, **keywords)


def is_constant(function: Callable[..., Any]) -> bool:
    """Answer whether the short way was taken for it."""
    return Heads().head_of(function) is not None


def test_a_function_has_its_globals(home: Any) -> None:
    assert call(home.read) == 1
    assert call(home.lines) == "[1]"
    assert (call(home.factorial, 5), call(home.is_even, 7)) == (120, False)


def test_what_a_call_sets_is_seen_by_the_next_and_not_by_the_client(home: Any) -> None:
    call(home.set_value, 5)

    assert call(home.read) == 5
    assert home.value == 1


def test_a_cache_that_the_client_did_not_change_stays(home: Any) -> None:
    assert [call(home.remember, key) for key in "aba"] == [1, 1, 2]
    assert home.cache == {}


def test_a_default_argument_is_kept_like_a_global(home: Any) -> None:
    assert [call(home.count, 1), call(home.count, 2)] == [1, 3]


def test_a_global_that_the_client_changed_is_used(home: Any) -> None:
    call(home.set_value, 5)
    home.value = 2
    assert call(home.read) == 2
    call(home.set_value, 6)
    home.value = 1  # as at first, but changed
    assert call(home.read) == 1


def test_a_mutable_global_that_the_client_changed_in_place_is_used(home: Any) -> None:
    call(home.remember, "a")
    home.cache["a"] = 10

    assert call(home.remember, "a") == 11


def test_a_call_has_the_globals_of_when_it_was_submitted(home: Any) -> None:
    first = table.dumps_call(home.read)
    home.value = 2
    second = table.dumps_call(home.read)

    assert serialize.loads(second)() == 2
    assert serialize.loads(first)() == 1


def test_a_global_that_only_tasks_have_set_is_there(home: Any) -> None:
    with pytest.raises(NameError):
        call(home.only_there)
    call(home.define)
    assert call(home.only_there) == "set by a task"


def test_a_global_that_appears_in_the_client_is_sent_though_the_function_is_known(home: Any) -> None:
    with pytest.raises(NameError):
        call(home.only_there)
    home.unknown_here = "set by the client"

    assert call(home.only_there) == "set by the client"


def test_one_global_goes_and_another_comes_though_the_function_is_known(home: Any) -> None:
    exec("def either():\n    return first if 'first' in globals() else second", home.__dict__)
    home.first = 1
    assert call(home.either) == 1
    del home.first
    home.second = 2
    namespace.namespace_of("home").pop("first")

    assert call(home.either) == 2


def test_a_redefined_function_is_used_also_by_those_that_call_it(home: Any) -> None:
    assert call(home.is_even, 4) is True
    exec("def is_odd(number): return 'new'", home.__dict__)

    assert call(home.is_even, 4) == "new"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda function: setattr(function, "__code__", (lambda: 7).__code__), 7),
        (lambda function: setattr(function, "__defaults__", (3,)), 1),
        (lambda function: setattr(function, "mark", 1), 1),
    ],
)
def test_a_function_that_was_changed_in_place_is_pickled_again(
    home: Any, change: Callable[[Any], None], expected: int
) -> None:
    before = table.dumps_call(home.read)
    assert table.dumps_call(home.read) == before
    change(home.read)

    assert table.dumps_call(home.read) != before
    assert call(home.read) == expected


def test_a_memory_of_results_is_kept(home: Any) -> None:
    assert call(home.call_slow, 1) == ([1], 2)
    assert call(home.call_slow, 1) == ([1], 2)
    assert call(home.slow, 1) == 1
    assert call(home.call_slow, 2) == ([1, 2], 2)


def test_lambdas_and_closures_see_the_same_globals(home: Any) -> None:
    call(home.set_value, 5)

    assert call(home.inner(10)) == 15
    assert call(eval("lambda: value", home.__dict__)) == 5
    assert call(home.shadowed) == (["a", "b"], 5)


def test_a_second_name_is_the_same_function(home: Any) -> None:
    home.use = eval("lambda: (alias is read, alias())", home.__dict__)
    exec("def use(): return alias is read", home.__dict__)

    assert call(home.use) is True


def test_a_nested_class_travels_with_its_outer_one(home: Any) -> None:
    assert call(home.Outer.Inner().get) == 1


def test_a_function_that_exec_made_keeps_globals_of_its_own(home: Any) -> None:
    space = {"__name__": "home", "value": 100}
    exec("def read(): return value", space)

    assert call(space["read"]) == 100
    assert call(home.read) == 1


def test_what_is_wrapped_by_a_library_travels(home: Any) -> None:
    home.partial = functools.partial(home.factorial, 4)

    assert call(home.partial) == 24


def test_a_global_that_cannot_be_pickled_is_named(home: Any) -> None:
    home.value = (number for number in ())

    with pytest.raises(TypeError, match="cannot pickle") as caught:
        table.dumps_call(home.read)

    assert "raised while pickling value, a global of home" in str(getattr(caught.value, "__notes__", ""))


def test_a_global_that_cannot_be_unpickled_is_named_and_tried_again(home: Any) -> None:
    home.value = _FailsOnce()
    pickled = table.dumps_call(home.read)
    _FailsOnce.failures = 1

    with pytest.raises(ValueError, match="not yet") as caught:
        serialize.loads(pickled)
    assert "raised while unpickling value, a global of home" in str(getattr(caught.value, "__notes__", ""))
    assert serialize.loads(pickled)() == "at last"


class _FailsOnce:
    failures = 0

    def __reduce__(self) -> tuple[object, ...]:
        return (_fail_once, ())


def _fail_once() -> str:
    _FailsOnce.failures -= 1
    if _FailsOnce.failures >= 0:
        raise ValueError("not yet")
    return "at last"


def test_a_large_global_is_mentioned_once(home: Any, caplog: pytest.LogCaptureFixture) -> None:
    home.value = bytes(large_globals.LARGE_BYTES)
    with caplog.at_level(logging.WARNING, "crew_executor"):
        assert call(home.read) == home.value
        assert call(home.read) == home.value

    assert [record.getMessage()[:54] for record in caplog.records] == [
        "the global value of home takes 1.0 MB and travels with"
    ]


def test_a_large_variable_of_a_closure_is_mentioned_once(home: Any, caplog: pytest.LogCaptureFixture) -> None:
    exec("def make(data): return lambda: len(data)", home.__dict__)
    small, large = home.make(b"x"), home.make(bytes(2_000_000))
    with caplog.at_level(logging.WARNING, "crew_executor"):
        assert [call(small), call(large), call(large), call(home.make(bytes(3_000_000)))] == [
            1,
            *[2_000_000] * 2,
            3_000_000,
        ]
        assert call(home.slow, bytes(2_000_000)), "an argument is no closure"

    (record,) = caplog.records
    assert "the variable data of home.make.<locals>.<lambda> takes 2.0 MB" in record.getMessage()


def test_what_needs_no_globals_is_a_plain_pickle() -> None:
    import pickle

    assert table.dumps_call((len, "abc")) == pickle.dumps((len, "abc"), serialize.PROTOCOL)


# ---------------------------------------------------------------------- functions that use constants only


def test_functions_take_the_short_way_if_it_can_be_told_when_what_they_use_changes(home: Any) -> None:
    functions = {name: value for name, value in vars(home).items() if isinstance(value, FunctionType)}

    assert {name for name, function in functions.items() if not is_constant(function)} == set()
    home.value = (number for number in ())
    assert not is_constant(home.read)


def test_on_the_short_way_what_the_client_changes_is_used(home: Any) -> None:
    assert [is_constant(home.read), call(home.read)] == [True, 1]
    for value in (2, 1, 2.5, "text"):
        home.value = value
        assert call(home.read) == value
        assert call(home.lines) == f"[{value!r}]".replace("'", '"')


def test_on_the_short_way_what_a_task_has_set_stays(home: Any) -> None:
    call(home.set_value, 5)

    assert call(home.read) == 5
    home.value = 6
    assert call(home.read) == 6


def test_on_the_short_way_a_redefined_function_is_used_also_by_others(home: Any) -> None:
    assert call(home.is_even, 7) is False
    exec("def is_odd(number): return 'asked'", home.__dict__)
    assert call(home.is_even, 7) == "asked"
    home.is_odd.__defaults__ = (1,)
    assert call(home.is_even, 7) == "asked"


def test_on_the_short_way_a_value_that_changes_inside_is_sent_anew(home: Any) -> None:
    call(home.read)
    home.value = [1]
    assert call(home.read) == [1]
    home.value.append(2)
    assert call(home.read) == [1, 2]
    assert is_constant(home.read)
    home.value = [].append
    assert not is_constant(home.read)
    home.value = 3
    assert is_constant(home.read)
    assert call(home.read) == 3


CHANGES = [
    "value = 1", "value = 2", "value = [1]", "value = Outer", "value = Outer()", "cache['a'] = 5", "cache.clear()",
    "del value", "value = read", "alias = factorial", "alias = read", "Outer.made += 1", "Outer.extra = value_of",
    "del Outer.extra", "Outer.Inner.get = lambda self: value", "unknown_here = 1", "del unknown_here",
    "count.__defaults__ = ([5],)", "count.__defaults__[0].append(1)", "slow = functools.lru_cache(factorial)",
    "slow = functools.lru_cache(lambda number: number)", "def read(): return cache", "def read(): return value",
    "read.mark = 1", "read.__code__ = use.__code__", "Outer.__bases__ = (Base,)", "Base.scale = 2",
    "class Outer:\n made = 0\n def get(self): return value",
]  # fmt: skip


@given(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=12))
@hypothesis_settings(examples=60)
def test_whatever_changes_the_short_way_sends_what_the_long_one_would(changes: list[str]) -> None:
    """What is known of a function is held against what is made of it anew, after each change of the client's module."""
    with a_home() as home, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(constants, "CALLS_LEFT_OUT", 0)
        exec(USES, home.__dict__)
        heads = Heads()
        for change in changes:
            with contextlib.suppress(NameError, AttributeError, TypeError):
                exec(change, home.__dict__)
            for function in (home.use, home.read, home.use_class):
                known = heads.head_of(function)
                table._known_functions.clear()
                assert known == Heads().head_of(function), change


USES = """
class Base: scale = 1
def value_of(self): return value
def use(): return read(), alias(1), cache, count(1), slow(1), only_there()
def use_class(): return Outer().made, Base.scale
"""


def test_a_name_that_is_there_later_is_sent_then(home: Any) -> None:
    with pytest.raises(NameError):
        call(home.only_there)
    home.unknown_here = 7
    assert call(home.only_there) == 7


def test_arguments_that_travel_by_value_leave_the_short_way(home: Any) -> None:
    exec("def apply(function): return function()", home.__dict__)

    assert call(home.apply, home.read) == 1
    assert type(call(home.apply, home.Outer)).__name__ == "Outer"


def test_a_worker_forgets_functions_when_there_are_many(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "RECENT_MAX", 3)
    for number in range(10):
        home.value = number
        assert call(home.read) == number
    assert len(namespace._opened) <= 3
