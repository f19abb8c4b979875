"""The client keeps nothing of a task that is done and dropped. CREW_EXECUTOR_MEMORY_CYCLES: how many of them."""

from __future__ import annotations

import gc
import os
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from crew_executor import CrewExecutor

from .helpers import wait_until

CYCLES = int(os.environ.get("CREW_EXECUTOR_MEMORY_CYCLES", "20000"))
WINDOW = 200
"""Futures that are there at a time."""


@pytest.fixture
def one_worker() -> Iterator[CrewExecutor]:
    """A pool of one worker, for one test."""
    with CrewExecutor(1) as executor:
        yield executor


class Thing:
    """What a weak reference can be taken of."""

    def __init__(self, size: int = 0) -> None:
        self.data = bytes(size)


class Told(Exception):
    def __init__(self, thing: Thing) -> None:
        super().__init__(thing)


def make(size: int) -> Thing:
    return Thing(size)


def fail() -> None:
    raise Told(Thing())


def length(data: bytes) -> int:
    return len(data)


def run_cycles(executor: CrewExecutor, number: int) -> None:
    for start in range(0, number, WINDOW):
        for future in [executor.submit(divmod, start, 7) for _ in range(WINDOW)]:
            assert future.result() == divmod(start, 7)


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def kept_bytes() -> int:
    return psutil.Process().memory_full_info().uss


def check_growth(run: Callable[[], None]) -> None:
    """Check that this leaves nothing behind. The allocator's own fluctuation was 4 MB once, in one of many runs, and
    0.5 MB mostly; a leak grows each time. One word kept for each task would be 8 bytes.
    """
    for _ in range(3):
        objects_before, bytes_before = objects(), kept_bytes()
        run()
        wait_until(lambda: objects() - objects_before < 200, "no more objects than before")  # noqa: B023  called here
        if kept_bytes() - bytes_before < 3_000_000 + 2 * CYCLES:
            return
    raise AssertionError("the memory has grown in each of three runs")


@pytest.mark.timeout(180 + CYCLES / 150)
def test_submit_and_result_leave_the_client_as_it_was() -> None:
    with CrewExecutor(2) as executor:
        run_cycles(executor, max(5000, CYCLES // 10))
        check_growth(lambda: run_cycles(executor, CYCLES))


@pytest.mark.timeout(180 + CYCLES / 150)
def test_map_leaves_the_client_as_it_was() -> None:
    def run(cycles: int) -> None:
        for _ in executor.map(abs, range(cycles), buffersize=1000):
            pass

    with CrewExecutor(2) as executor:
        run(5000)
        check_growth(lambda: run(CYCLES))


def test_a_result_is_freed_with_its_future(one_worker: CrewExecutor) -> None:
    future = one_worker.submit(make, 10)
    gc.disable()
    try:
        reference = weakref.ref(future.result())
        future_reference = weakref.ref(future)
        one_worker.submit(int).result()  # what threads of ours still hold of the first, they let go of by then
        assert reference() is not None
        del future

        wait_until(lambda: future_reference() is None, "the future is freed, without the collector")
        assert reference() is None
    finally:
        gc.enable()


def test_a_result_is_freed_with_its_future_that_had_a_callback(one_worker: CrewExecutor) -> None:
    seen: list[Any] = []
    future = one_worker.submit(make, 10)
    future.add_done_callback(lambda done: seen.append(weakref.ref(done.result())))
    wait_until(lambda: len(seen) == 1, "the callback ran")
    del future

    wait_until(lambda: seen[0]() is None, "the result is freed")


def test_an_exception_is_freed_with_its_future(one_worker: CrewExecutor) -> None:
    future = one_worker.submit(fail)
    error = future.exception()
    assert error is not None
    reference = weakref.ref(error.args[0])
    del error, future

    def is_freed() -> bool:
        gc.collect()  # an exception and its frames refer to each other
        return reference() is None

    wait_until(is_freed, "the exception is freed")


@pytest.mark.parametrize("use", [lambda future: future.result(), lambda future: future.record()])
def test_a_future_that_is_kept_holds_no_argument(one_worker: CrewExecutor, use: Callable[[Any], Any]) -> None:
    tracemalloc.start()  # not the process's size: what is free again the C library may keep
    try:
        futures = []
        for _ in range(20):
            future = one_worker.submit(length, bytes(5_000_000))
            use(future)
            futures.append(future)

        assert [future.result() for future in futures] == [5_000_000] * 20
        wait_until(lambda: tracemalloc.get_traced_memory()[0] < 20_000_000, "the arguments are freed")
    finally:
        tracemalloc.stop()


def test_a_result_that_nobody_asks_for_is_freed(one_worker: CrewExecutor) -> None:
    tracemalloc.start()
    try:
        for _ in range(20):
            one_worker.submit(make, 5_000_000)
        one_worker.submit(int).result()

        wait_until(lambda: tracemalloc.get_traced_memory()[0] < 20_000_000, "the results are freed")
    finally:
        tracemalloc.stop()


def test_a_map_that_is_left_in_the_middle_keeps_nothing(one_worker: CrewExecutor) -> None:
    tracemalloc.start()
    try:
        results = one_worker.map(make, [5_000_000] * 20)
        next(results)
        del results

        def is_idle() -> bool:
            stats = one_worker.stats()
            return (stats.queued, stats.running) == (0, 0)

        wait_until(is_idle, "nothing runs")
        wait_until(lambda: tracemalloc.get_traced_memory()[0] < 20_000_000, "the results are freed")
    finally:
        tracemalloc.stop()
