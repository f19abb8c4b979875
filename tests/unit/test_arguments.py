"""Checks controller/arguments.py: what a controller is made with is checked when it is given, in crew's words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crew_executor.controller import Controller
from crew_executor.controller.arguments import items, limit, seconds, whole
from crew_executor.launchers import LocalLauncher


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"backup": "large"}, "backup must be a Controller"),
        ({"auto_scale": "always"}, "auto_scale must be one of"),
        ({"crashes_max": 0}, "crashes_max must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"workers": 2.0}, "workers must be a whole number"),
        ({"tasks_max": 0}, "tasks_max must be at least 1"),
        ({"seconds_idle": 0}, "seconds_idle must be above 0"),
        ({"seconds_start": "x"}, "seconds_start must be a number"),
        ({"seconds_wall": -1}, "seconds_wall must be above 0"),
        ({"workers_min": 3}, "workers_min must be from 0 to 1"),
        ({"initializer": 5}, "initializer must be a function"),
        ({"name": ""}, "name must have 1 to 100"),
        ({"launcher": "sequential"}, "'inline', which runs each task in push"),
        ({"launcher": LocalLauncher(), "seconds_wall": 3}, "belong to the launcher"),
    ],
)
def test_arguments_are_checked_when_they_are_given_in_crews_words(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        Controller(**arguments)


def test_whole_numbers_may_be_of_other_types_and_infinity_is_no_limit() -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    assert whole("n", Three(), 1) == 3
    assert (limit("n", math.inf), limit("n", None), limit("n", 2)) == (None, None, 2)
    assert seconds("s", math.inf) == math.inf
    with pytest.raises(TypeError, match="n must be a whole number"):
        whole("n", True, 1)


def test_items_are_those_of_the_shortest() -> None:
    assert items(([1, 2, 3], "ab")) == [(1, "a"), (2, "b")]
