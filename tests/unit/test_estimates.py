"""Checks core/estimates.py: what is guessed of a function's duration, and that the memory stays small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_executor.core.estimates import KEYS_MAX, OVERHEAD_SECONDS, Estimates

from .fakes import hypothesis_settings


def guess(estimates: Estimates, key: str = "f") -> float:
    seconds = estimates.seconds(key)
    assert seconds is not None
    return seconds


def test_a_function_never_seen_has_no_estimate() -> None:
    estimates = Estimates()
    estimates.observe("f", 1.0)

    assert estimates.seconds("g") is None


def test_the_first_guess_is_twice_what_was_seen() -> None:
    estimates = Estimates()
    estimates.observe("f", 1.0)

    assert pytest.approx(2.0 + OVERHEAD_SECONDS) == guess(estimates)


def test_a_steady_function_is_guessed_ever_closer() -> None:
    estimates = Estimates()
    for _ in range(60):
        estimates.observe("f", 0.01)

    assert pytest.approx(0.01 + OVERHEAD_SECONDS, rel=1e-3) == guess(estimates)


def test_a_task_that_takes_no_time_still_costs_the_overhead() -> None:
    estimates = Estimates()
    estimates.observe("f", 0.0)

    assert OVERHEAD_SECONDS == guess(estimates)


def test_one_long_task_lifts_the_guess_at_once_and_a_few_dozen_short_ones_bring_it_down() -> None:
    estimates = Estimates()
    for _ in range(60):
        estimates.observe("f", 0.001)
    estimates.observe("f", 1.0)
    lifted = guess(estimates)
    for _ in range(12):
        estimates.observe("f", 0.001)
    after_a_dozen = guess(estimates)
    for _ in range(36):
        estimates.observe("f", 0.001)

    assert lifted > 0.5
    assert after_a_dozen < lifted / 3
    assert guess(estimates) < 0.01


def test_functions_are_learned_apart() -> None:
    estimates = Estimates()
    estimates.observe("f", 1.0)
    before = guess(estimates)
    estimates.observe("g", 5.0)

    assert before == guess(estimates)


def test_the_oldest_function_is_forgotten_first() -> None:
    estimates = Estimates()
    for number in range(KEYS_MAX):
        estimates.observe(number, 1.0)
    kept_while_full = estimates.seconds(0) is not None
    estimates.observe("one more", 1.0)

    assert kept_while_full
    assert estimates.seconds(0) is None
    assert estimates.seconds(1) is not None
    assert estimates.seconds("one more") is not None


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=40))
@hypothesis_settings(examples=50)
def test_a_guess_is_finite_and_never_below_the_overhead(durations: list[float]) -> None:
    estimates = Estimates()
    for seconds in durations:
        estimates.observe("f", seconds)

    assert OVERHEAD_SECONDS <= guess(estimates) <= 4 * max(durations) + OVERHEAD_SECONDS
