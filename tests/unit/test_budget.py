"""Checks core/budget.py: three kinds of lost runs are paid from three purses, and an empty purse pays nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_executor.core.budget import LOSSES_MAX, Budget

from .fakes import hypothesis_settings

SPENDERS = ("spend_failure", "spend_crash", "spend_loss", "spend_timeout")


def spend_all(budget: Budget, spender: str) -> int:
    """Spend until nothing is left, and return how often it was granted."""
    granted = 0
    while getattr(budget, spender)():
        granted += 1
    assert not getattr(budget, spender)(), "what is empty stays empty"
    return granted


def left(budget: Budget) -> tuple[int, int, int]:
    return budget.retries, budget.crash_retries, budget.losses


@pytest.mark.parametrize("spender", SPENDERS)
def test_a_task_with_a_timeout_alone_never_runs_again(spender: str) -> None:
    assert 0 == spend_all(Budget(timeout=5.0), spender)


@pytest.mark.parametrize(
    ("spender", "granted", "remaining"),
    [
        ("spend_failure", 2, (0, 3, LOSSES_MAX)),
        ("spend_crash", 3, (2, 0, LOSSES_MAX)),
        ("spend_loss", LOSSES_MAX, (2, 3, 0)),
        ("spend_timeout", 0, (2, 3, LOSSES_MAX)),
    ],
)
def test_each_kind_of_loss_is_paid_from_its_own_purse(
    spender: str, granted: int, remaining: tuple[int, int, int]
) -> None:
    budget = Budget(retries=2, crash_retries=3)

    assert granted == spend_all(budget, spender)
    assert remaining == left(budget)


def test_a_timeout_is_paid_like_a_failure_if_the_user_named_it() -> None:
    budget = Budget(timeout=1.0, retries=2, crash_retries=3, is_timeout_retried=True)

    assert 2 == spend_all(budget, "spend_timeout")
    assert (0, 3, LOSSES_MAX) == left(budget)


def test_failures_and_timeouts_share_one_purse() -> None:
    budget = Budget(timeout=1.0, retries=2, is_timeout_retried=True)

    assert [True, True, False, False] == [
        budget.spend_timeout(),
        budget.spend_failure(),
        budget.spend_timeout(),
        budget.spend_failure(),
    ]


@pytest.mark.parametrize(
    ("retries", "crash_retries", "losses"), [(0, 0, 0), (1, 0, LOSSES_MAX), (0, 1, LOSSES_MAX), (7, 7, LOSSES_MAX)]
)
def test_workers_that_are_taken_away_cost_nothing_for_tasks_that_may_run_twice_and_only_for_them(
    retries: int, crash_retries: int, losses: int
) -> None:
    """Who allows no retry of any kind may rely on it that the task runs once."""
    assert losses == spend_all(Budget(retries=retries, crash_retries=crash_retries), "spend_loss")


@given(
    retries=st.integers(0, 5),
    crash_retries=st.integers(0, 5),
    is_timeout_retried=st.booleans(),
    spenders=st.lists(st.sampled_from(SPENDERS), max_size=40),
)
@hypothesis_settings(examples=30)
def test_whatever_happens_the_runs_are_bounded(
    retries: int, crash_retries: int, is_timeout_retried: bool, spenders: list[str]
) -> None:
    budget = Budget(retries=retries, crash_retries=crash_retries, is_timeout_retried=is_timeout_retried)
    before = sum(left(budget))
    granted = sum(getattr(budget, spender)() for spender in spenders)

    assert before - granted == sum(left(budget))
    assert min(left(budget)) >= 0
    assert granted <= retries + crash_retries + LOSSES_MAX
