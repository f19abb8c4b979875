"""Checks which executors the words of `kill` mean."""

from __future__ import annotations

import pytest

from crew_executor.callers import Household
from crew_executor.kill import Target, _meant
from crew_executor.registry import Entry

HOUSEHOLD = Household(Entry("/nowhere", 1, 2), 1, 2)
THERE = [
    Target(HOUSEHOLD, run, name)
    for run, name in [("abcd000000000000", "crew-1"), ("abcdef0000000000", "abcd"), ("1234000000000000", "crew-2")]
]
THERE.append(Target(HOUSEHOLD, "", "client-7"))


@pytest.mark.parametrize(
    ("word", "numbers"),
    [
        ("crew-2", [2]),
        ("1234", [2]),
        ("123", []),
        ("", []),
        ("abcd", [1]),  # its name, and the beginning of two runs
        ("abcd0", [0]),
        ("abcd000000000000", [0]),
        ("client-7", [3]),
        ("client", []),
    ],
)
def test_a_name_or_a_run_is_meant_before_the_beginning_of_one(word: str, numbers: list[int]) -> None:
    assert _meant(word, THERE) == [THERE[number] for number in numbers]


def test_a_beginning_of_two_runs_means_both() -> None:
    assert _meant("abcd", [THERE[0], THERE[0]]) == [THERE[0]] * 2
