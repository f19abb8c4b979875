"""Checks that the part of a call is found that cannot be pickled, and the sizes of all."""

from __future__ import annotations

import functools
import threading
from typing import Any, NamedTuple

import pytest

from crew_executor import checkup

LOCK = threading.Lock()


class Holder:
    """Has something, anywhere."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)

    def method(self) -> None:
        """Be bound."""


class Slotted:
    """Has it in a slot."""

    __slots__ = ("part",)

    def __init__(self, part: Any) -> None:
        self.part = part


class Pair(NamedTuple):
    """Has it in a field."""

    left: Any
    right: Any


def function(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("it must not be called")


def closure_over(thing: Any) -> Any:
    return lambda: thing


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ([LOCK], "args[0]"),
        ([1, [2, LOCK]], "args[1][1]"),
        ([{"a": (1, {"b": LOCK})}], "args[0]['a'][1]['b']"),
        ([Holder(inner=Holder(lock=LOCK))], "args[0].inner.lock"),
        ([Slotted(LOCK)], "args[0].part"),
        ([Pair(1, LOCK)], "args[0].right"),
        ([{LOCK}], "an item of args[0]"),
        ([{LOCK: 1}], "a key of args[0]"),
        ([closure_over([LOCK])], "thing, which args[0] has from around it,[0]"),
        ([functools.partial(function, LOCK)], "args[0].args[0]"),
        ([functools.partial(function, key=LOCK)], "args[0].keywords['key']"),
        ([Holder(lock=LOCK).method], "args[0].__self__.lock"),
    ],
)
def test_the_innermost_part_is_named(args: list[Any], path: str) -> None:
    found = checkup.look(function, tuple(args), {})

    assert not found
    assert found.culprit == (path, "lock", None)
    assert str(found).startswith(f"{path} (lock) cannot be pickled: TypeError: cannot pickle '_thread.lock' object")


def test_keywords_and_the_function_are_looked_at_too() -> None:
    assert checkup.look(function, (), {"table": LOCK}).culprit == ("kwargs['table']", "lock", None)
    assert checkup.look(LOCK.acquire, (), {}).culprit == ("fn.__self__", "lock", None)


@pytest.mark.parametrize(
    ("fn", "path", "words"),
    [
        (LOCK.acquire, "fn.__self__", "fn.__self__ of the function builtins.lock.acquire"),
        (Holder(lock=LOCK).method, "fn.__self__.lock", f"fn.__self__.lock of the function {__name__}.Holder.method"),
        (functools.partial(function, {"a fn b": LOCK}), "fn.args[0]['a fn b']",
         f"fn.args[0]['a fn b'] of the function {__name__}.function"),
        (closure_over([LOCK]), "thing, which fn has from around it,[0]",
         f"thing, which the function {__name__}.closure_over.<locals>.<lambda> (fn) has from around it,[0]"),
        (functools.partial(closure_over(LOCK)), "thing, which fn.func has from around it,",
         f"thing, which fn.func of the function {__name__}.closure_over.<locals>.<lambda> has from around it,"),
    ],
)  # fmt: skip
def test_in_words_the_function_is_named(fn: Any, path: str, words: str) -> None:
    found = checkup.look(fn, ({"fn": 1},), {"fn": 2})

    assert found.culprit == (path, "lock", None)
    assert found.problem.startswith(f"{words} (lock) cannot be pickled: ")


def test_a_function_of_a_script_is_named_without_its_module() -> None:
    script: dict[str, Any] = {"__name__": "__main__", "lock": LOCK, "numbers": bytes(50_000)}
    exec("def area(): return lock\ndef size(): return numbers", script)

    assert checkup.look(script["area"], (), {}).problem.startswith("the global lock of the function area (fn) (lock)")
    assert "  the function size (fn) (function): 50 kB" in str(checkup.look(script["size"], (), {}))
    assert checkup.look(function, ({"fn": LOCK},), {}).problem.startswith("args[0]['fn'] (lock)")


def test_a_circle_ends() -> None:
    circle: list[Any] = [LOCK]
    circle.insert(0, circle)

    assert checkup.look(function, (circle,), {}).culprit == ("args[0][1]", "lock", None)


def test_one_that_cannot_be_taken_apart_is_named_itself() -> None:
    class Stubborn:
        def __reduce__(self) -> Any:
            raise ValueError("not me")

    found = checkup.look(function, ([Stubborn()],), {})
    assert found.problem.startswith("args[0][0] (")
    assert found.problem.endswith("cannot be pickled: ValueError: not me")


def test_sizes_are_told_of_large_parts_and_of_very_large_ones_what_to_do() -> None:
    found = checkup.look(function, (bytes(2_000_000), bytearray(50_000), 1), {})._replace(where="a worker")
    lines = str(found).splitlines()

    assert found
    assert lines[0] == "the call can be sent, 2 MB, and a worker can read it"
    assert lines[1] == "  args[0] (bytes): 2 MB; if many calls have it, executor.share() sends it once"
    assert lines[2] == "  args[1] (bytearray): 50 kB"
    assert len(lines) == 3
    assert [part.path for part in found.parts] == ["fn", "args[0]", "args[1]", "args[2]"]


def test_what_a_worker_says_is_told() -> None:
    found = checkup.look(function, (), {})

    missing = checkup.judge(found, ModuleNotFoundError("No module named 'x'"), None)
    assert not missing
    assert "a worker cannot read it: ModuleNotFoundError: No module named 'x'; what it needs" in str(missing)
    other = checkup.judge(found, ValueError("odd"), None)
    assert str(other) == "the call can be pickled, but a worker cannot read it: ValueError: odd"
    assert str(checkup.judge(found, None, (7, "h1"))).endswith("and a worker (pid 7 on h1) can read it")
