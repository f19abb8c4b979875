"""Checks constants.py: what is kept, and when no more is tried."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from crew_executor.constants import CALLS_LEFT_OUT, SWEPT, USELESS_MAX, Constants
from crew_executor.places import Key


class FakeConstant:
    """A constant that is current as long as it is told so."""

    size = 1
    is_now = is_there = True

    def __init__(self, function: Any) -> None:
        self.function = function

    def is_current(self) -> bool:
        return self.is_now

    def has_names(self) -> bool:
        return self.is_there


class Maker:
    """Make constants, and count them."""

    def __init__(self) -> None:
        self.made: list[FakeConstant | None] = []
        self.can = True

    def make(self, function: Any, _values: Any) -> Any:
        if self.can is None:
            raise TypeError("this cannot be pickled")
        self.made.append(FakeConstant(function) if self.can else None)
        return self.made[-1]


@pytest.fixture
def maker() -> Maker:
    return Maker()


def first(number: int) -> int:
    return number


def second(number: int) -> int:
    return number


VALUES: dict[Key, Any] = {("module", "name"): 1}


def test_one_is_made_once_for_a_function_and_its_globals(maker: Maker) -> None:
    kept = Constants(maker.make)
    three, several = (first, second, None), ({}, VALUES)
    made = [kept.of(function, values) for _ in range(3) for function in three for values in several]

    assert len(maker.made) == 6
    assert made == 3 * maker.made


def test_another_function_of_the_same_name_has_another(maker: Maker) -> None:
    kept = Constants(maker.make)

    def again(number: int) -> int:
        return -number

    again.__qualname__ = first.__qualname__
    assert kept.of(first, {}) is not kept.of(again, {})
    assert len(maker.made) == 2


@pytest.mark.parametrize("can", [False, None])
def test_what_cannot_be_made_is_left_alone_for_a_while(maker: Maker, can: Any) -> None:
    kept = Constants(maker.make)
    maker.can = can
    assert kept.of(first, {}) is None
    maker.can = True

    assert [kept.of(first, {}) for _ in range(CALLS_LEFT_OUT)] == CALLS_LEFT_OUT * [None]
    assert isinstance(kept.of(first, {}), FakeConstant)


def test_what_changes_before_each_call_is_left_alone_for_a_while(maker: Maker) -> None:
    kept = Constants(maker.make)
    for _ in range(10 * CALLS_LEFT_OUT):
        constant: Any = kept.of(first, {})
        if constant is not None:
            constant.is_now = False

    assert len(maker.made) <= 10 * (1 + USELESS_MAX)


def test_what_changes_now_and_then_is_made_anew(maker: Maker) -> None:
    kept = Constants(maker.make)
    for number in range(20):
        constant: Any = kept.of(first, {})
        assert constant is kept.of(first, {})
        assert len(maker.made) == number + 1
        constant.is_now = False


def test_those_of_functions_that_are_gone_are_forgotten(maker: Maker) -> None:
    class Gone:
        def __init__(self, number: int) -> None:
            self.__module__, self.__qualname__ = "module", f"gone_{number}"

    kept = Constants(maker.make)
    functions = [Gone(number) for number in range(5 * SWEPT)]
    seen = [weakref.ref(function) for function in functions]
    for function in functions:
        constant: Any = kept.of(function, {})
        constant.is_there = False
    maker.made.clear()
    del functions, function, constant
    for number in range(10):
        kept.of(Gone(-1 - number), {})
    gc.collect()

    assert [reference() for reference in seen] == 5 * SWEPT * [None]


def test_others_are_not_looked_into(maker: Maker) -> None:
    """That may take long, and runs what is a user's, who may hold a lock in the call of another function."""
    kept = Constants(maker.make)
    other: Any = kept.of(first, {})
    other.is_current = None
    for number in range(10):
        kept.of(second, {("module", f"name_{number}"): 1})

    assert other.is_there


def test_they_may_be_many(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crew_executor.recent.RECENT_MAX", 5)
    kept = Constants(maker.make)
    for number in range(20):
        assert kept.of(None, {("module", f"name_{number}"): 1}) is maker.made[-1]
    assert len(kept._kept) <= 5
