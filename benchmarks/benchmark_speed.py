"""The rows about calls per second, seconds per call, and big arguments, each in a pool that is warm.

Each row checks all of its results, and does nothing else between its two looks at the clock.
"""

from __future__ import annotations

import asyncio
import operator
import statistics
import sys
import time
from collections import deque
from typing import Any

import benchmark_tasks as tasks
from benchmark_contender import Contender
from benchmark_pool import WrongResultError, check, seconds_of, warm_pool
from benchmark_row import Bar, Measured, NotOffered, Row, Settings, make_row

ROWS: dict[str, Row] = {}


@make_row(ROWS, "submit", "no-op submits", "tasks/s", "higher", Bar(10))
def submit(contender: Contender, settings: Settings) -> Measured:
    """Submit `operator.add(1, i)` 20,000 times, then ask for all results: tasks per second."""
    return _submit(contender, settings, settings.number(20_000, 500))


@make_row(ROWS, "submit-million", "1 M no-op submits", "tasks/s", "higher", Bar(10), is_large=True, seconds=900)
def submit_million(contender: Contender, settings: Settings) -> Measured:
    """Submit `operator.add(1, i)` 1,000,000 times, then ask for all results: tasks per second."""
    return _submit(contender, settings, settings.number(1_000_000, 1_000))


def _submit(contender: Contender, settings: Settings, whole: int) -> Measured:
    count = contender.share(whole)
    calls = [(1, number) for number in range(count)]
    with warm_pool(contender, settings) as pool:
        seconds, results = seconds_of(lambda: contender.call_all(pool, operator.add, calls))
    check(results, list(range(1, count + 1)))
    return Measured(count / seconds, {"tasks": count})


SCRIPT = """
import json
import re

GRADES = [10, 20, 30]
NAMES = {"low": 1, "high": 2}
PATTERN = re.compile("[a-z]+")


class Entry:
    bonus = 5

    def __init__(self, number, name="low"):
        self.number, self.name = number, name

    def worth(self):
        return self.number + NAMES[self.name] + self.bonus


def describe(entry):
    if not PATTERN.fullmatch(entry.name):
        raise ValueError(f"no name: {entry.name!r}")
    return json.dumps([entry.number, entry.name])


def weigh(number):
    if number < 0:
        return describe(Entry(number))
    if number > 10**12:
        return Entry(number).worth() + GRADES[-1]
    return number + 1
"""


@make_row(ROWS, "script", "submits of a script's function", "tasks/s", "higher", Bar(5))
def script(contender: Contender, settings: Settings) -> Measured:
    """Submit `weigh(i)` 20,000 times, then ask for all results: tasks per second. The function, which does nothing with
    these numbers, is in `__main__`, where there are also a list, a dictionary, a class and a function that it mentions.
    """
    if contender.key in ("spawn", "forkserver"):
        raise NotOffered("workers that import the script anew find no function that was made in it at run time")
    main: Any = sys.modules["__main__"]
    exec(SCRIPT, vars(main))
    count = contender.share(settings.number(20_000, 500))
    calls = [(number,) for number in range(count)]
    with warm_pool(contender, settings) as pool:
        check(contender.call_all(pool, main.weigh, calls[:100]), list(range(1, 101)))
        seconds, results = seconds_of(lambda: contender.call_all(pool, main.weigh, calls))
    check(results, list(range(1, count + 1)))
    return Measured(count / seconds, {"tasks": count})


