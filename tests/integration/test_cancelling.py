"""Cancelling: whoever waits for a cancelled future is woken while the pool is still busy; and in great numbers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crew_executor import CrewExecutor, CrewFuture

from .helpers import DEADLINE, add, identity, touch_and_wait, wait_until

MANY = 100_000


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[CrewExecutor]:
    """An executor whose only worker is busy until the test is over: what is submitted stays in the queue."""
    started, release = tmp_path / "started", tmp_path / "release"
    executor = CrewExecutor(1)
    running = executor.submit(touch_and_wait, str(started), str(release))
    wait_until(started.exists, "the first task runs")
    yield executor
    release.touch()
    executor.shutdown()

    assert running.exception() is None


# Each way to wait for a future takes it and says what came of it.


def _result(future: CrewFuture[Any]) -> object:
    try:
        return future.result(DEADLINE)
    except concurrent.futures.CancelledError:
        return "cancelled"


def _exception(future: CrewFuture[Any]) -> object:
    try:
        return future.exception(DEADLINE)
    except concurrent.futures.CancelledError:
        return "cancelled"


def _wait(future: CrewFuture[Any]) -> object:
    done, _pending = concurrent.futures.wait([future], DEADLINE)
    return "cancelled" if done == {future} and future.cancelled() else done


def _wait_first(future: CrewFuture[Any]) -> object:
    done, _pending = concurrent.futures.wait([future], DEADLINE, return_when="FIRST_COMPLETED")
    return "cancelled" if done == {future} and future.cancelled() else done


def _as_completed(future: CrewFuture[Any]) -> object:
    done = list(concurrent.futures.as_completed([future], DEADLINE))
    return "cancelled" if done == [future] and future.cancelled() else done


def _callback(future: CrewFuture[Any]) -> object:
    called: list[object] = []
    event = threading.Event()
    future.add_done_callback(called.append)
    future.add_done_callback(lambda _future: event.set())
    event.wait(DEADLINE)
    return "cancelled" if called == [future] and future.cancelled() else called


def _in_a_loop(make_awaitable: Callable[[CrewFuture[Any]], Any]) -> Callable[[CrewFuture[Any]], object]:
    async def main(future: CrewFuture[Any]) -> object:
        try:
            return await asyncio.wait_for(make_awaitable(future), DEADLINE)
        except asyncio.CancelledError:
            return "cancelled"

    return lambda future: asyncio.run(main(future))


async def _await(future: CrewFuture[Any]) -> object:
    return await future


WAYS = {
    "result": _result,
    "exception": _exception,
    "wait": _wait,
    "wait for the first": _wait_first,
    "as_completed": _as_completed,
    "a callback": _callback,
    "await": _in_a_loop(_await),
    "wrap_future": _in_a_loop(asyncio.wrap_future),
    "gather": _in_a_loop(asyncio.gather),
}


def _is_watched(future: CrewFuture[Any]) -> bool:
    """Answer whether somebody waits: behind a bell, by a waiter, or by a callback."""
    return bool(future._bells or future._waiters or future._done_callbacks)


@pytest.mark.parametrize("cancelling", ["shutdown", "cancel", "kill_workers"])
def test_cancelling_wakes_every_waiter(cancelling: str, tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    executor = CrewExecutor(1)
    executor.submit(touch_and_wait, str(started), str(release))
    wait_until(started.exists, "the first task runs")
    futures = {way: executor.submit(int) for way in WAYS}
    with concurrent.futures.ThreadPoolExecutor(len(WAYS)) as threads:
        waiting = {way: threads.submit(WAYS[way], future) for way, future in futures.items()}
        wait_until(lambda: all(map(_is_watched, futures.values())), "every way waits")
        if cancelling == "cancel":
            assert all(future.cancel() for future in futures.values())
        elif cancelling == "shutdown":
            executor.shutdown(wait=False, cancel_futures=True)
        else:
            executor.kill_workers()
        came = {way: thread.result() for way, thread in waiting.items()}

    assert came == dict.fromkeys(WAYS, "cancelled")
    assert {future.record().status for future in futures.values()} == {"cancel"}
    release.touch()
    executor.shutdown()


def test_shutdown_wakes_those_who_came_by_the_loop_or_by_map(busy: CrewExecutor) -> None:
    outcomes: list[str] = []
    are_submitted = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(busy, add, 1, 1) for _ in range(3)]
        are_submitted.set()
        done = await asyncio.gather(*calls, return_exceptions=True)
        outcomes.extend(type(outcome).__name__ for outcome in done)

    by_map = busy.map(add, [1, 2], [1, 2])
    thread = threading.Thread(target=asyncio.run, args=[main()])
    thread.start()
    assert are_submitted.wait(DEADLINE)
    busy.shutdown(wait=False, cancel_futures=True)
    thread.join(DEADLINE)

    assert outcomes == ["CancelledError"] * 3
    with pytest.raises(concurrent.futures.CancelledError):
        next(by_map)


def test_waiters_for_several_futures_see_the_finished_and_the_cancelled(busy: CrewExecutor) -> None:
    queued = [busy.submit(identity, number) for number in range(50)]
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        waited = threads.submit(concurrent.futures.wait, queued, DEADLINE)
        completed = threads.submit(lambda: set(concurrent.futures.as_completed(queued, DEADLINE)))
        wait_until(lambda: all(len(future._waiters) == 2 for future in queued), "both wait")
        for future in queued[::2]:
            future.cancel()

        assert not waited.done()

        busy.shutdown(wait=False, cancel_futures=True)

        assert waited.result() == (set(queued), set())
        assert completed.result() == set(queued)


def test_a_hundred_thousand_queued_futures_can_be_cancelled_and_the_pool_goes_on(tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    with CrewExecutor(1) as executor:
        executor.submit(touch_and_wait, str(started), str(release))
        wait_until(started.exists, "the first task runs")
        futures = [executor.submit(identity, number) for number in range(MANY)]
        cancelled = [future for future in futures if future.cancel()]
        queued = executor.stats().queued
        kept = [executor.submit(identity, number) for number in range(100)]
        release.touch()

        assert (cancelled, queued) == (futures, 0)
        assert [future.result(DEADLINE) for future in kept] == list(range(100))
        stats = executor.stats()
        assert (stats.queued, stats.running, stats.done) == (0, 0, MANY + 101)  # the cancelled count as done


def test_shutdown_cancels_a_hundred_thousand_futures(busy: CrewExecutor) -> None:
    futures = [busy.submit(identity, number) for number in range(MANY)]
    busy.shutdown(wait=False, cancel_futures=True)

    assert all(future.cancelled() for future in futures)
