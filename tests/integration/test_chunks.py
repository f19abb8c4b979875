"""map() with many items in few tasks: each item runs once, fails alone, is lost alone, and traps nobody."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FuturesTimeoutError
from functools import partial
from pathlib import Path

import pytest

from crew_executor import CrewExecutor, WorkerCrashError

from .helpers import (
    FailsToPickle,
    FailsToUnpickle,
    TwoArguments,
    add,
    append_line,
    die,
    fail_with_cause,
    identity,
    make,
    touch_and_wait,
    wait_until,
    warn,
)  # fmt: skip

ITEMS = 3000


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(2) as made:
        yield made


# ---------------------------------------------------------------------- results


def test_many_items_come_back_in_order(executor: CrewExecutor) -> None:
    assert list(executor.map(add, range(ITEMS), range(ITEMS))) == [2 * number for number in range(ITEMS)]
    assert executor.stats().done == ITEMS, "items are counted, not what they travel in"


@pytest.mark.parametrize("buffersize", [None, 10, 1000])
def test_as_they_come_none_is_missing(buffersize: int | None, executor: CrewExecutor) -> None:
    results = executor.options(ordered=False).map(identity, range(ITEMS), buffersize=buffersize)

    assert Counter(results) == Counter(range(ITEMS))


def test_as_they_come_a_slow_item_is_last(executor: CrewExecutor, tmp_path: Path) -> None:
    release = tmp_path / "release"
    calls = [
        partial(touch_and_wait, str(tmp_path / "started"), str(release)),
        *[partial(identity, n) for n in range(50)],
    ]
    results = executor.options(ordered=False).map(_call, calls)

    assert sorted(itertools.islice(results, 50)) == list(range(50))
    release.touch()
    assert next(results) in {worker.pid for worker in executor.stats().workers}


def _call(function: Callable[[], object]) -> object:
    return function()


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, 1_000_000], ids=lambda size: f"{size} bytes")
def test_items_and_results_of_any_size(size: int, executor: CrewExecutor) -> None:
    items = [bytes([number]) * size for number in range(20)]

    assert list(executor.map(identity, items)) == items


def test_sizes_may_change_from_item_to_item(executor: CrewExecutor) -> None:
    items = [bytes(10 ** (number % 6)) for number in range(300)]

    assert list(executor.map(identity, items)) == items


def test_a_consumer_gets_results_while_later_items_are_read(executor: CrewExecutor) -> None:
    def slow_items() -> Iterator[int]:
        for number in range(100):
            time.sleep(0.001)
            yield number

    assert list(executor.map(identity, slow_items())) == list(range(100))


def test_two_items_share_no_object_in_the_worker(executor: CrewExecutor) -> None:
    shared: list[int] = []

    assert [len(grown) for grown in executor.map(_grow, [shared] * 200)] == [1] * 200


def _grow(items: list[int]) -> list[int]:
    items.append(1)
    return items


def test_a_function_with_state_has_it_anew_for_each_item(executor: CrewExecutor) -> None:
    seen: list[int] = []

    def remember(number: int) -> int:
        seen.append(number)
        return len(seen)

    assert list(executor.map(remember, range(200))) == [1] * 200


def test_warnings_of_items_are_shown(executor: CrewExecutor) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(executor.map(warn, [f"number {number}" for number in range(50)]))

    assert sorted(str(warning.message) for warning in caught) == sorted(f"number {number}" for number in range(50))


def test_items_count_for_max_tasks_per_child() -> None:
    with CrewExecutor(2, max_tasks_per_child=7) as executor:
        pids = list(executor.map(_pid, range(70)))

    assert max(Counter(pids).values()) <= 7


def _pid(_number: int) -> int:
    return os.getpid()


class UnpickledBy:
    """A function for map() that takes its time, or its process's life, where it is unpickled."""

    def __init__(self, action: Callable[[float], object], seconds: float) -> None:
        self.how = action, seconds

    def __call__(self, number: int) -> int:
        """Return the number."""
        return number

    def __reduce__(self) -> tuple[object, ...]:
        return _made_by, self.how