@make_row(ROWS, "round-trip", "sequential round trip, p50", "us", "lower", Bar(0.7))
def round_trip(contender: Contender, settings: Settings) -> Measured:
    """Submit `operator.add(1, i)` and wait for its result, 1,500 times one after the other: the median."""
    trips = []
    with warm_pool(contender, settings) as pool:
        for number in range(contender.share(settings.number(1_500, 50))):
            began = time.perf_counter()
            result = contender.result(contender.submit(pool, operator.add, 1, number))
            trips.append((time.perf_counter() - began) * 1e6)
            check(result, number + 1)
    return Measured(statistics.median(trips), {"p99 us": sorted(trips)[len(trips) * 99 // 100]})


@make_row(
    ROWS, "map", "map, 100 k items, default arguments", "items/s", "higher", Bar(1, "joblib"), Bar(1, "mp-pool-100")
)
def map_default(contender: Contender, settings: Settings) -> Measured:
    """Map a function that adds 1 over 100,000 numbers, all other arguments left alone: what people get who do not
    know `chunksize`. `multiprocessing.Pool` is measured with `chunksize=100`, too.
    """
    return _map(contender, settings, None)


@make_row(ROWS, "map-chunks", "map, 100 k items, chunksize=100", "items/s", "higher")
def map_chunks(contender: Contender, settings: Settings) -> Measured:
    """The same with `chunksize=100`, or what the contender calls so."""
    return _map(contender, settings, 100)


def _map(contender: Contender, settings: Settings, chunksize: int | None) -> Measured:
    count = contender.share(settings.number(100_000, 1_000))
    with warm_pool(contender, settings) as pool:
        check(contender.map(pool, tasks.increment, range(200), chunksize), list(range(1, 201)))
        seconds, results = seconds_of(lambda: contender.map(pool, tasks.increment, range(count), chunksize))
    check(results, list(range(1, count + 1)))
    return Measured(count / seconds, {"items": count})


@make_row(ROWS, "asyncio", "asyncio, gather of 5,000", "tasks/s", "higher", Bar(3))
def asyncio_gather(contender: Contender, settings: Settings) -> Measured:
    """In an event loop, `await gather()` 5,000 calls of `loop.run_in_executor(pool, operator.add, 1, i)`."""
    count = contender.share(settings.number(5_000, 200))

    async def gather() -> tuple[float, list[int]]:
        began = time.perf_counter()
        results = await asyncio.gather(*[contender.in_loop(pool, operator.add, 1, number) for number in range(count)])
        return time.perf_counter() - began, list(results)

    with warm_pool(contender, settings) as pool:
        seconds, results = asyncio.run(gather())
    check(results, list(range(1, count + 1)))
    return Measured(count / seconds, {"tasks": count})


@make_row(ROWS, "arrays-100k", "arrays of 100 kB there and back", "tasks/s", "higher", Bar(1))
def arrays_100k(contender: Contender, settings: Settings) -> Measured:
    """Submit a function that returns its argument with an array of 100 kB, 2,000 times, each when the result of the
    sixteenth before it has been taken: tasks per second.
    """
    return _arrays(contender, settings, 100_000, settings.number(2_000, 50))


@make_row(ROWS, "arrays-1m", "arrays of 1 MB there and back", "tasks/s", "higher", Bar(2))
def arrays_1m(contender: Contender, settings: Settings) -> Measured:
    """The same with 400 arrays of 1 MB."""
    return _arrays(contender, settings, 1_000_000, settings.number(400, 20))


def _arrays(contender: Contender, settings: Settings, size: int, whole: int) -> Measured:
    whole_array = _array(settings)
    arrays = [whole_array[number : number + size // 8] for number in range(16)]  # each begins with its number
    count = contender.share(whole)

    def run() -> None:
        open_: deque[Any] = deque()
        for number in range(count + 16):
            if number >= 16 and contender.result(open_.popleft())[0] != number % 16:
                raise WrongResultError("another array came back")
            if number < count:
                open_.append(contender.submit(pool, tasks.same, arrays[number % 16]))

    with warm_pool(contender, settings) as pool:
        run()  # imports numpy everywhere, and fills what is used again
        seconds, _nothing = seconds_of(run)
    return Measured(count / seconds, {"tasks": count, "MB/s": 2 * count * arrays[0].nbytes / seconds / 1e6})


@make_row(ROWS, "numpy-echo", "100 MB of numpy there and back", "s", "lower", Bar(0.25), seconds=240)
def numpy_echo(contender: Contender, settings: Settings) -> Measured:
    """Submit a function that returns its argument with an array of 100 MB: the median of 3 round trips."""
    array = _array(settings)
    trips = []
    with warm_pool(contender, settings) as pool:
        for _ in range(2 * settings.workers):  # imports numpy everywhere
            contender.call_all(pool, tasks.same, [(array[:1000],)] * (2 * settings.workers))
        for _ in range(3):
            # No name may keep the result of the last trip, nor is it freed within the next one.
            seconds, result = seconds_of(lambda: contender.call_all(pool, tasks.same, [(array,)])[0])
            if not (result == array).all():
                raise WrongResultError("another array came back")
            del result
            trips.append(seconds)
    return Measured(statistics.median(trips), {"MB": array.nbytes / 1e6, "first s": trips[0]})


def _array(settings: Settings) -> Any:
    """Make an array of 100 MB."""
    try:
        import numpy as np
    except ImportError:
        raise NotOffered("numpy is not installed") from None
    return np.arange(settings.number(100, 1) * 125_000, dtype=np.float64)


@make_row(ROWS, "numpy-shared", "one array of 100 MB for 100 tasks", "s", "lower", Bar(0.05), seconds=400)
def numpy_shared(contender: Contender, settings: Settings) -> Measured:
    """Run 100 tasks that each sum up a part of the same array of 100 MB, the way that the contender has for this
    (`share`, `scatter`, `put`, `shared_objects`, memory maps). Without one, the array is an ordinary argument.
    """
    array = _array(settings)
    numbers = range(settings.number(100, 10))
    with warm_pool(contender, settings) as pool:
        contender.call_all(pool, tasks.slice_sum, [(array[:1000], 0)] * (4 * settings.workers))
        seconds, results = seconds_of(lambda: contender.call_shared(pool, tasks.slice_sum, array, numbers))
    check(results, [tasks.slice_sum(array, number) for number in numbers])
    return Measured(seconds, {"MB": array.nbytes / 1e6, "tasks": len(numbers)})


@make_row(
    ROWS, "recycling", "a new worker for each task, 1,000 no-op tasks", "tasks/s", "higher", Bar(5, "spawn"),
    Bar(5, "forkserver"), baseline="forkserver", seconds=240,
)  # fmt: skip
def recycling(contender: Contender, settings: Settings) -> Measured:
    """Run `operator.add(1, i)` 1,000 times with `max_tasks_per_child=1` or what the contender calls so, from the first
    submit to the last result. ProcessPoolExecutor refuses it with forked workers; where it is not told otherwise, it
    spawns them then.
    """
    contender.load()
    count = contender.share(settings.number(1_000, 10))
    pool = contender.make_recycling(settings.workers)
    calls = [(1, number) for number in range(count)]
    seconds, results = seconds_of(lambda: contender.call_recycling(pool, operator.add, calls))
    check(results, list(range(1, count + 1)))
    contender.close(pool)
    return Measured(count / seconds, {"tasks": count})
