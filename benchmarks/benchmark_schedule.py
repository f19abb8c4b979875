"""The rows about keeping workers at work: efficiency with short tasks, and who waits behind long ones.

What a pool is held against is measured in the same process and minute: bare processes, or a perfect queue for the very
durations that the tasks had.
"""

from __future__ import annotations

import heapq
import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import benchmark_tasks as tasks
from benchmark_bare import seconds_of_bare_processes, size_of_one_millisecond
from benchmark_contender import Contender
from benchmark_pool import WrongResultError, check, seconds_of, warm_pool
from benchmark_row import Bar, Measured, Row, Settings, make_row

ROWS: dict[str, Row] = {}


@make_row(ROWS, "efficiency", "1 ms tasks, of bare processes", "share", "higher", Bar(0.93, None))
def efficiency(contender: Contender, settings: Settings) -> Measured:
    """Submit 1,000 tasks per worker that each compute for about 1 ms, and wait for all: the time that bare processes
    need for the same calls (as many processes as workers; the mean of before and after) divided by the pool's. That is
    done 3 times in turns; the median counts.
    """
    return _efficiency(contender, settings, size_of_one_millisecond())


@make_row(ROWS, "efficiency-busy", "1 ms tasks, client computes", "share", "higher", Bar(0.85, None))
def efficiency_busy(contender: Contender, settings: Settings) -> Measured:
    """The same while a thread of the client computes in pure Python. It does so beside the bare processes, too."""
    size = size_of_one_millisecond()  # before the thread: it would take its share of the time
    with _computing_thread():
        return _efficiency(contender, settings, size)


def _efficiency(contender: Contender, settings: Settings, size: int) -> Measured:
    each = contender.share(settings.number(1_000, 25))
    calls = [(size,)] * (each * settings.workers)
    bare, pooled = [seconds_of_bare_processes(settings.workers, size, each)], []
    for _ in range(settings.number(3, 1)):
        with warm_pool(contender, settings) as pool:
            seconds, results = seconds_of(lambda: contender.call_all(pool, tasks.burn, calls))
        check(results, [sum(range(size))] * len(calls))
        pooled.append(seconds)
        bare.append(seconds_of_bare_processes(settings.workers, size, each))
    shares = [(before + after) / 2 / own for before, after, own in zip(bare, bare[1:], pooled, strict=False)]
    parts = {"tasks": len(calls), "bare s": statistics.median(bare), "pool s": statistics.median(pooled)}
    return Measured(statistics.median(shares), parts)


@contextmanager
def _computing_thread() -> Iterator[None]:
    """Have a thread compute in pure Python."""
    is_over = False

    def compute() -> None:
        number = 0
        while not is_over:
            number = (number * 3 + 1) % 1_000_003

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    yield
    is_over = True
    thread.join()


@make_row(ROWS, "heavy-tail", "heavy tail, of a perfect queue", "times", "lower", Bar(1.02, None))
def heavy_tail(contender: Contender, settings: Settings) -> Measured:
    """Submit 300 tasks of one function that sleep from 2 ms to 0.5 s (a Pareto distribution, always the same): the time
    until the last is done, divided by that of first come, first served with no overhead and the durations measured.
    """
    dice = random.Random(20)
    naps = [min(0.5, 0.002 * dice.paretovariate(0.8)) for _ in range(settings.number(300, 20))]
    return _against_perfect_queue(contender, settings, naps, longest_counts=True)


@make_row(ROWS, "trap", "short tasks beside a long one, of a perfect queue", "times", "lower", Bar(1.02, None))
def trap(contender: Contender, settings: Settings) -> Measured:
    """Submit 2,000 tasks of one function that sleep 4 ms, but one in the middle sleeps 4 s: the time until the last
    *short* one is done, divided by that of first come, first served with no overhead and the durations measured.
    """
    naps = [0.004] * settings.number(2_000, 100)
    naps[len(naps) // 2] = sum(naps) / 2
    return _against_perfect_queue(contender, settings, naps, longest_counts=False)


def _against_perfect_queue(
    contender: Contender, settings: Settings, naps: Sequence[float], *, longest_counts: bool
) -> Measured:
    with warm_pool(contender, settings) as pool:
        began = time.monotonic()
        spans = contender.call_all(pool, tasks.nap, [(seconds,) for seconds in naps])
    slept = [end - begin for begin, end in spans]
    if any(begin < began or was < asked for (begin, _), was, asked in zip(spans, slept, naps, strict=True)):
        raise WrongResultError("a task was not run as it was asked for")
    longest = max(range(len(naps)), key=naps.__getitem__)
    counted = [number for number in range(len(naps)) if longest_counts or number != longest]
    perfect = first_come_first_served(slept, settings.workers)
    ideal, needed = max(perfect[number] for number in counted), max(spans[number][1] for number in counted) - began
    return Measured(needed / ideal, {"tasks": len(naps), "perfect s": ideal, "pool s": needed})


def first_come_first_served(durations: Sequence[float], workers: int) -> list[float]:
    """Return when each task would be done, in seconds, if free workers took the next at once and nothing took time."""
    free_at = [0.0] * workers
    done_at = []
    for duration in durations:
        end = heapq.heappop(free_at) + duration
        heapq.heappush(free_at, end)
        done_at.append(end)
    return done_at
