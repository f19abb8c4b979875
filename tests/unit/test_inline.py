"""Checks controller/inline.py: calls that run here, with the same kind of record."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import warnings

import pytest

from crew_executor import BrokenCrewError
from crew_executor.controller.inline import InlineExecutor
from crew_executor.options import TaskOptions
from crew_executor.records import TaskRecord
from crew_executor.seeding import Seeded, SeedStream


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
    failed, left = executor.submit(fail), executor.submit(exit, 3).record()
    with pytest.warns(UserWarning, match="careful"):
        warned = executor.submit(warn).record()

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


def test_a_seed_gives_the_numbers_of_a_task_in_a_worker_and_leaves_the_callers_alone() -> None:
    executor = InlineExecutor("c")
    random.seed(1)
    state = random.getstate()
    draws = [executor.run(random.random, (), {}, TaskOptions(seed=5)).result() for _ in range(2)]

    assert draws[0] == draws[1] == Seeded(SeedStream(5).next(), random.random)()
    assert random.getstate() == state


def test_the_initializer_runs_once_before_the_first_task_and_its_failure_is_told_each_time() -> None:
    ran: list[int] = []
    executor = InlineExecutor("c", ran.append, (1,))
    assert ran == []
    assert [executor.submit(len, ran).result() for _ in range(2)] == [1, 1]
    broken = InlineExecutor("d", int, ("x",))
    for _ in range(2):
        with pytest.raises(BrokenCrewError, match="the initializer failed in d") as caught:
            broken.submit(len, "")
        assert isinstance(caught.value.__cause__, ValueError)


def test_its_futures_can_be_awaited() -> None:
    async def main() -> int:
        return await InlineExecutor("c").submit(len, "abc")

    assert asyncio.run(main()) == 3


def test_threads_take_turns_so_that_each_has_its_own_warnings() -> None:
    executor = InlineExecutor("c")
    records: list[TaskRecord] = []

    def push() -> None:
        for _ in range(20):
            records.append(executor.submit(warn).record())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filters = list(warnings.filters)
        threads = [threading.Thread(target=push) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == filters
    assert [len(record.warnings) for record in records] == [1] * 80


def test_its_snapshot_is_that_of_a_pool_of_one() -> None:
    executor = InlineExecutor("c")
    executor.submit(abs, 1)
    stats = executor.stats()

    assert (stats.done, stats.queued, stats.running) == (1, 0, 0)
    assert (stats.seats[0].is_connected, stats.seats[0].tasks_complete) == (True, 1)
    executor.shutdown()
    assert not executor.stats().seats[0].is_connected
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)