def _made_by(action: Callable[[float], object], seconds: float) -> UnpickledBy:
    action(seconds)
    return UnpickledBy(action, seconds)


def test_a_function_slow_to_unpickle_does_not_end_workers_before_their_first_item() -> None:
    # 1. A worker that may run 7 more tasks is given 7 items, and told to leave after them. 2. It unpickles the
    # function, for longer than the horizon. 3. The client takes back what has not been started: all 7, if unpickling
    # came before the first claim. 4. The worker leaves, the next one comes, and fares the same.
    with CrewExecutor(2, max_tasks_per_child=7) as executor:
        # The first worker learns that the items are short, so that the others are given 7 at once.
        assert list(executor.map(UnpickledBy(time.sleep, 0.2), range(20))) == list(range(20))
        assert executor.stats().launched <= 30


def _die_after(seconds: float) -> None:
    time.sleep(seconds)
    die()


def test_an_item_whose_function_ends_the_worker_when_unpickled_is_lost(executor: CrewExecutor) -> None:
    results = executor.map(UnpickledBy(_die_after, 0), range(10))

    with pytest.raises(WorkerCrashError):
        next(results)
    assert executor.submit(abs, -1).result() == 1


# ---------------------------------------------------------------------- failures


def fail_at(number: int, bad: int) -> int:
    """Fail for one number."""
    if number == bad:
        fail_with_cause()
    return number


def test_the_items_before_a_failing_one_are_kept(executor: CrewExecutor) -> None:
    results = executor.map(partial(fail_at, bad=1500), range(ITEMS))

    assert list(itertools.islice(results, 1500)) == list(range(1500))
    with pytest.raises(TwoArguments, match="one and two") as caught:
        next(results)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert (caught.value.left, caught.value.right) == ("one", "two")
    wait_until(lambda: executor.stats().running == 0, "what runs ends")


@pytest.mark.parametrize(
    ("cls", "where"), [(FailsToPickle, "does not want to be pickled"), (FailsToUnpickle, "to be unpickled")]
)
def test_a_result_that_does_not_travel_fails_alone(cls: type, where: str, executor: CrewExecutor) -> None:
    results = executor.map(make, [int] * 100 + [cls] + [int] * 100)

    assert list(itertools.islice(results, 100)) == [0] * 100
    with pytest.raises(ValueError, match=where):
        next(results)


def test_an_argument_that_does_not_travel_fails_alone(executor: CrewExecutor) -> None:
    results = executor.map(identity, [*range(100), FailsToPickle(), *range(100)])

    assert list(itertools.islice(results, 100)) == list(range(100))
    with pytest.raises(ValueError, match="does not want to be pickled"):
        next(results)


def test_an_argument_that_is_not_to_be_unpickled_fails_alone(executor: CrewExecutor) -> None:
    results = executor.map(identity, [*range(100), FailsToUnpickle(), *range(100)])

    assert list(itertools.islice(results, 100)) == list(range(100))
    with pytest.raises(ValueError, match="to be unpickled"):
        next(results)


def test_an_error_of_the_iterable_is_raised_by_map(executor: CrewExecutor) -> None:
    def items() -> Iterator[int]:
        yield from range(5000)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        executor.map(identity, items())
    wait_until(lambda: executor.stats().queued == 0, "nothing of it waits")


def test_a_timeout_is_raised_and_the_rest_cancelled(executor: CrewExecutor, tmp_path: Path) -> None:
    release = tmp_path / "release"
    waits = [partial(touch_and_wait, str(tmp_path / f"started-{number}"), str(release)) for number in range(10)]
    results = executor.map(_call, waits, timeout=0.2)
    with pytest.raises(FuturesTimeoutError):
        next(results)
    wait_until(lambda: executor.stats().queued == 0, "the rest is cancelled")
    release.touch()
    wait_until(lambda: executor.stats().running == 0, "what runs ends")


