"""Checks controller/result.py: records as dictionaries, calls in words."""

from __future__ import annotations

import functools
import math

from crew_executor.controller.result import COMMAND_MAX, Result, Results, text_of_call
from crew_executor.records import TaskRecord


def test_a_result_has_all_that_the_record_has() -> None:
    record = TaskRecord("name", "math.sqrt", "success", 1.0, seconds=0.5, seed=3)
    result = Result.of(record, command="math.sqrt(1)", controller="c", number=7)

    assert (result.name, result.command, result.result, result.seed) == ("name", "math.sqrt(1)", 1.0, 3)
    assert result.to_dict()["controller"] == "c"
    assert list(result.to_dict())[:7] == ["name", "command", "status", "result", "seconds", "error", "traceback"]
    assert Results([result]).to_dicts() == [result.to_dict()]


def test_a_call_is_told_as_one_would_write_it() -> None:
    assert text_of_call(math.sqrt, (2,), {}) == "math.sqrt(2)"
    assert text_of_call(print, ("a",), {"end": ""}) == "print('a', end='')"
    assert text_of_call(functools.partial(math.sqrt), (2,), {}) == "math.sqrt(2)"


class Broken:
    """Has no text."""

    def __repr__(self) -> str:
        raise ValueError("on purpose")


def test_neither_long_nor_broken_arguments_hurt() -> None:
    assert len(text_of_call(math.sqrt, (list(range(10**6)), "x" * 10**6), {})) < COMMAND_MAX
    assert len(text_of_call(math.sqrt, ["x" * 50] * 50, {})) == COMMAND_MAX
    assert "Broken" in text_of_call(math.sqrt, (Broken(),), {})
