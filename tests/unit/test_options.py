"""Checks options.py: what a view may be told, how views add up, and what becomes of it for a task."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crew_executor import serialize
from crew_executor.core.budget import Budget
from crew_executor.errors import TaskTimeoutError
from crew_executor.options import RETRIES_MAX, TaskOptions

# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("option", "value", "error", "message"),
    [
        ("name", 5, TypeError, "name must be a string, not int"),
        ("name", b"f", TypeError, "name must be a string, not bytes"),
        ("priority", 1.0, TypeError, "priority must be an integer, not float"),
        ("priority", "high", TypeError, "priority must be an integer, not str"),
        ("timeout", 0, ValueError, "timeout must be None or a number of seconds above 0, not 0"),
        ("timeout", -0.0, ValueError, "timeout must be None or a number of seconds above 0, not -0.0"),
        ("timeout", -1, ValueError, "timeout must be None or a number of seconds above 0, not -1"),
        ("timeout", math.nan, ValueError, "timeout must be None or a number of seconds above 0, not nan"),
        ("timeout", -math.inf, ValueError, "timeout must be None or a number of seconds above 0, not -inf"),
        ("timeout", "5", TypeError, "timeout must be a number of seconds, not str"),
        ("retries", -1, ValueError, f"retries must be between 0 and {RETRIES_MAX}, not -1"),
        ("retries", RETRIES_MAX + 1, ValueError, f"retries must be between 0 and {RETRIES_MAX}, not {RETRIES_MAX + 1}"),
        ("retries", 1.0, TypeError, "retries must be an integer, not float"),
        ("retries", math.nan, TypeError, "retries must be an integer, not float"),
        ("retries", math.inf, TypeError, "retries must be an integer, not float"),
        ("crash_retries", -1, ValueError, f"crash_retries must be between 0 and {RETRIES_MAX}, not -1"),
        ("crash_retries", "2", TypeError, "crash_retries must be an integer, not str"),
        ("retry_on", ValueError("an instance"), TypeError, "retry_on must be an exception class or a tuple of them"),
        ("retry_on", "ValueError", TypeError, "retry_on must be an exception class or a tuple of them"),
        ("retry_on", [ValueError], TypeError, "retry_on must be an exception class or a tuple of them"),
        ("retry_on", (ValueError, 5), TypeError, "retry_on must be an exception class or a tuple of them"),
        ("retry_on", ((ValueError,),), TypeError, "retry_on must be an exception class or a tuple of them"),
        ("retry_on", int, TypeError, "retry_on must be an exception class or a tuple of them"),
    ],
)
@pytest.mark.parametrize("is_added", [False, True], ids=["alone", "added"])
def test_a_senseless_option_is_refused_by_name(
    option: str, value: Any, error: type[Exception], message: str, is_added: bool
) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")):
        TaskOptions().add(**{option: value}) if is_added else TaskOptions(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("name", ""),
        ("priority", -(10**30)),
        ("timeout", 1e-9),
        ("timeout", 1e300),
        ("timeout", math.inf),
        ("timeout", 3),
        ("retries", 0),
        ("retries", RETRIES_MAX),
        ("crash_retries", RETRIES_MAX),
        ("retry_on", ValueError),
        ("retry_on", (ValueError, KeyboardInterrupt)),
        ("retry_on", ()),
        ("cancel_running", False),
    ],
)
def test_the_extremes_are_accepted(option: str, value: Any) -> None:
    assert value == getattr(TaskOptions(**{option: value}), option)


def test_the_attempts_of_a_task_fit_into_the_wire() -> None:
    both = TaskOptions(retries=RETRIES_MAX, crash_retries=RETRIES_MAX).make_budget()
    assert both is not None

    assert 1 + both.retries + both.crash_retries + both.losses < 2**16


# ---------------------------------------------------------------------- views of views


def test_options_of_views_add_up_and_the_last_word_counts() -> None:
    first = TaskOptions().add(name="n", priority=1, timeout=5.0, retries=2)
    second = first.add(priority=2, crash_retries=1, cancel_running=True)

    assert TaskOptions(name="n", priority=1, timeout=5.0, retries=2) == first
    assert second == TaskOptions(
        name="n", priority=2, timeout=5.0, retries=2, crash_retries=1, cancel_running=True
    )  # fmt: skip


def test_in_words_are_those_that_were_said() -> None:
    options = TaskOptions(name="n", priority=0, retry_on=OSError, resources={"gpus": 1})

    assert repr(options) == "TaskOptions(name='n', priority=0, retry_on=<class 'OSError'>, resources={'gpus': 1.0})"
    assert repr(options.add(priority=2)).startswith("TaskOptions(name='n', priority=2, ")
    assert repr(TaskOptions()) == "TaskOptions()"


def test_none_says_nothing() -> None:
    options = TaskOptions(name="n", priority=1, timeout=5.0, retries=2, retry_on=OSError, cancel_running=True)

    assert options == options.add(
        name=None, priority=None, timeout=None, retries=None, retry_on=None, crash_retries=None, cancel_running=None
    )


def test_a_view_can_take_back_what_its_parent_said() -> None:
    parent = TaskOptions(priority=1, timeout=5.0, retries=2, crash_retries=3, cancel_running=True)
    child = parent.add(priority=0, timeout=math.inf, retries=0, crash_retries=0, cancel_running=False)

    assert (False, None, None) == (child.has_limits, child.make_budget(), child.retry_part)
    assert (0, False) == (child.priority, child.cancel_running)


# ---------------------------------------------------------------------- for a task


@pytest.mark.parametrize(
    "options",
    [
        TaskOptions(),
        TaskOptions(name="n", priority=3, cancel_running=True),
        TaskOptions(timeout=math.inf),
        TaskOptions(retries=0, crash_retries=0),
        TaskOptions(retry_on=ValueError),
    ],
)
def test_a_task_without_limits_has_no_budget_and_carries_nothing(options: TaskOptions) -> None:
    assert not options.has_limits
    assert options.make_budget() is None
    assert options.retry_part is None


@pytest.mark.parametrize(
    ("options", "budget"),
    [
        (TaskOptions(timeout=5), Budget(5.0, 0, 0, True)),
        (TaskOptions(retries=2), Budget(0.0, 2, 0, True)),
        (TaskOptions(timeout=math.inf, retries=2), Budget(0.0, 2, 0, True)),
        (TaskOptions(crash_retries=3), Budget(0.0, 0, 3, True)),
        (TaskOptions(timeout=1.5, retries=2, crash_retries=3, retry_on=ValueError), Budget(1.5, 2, 3, False)),
    ],
)
def test_any_limit_makes_a_budget(options: TaskOptions, budget: Budget) -> None:
    assert options.has_limits
    assert budget == options.make_budget()


def test_each_task_gets_a_budget_of_its_own() -> None:
    options = TaskOptions(retries=1)
    first, second = options.make_budget(), options.make_budget()
    assert first is not None
    first.spend_failure()

    assert Budget(0.0, 1, 0, True) == second == options.make_budget()


@pytest.mark.parametrize(
    ("retry_on", "is_timeout_retried"),
    [
        (None, True),
        (Exception, True),
        (TaskTimeoutError, True),
        (TimeoutError, True),
        ((ValueError, OSError), True),  # a TimeoutError is an OSError
        (BaseException, True),
        (ValueError, False),
        (KeyboardInterrupt, False),
        ((), False),
    ],
)
def test_a_timeout_is_repeated_if_its_error_is_one_to_retry_on(retry_on: Any, is_timeout_retried: bool) -> None:
    budget = TaskOptions(timeout=1.0, retries=1, retry_on=retry_on).make_budget()
    assert budget is not None

    assert is_timeout_retried is budget.is_timeout_retried


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        (TaskOptions(retries=1), Exception),
        (TaskOptions(retries=1, retry_on=OSError), OSError),
        (TaskOptions(retries=1, retry_on=(OSError, KeyError)), (OSError, KeyError)),
    ],
)
def test_workers_are_told_what_to_retry_on(options: TaskOptions, classes: Any) -> None:
    assert options.retry_part is not None
    assert classes == serialize.loads(options.retry_part)


def test_what_to_retry_on_is_pickled_once() -> None:
    options = TaskOptions(retries=1, retry_on=OSError)

    assert options.retry_part is options.retry_part


def test_crash_retries_alone_need_no_word_to_the_worker() -> None:
    assert TaskOptions(crash_retries=1, retry_on=OSError).retry_part is None