def test_shutdown_with_cancel_futures_ends_the_wait_for_results(tmp_path: Path) -> None:
    release = tmp_path / "release"
    waits = [partial(touch_and_wait, str(tmp_path / f"started-{number}"), str(release)) for number in range(10)]
    with CrewExecutor(2) as executor:
        results = executor.map(_call, waits)
        wait_until((tmp_path / "started-1").exists, "the second starts")
        executor.shutdown(wait=False, cancel_futures=True)
        release.touch()
        assert next(results)
        assert next(results)
        with pytest.raises(CancelledError):
            next(results)


# ---------------------------------------------------------------------- deaths


def die_at(number: int, bad: int, log: str) -> int:
    """Note the item, and end the process at one."""
    append_line(log, str(number))
    if number == bad:
        die()
    return number


def test_an_item_that_ends_its_worker_is_lost_alone(executor: CrewExecutor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    results = executor.map(partial(die_at, bad=1000, log=str(log)), range(2000))

    assert list(itertools.islice(results, 1000)) == list(range(1000))
    with pytest.raises(WorkerCrashError, match=r"die_at|partial"):
        next(results)
    executor.shutdown()
    times = Counter(log.read_text().split())
    assert set(times.values()) == {1}, "no item ran twice"


def test_what_comes_after_it_runs_elsewhere(executor: CrewExecutor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    results = executor.map(partial(die_at, bad=50, log=str(log)), range(100))
    wait_until(lambda: len(log.read_text().split()) == 100, "all of them run")

    assert list(itertools.islice(results, 50)) == list(range(50))
    with pytest.raises(WorkerCrashError):
        next(results)


def test_kills_at_any_moment_lose_one_item_each(tmp_path: Path) -> None:
    """Each kill costs at most the item that runs; every other result is right."""
    log = tmp_path / "log"
    log.touch()
    lost = 0
    with CrewExecutor(2) as executor:
        executor.submit(identity, 1).result()
        is_over = threading.Event()

        def kill_now_and_then() -> None:
            while not is_over.wait(0.15):
                for worker in executor.stats().workers[:1]:
                    with contextlib.suppress(ProcessLookupError):  # it may be dead already
                        os.kill(worker.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            for start in range(0, 40_000, 10_000):
                numbers = range(start, start + 10_000)
                seen: list[int] = []
                while len(seen) < len(numbers):
                    try:
                        for result in executor.map(partial(append_line, str(log)), map(str, numbers[len(seen) :])):
                            seen.append(int(result))
                    except WorkerCrashError:
                        lost += 1
                        seen.append(numbers[len(seen)])
                assert seen == list(numbers)
        finally:
            is_over.set()
            killer.join()
    assert lost, "some kills struck"


def test_a_long_item_traps_no_short_one(executor: CrewExecutor, tmp_path: Path) -> None:
    """The item that is released by the last one is in the middle of short ones of the same function."""
    list(executor.map(_wait_or_release, [""] * 1000))
    release = str(tmp_path / "release")
    items = [""] * 500 + ["wait:" + release] + [""] * 500 + ["release:" + release]

    assert list(executor.map(_wait_or_release, items)) == items


def _wait_or_release(what: str) -> str:
    kind, _, path = what.partition(":")
    if kind == "wait":
        wait_until(Path(path).exists, "another item releases this one")
    elif kind == "release":
        Path(path).touch()
    return what


# ---------------------------------------------------------------------- views


def test_a_view_waits_for_its_own_items_only(executor: CrewExecutor, tmp_path: Path) -> None:
    release = tmp_path / "release"
    view, other = executor.options(name="mine"), executor.options(name="other")
    other.submit(touch_and_wait, str(tmp_path / "started"), str(release))
    results = view.map(identity, range(1000))
    view.shutdown()

    assert executor.stats().done >= 1000
    assert list(results) == list(range(1000))
    release.touch()


def test_a_view_that_is_shut_down_takes_no_map(executor: CrewExecutor) -> None:
    view = executor.options(priority=1)
    view.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        view.map(identity, [1])
