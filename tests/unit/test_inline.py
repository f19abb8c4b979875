"""Checks controller/inline.py: calls that run here, with the same kind of record."""

from __future__ import annotations

import os
import random
import warnings

import pytest

from crew_executor.controller.inline import InlineExecutor


def warn() -> int:
    warnings.warn("careful", UserWarning, stacklevel=1)
    return 1


def fail() -> None:
    raise ValueError("on purpose")


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_call_runs_in_submit_in_this_process() -> None:
    record = InlineExecutor("c").submit(os.getpid).record()

    assert (record.result, record.pid, record.status, record.attempts) == (os.getpid(), os.getpid(), "success", 1)
    assert record.seconds is not None
    assert record.worker == "c-inline"


def test_errors_warnings_and_exits_are_in_the_record() -> None:
    executor = InlineExecutor("c")
    failed, warned, left = executor.submit(fail), executor.submit(warn).record(), executor.submit(exit, 3).record()

    assert failed.record().status == "error"
    assert "in fail" in (failed.record().traceback or "")
    assert "controller/inline.py" not in (failed.record().traceback or "")
    with pytest.raises(ValueError, match="on purpose"):
        failed.result()
    assert [(one.message, one.category) for one in warned.warnings] == [("careful", "UserWarning")]
    assert isinstance(left.error, SystemExit)


def test_a_ctrl_c_is_the_callers() -> None:
    with pytest.raises(KeyboardInterrupt):
        InlineExecutor("c").submit(interrupt)


def test_a_seed_gives_the_same_numbers_and_leaves_the_callers_alone() -> None:
    executor = InlineExecutor("c")
    random.seed(1)
    state = random.getstate()
    draws = [executor.run(random.random, (), {}, seed=5).result() for _ in range(2)]

    assert draws[0] == draws[1] == random.Random(5).random()
    assert random.getstate() == state


def test_its_snapshot_is_that_of_a_pool_of_one() -> None:
    executor = InlineExecutor("c")
    executor.submit(warn)
    stats = executor.stats()

    assert (stats.done, stats.queued, stats.running) == (1, 0, 0)
    assert (stats.seats[0].is_connected, stats.seats[0].tasks_complete) == (True, 1)
    executor.shutdown()
    assert not executor.stats().seats[0].is_connected
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(warn)
