"""Simulates pools of up to 10,000 workers with the real core, and prints what the core costs. README.md explains it.

No process, no link, no sleep: simulate_world.py. Nothing here asserts a time.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from simulate_world import PAYLOAD, Result, Settings, Simulation

from crew_executor.core.messages import Outcome
from crew_executor.core.scheduler import Scheduler
from crew_executor.core.task import Task
from crew_executor.core.worker import Worker

SIZES = (10, 100, 1_000, 10_000)
UNKNOWN, LONG = "unknown", 1.0


def main() -> None:
    """Run what the command line asks for."""
    settings, options = parse()
    figures: dict[str, Any] = {}
    if options.what in ("run", "all"):
        figures["run"] = show_run(settings)
    if options.what in ("flat", "all"):
        figures["flat"] = show_flat(settings, options.repetitions)
    if options.what in ("ticks", "all"):
        figures["ticks"] = show_steps(options.repetitions)
    if options.what in ("memory", "all"):
        figures["memory"] = show_memory()
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)


def parse() -> tuple[Settings, argparse.Namespace]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("run", "flat", "ticks", "memory", "all"), default="all")
    default = Settings()
    parser.add_argument("--workers", type=int, default=default.workers)
    parser.add_argument("--tasks", type=int, default=default.tasks)
    parser.add_argument("--seconds", type=float, default=default.seconds, help="a task takes, on average")
    parser.add_argument("--spread", choices=("fixed", "exponential", "heavy"), default=default.spread)
    parser.add_argument("--keys", type=int, default=default.keys, help="so many functions take turns")
    parser.add_argument("--burst", default="0:0", metavar="TASKS:GAP", help="bursts, and seconds between them")
    parser.add_argument("--idle-timeout", type=float, default=None)
    parser.add_argument("--frame", type=int, default=default.frame, help="tasks submitted at once")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds between these within a burst")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    burst, _, gap = options.burst.partition(":")
    settings = Settings(
        workers=options.workers, tasks=options.tasks, seconds=options.seconds, spread=options.spread,
        keys=options.keys, burst=int(burst), gap=float(gap or 0), idle_timeout=options.idle_timeout,
        frame=options.frame, pace=options.pace, seed=options.seed,
    )  # fmt: skip
    return settings, options


# ---------------------------------------------------------------------- one pool


def show_run(settings: Settings) -> dict[str, Any]:
    """Simulate one pool and print all about it."""
    result = simulate(settings)
    print(f"{result.tasks:,} tasks of {settings.seconds:g} s ({settings.spread}), {settings.workers:,} workers")
    print(f"  core   {result.core_tasks_per_second:12,.0f} tasks/s   {result.core_microseconds:8.2f} us a task")
    print(f"  whole  {result.tasks / result.seconds:12,.0f} tasks/s   the simulation with it")
    print(f"  {result.frames:,} frames, {result.calls:,} calls, {result.ticks:,} turns, {result.recalls:,} recalls")
    print(
        f"  {result.launches:,} launches, {result.relaunches:,} of them relaunches, {result.left:,} left for idleness, "
        f"{result.workers_peak:,} at most; {result.simulated_seconds:,.1f} s of simulated time"
    )
    return asdict(result)


def simulate(settings: Settings) -> Result:
    """Run one simulation with as little disturbance as can be had."""
    simulation = Simulation(settings)
    gc.collect()
    gc.disable()  # the cost of a collection depends on the simulation's own objects
    try:
        return simulation.run()
    finally:
        gc.enable()


# ---------------------------------------------------------------------- the same work at every size


def show_flat(settings: Settings, repetitions: int) -> list[dict[str, Any]]:
    """Print the core's time per task for pools of all sizes: with short tasks, a few ms long ones, and long ones."""
    print(f"\ncore us a task (core tasks/s), median of {repetitions}; {settings.tasks:,} tasks")
    print(f"{'a task takes':>14}" + "".join(f"{size:>22,} workers" for size in SIZES))
    rows = []
    for seconds in (20e-6, 1e-3, 20e-3, 1.0):
        medians = []
        for size in SIZES:
            one = replace(settings, workers=size, seconds=seconds, burst=0, gap=0.0)
            results = [simulate(replace(one, seed=settings.seed + turn)) for turn in range(repetitions)]
            medians.append(statistics.median(result.core_microseconds for result in results))
        cells = "".join(f"{micros:14.2f} ({1e6 / micros:11,.0f}/s)" for micros in medians)
        print(f"{seconds:12g} s{cells}", flush=True)
        rows.append({"seconds": seconds, "sizes": SIZES, "core_microseconds": medians})
    return rows


# ---------------------------------------------------------------------- single steps in a pool that stands still


class Nobody:
    """A port that does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return self._ignore

    def _ignore(self, *arguments: Any) -> None: ...


def make_pool(workers: int, tasks_each: int = 0, *, seconds: float = 0.0001, queued: int = 0) -> Scheduler:
    """Return a scheduler whose workers hold so many tasks each."""
    scheduler = Scheduler(Nobody(), workers)  # type: ignore[arg-type]  # it answers to every name
    for _ in range(100):
        scheduler.estimates.observe("known", seconds)
    crowd = [Worker(f"w{number}") for number in range(workers)]
    for number, worker in enumerate(crowd):
        first = number * tasks_each
        scheduler.submit([Task(first + one, "known", PAYLOAD) for one in range(1, tasks_each + 1)], 0.0)
        scheduler.worker_ready(worker, 0.0)
    scheduler.submit([Task(10**9 + one, UNKNOWN, PAYLOAD) for one in range(queued)], 0.0)
    return scheduler


def step_tick(scheduler: Scheduler) -> Callable[[int], None]:
    """Look at the clock."""

    def step(_number: int) -> None:
        scheduler.tick(0.0)
        scheduler.next_tick()

    return step


def step_task(scheduler: Scheduler) -> Callable[[int], None]:
    """Submit one task, and finish it."""

    def step(number: int) -> None:
        task = Task(2 * 10**9 + number, "known", PAYLOAD)
        scheduler.submit([task], 0.0)
        worker = task.worker
        if worker is not None:
            outcome = Outcome(task.task_id, 1, 0, (PAYLOAD,), 0.0, 0.0001, 0.0, 0)
            scheduler.outcomes(worker, [outcome], 0.0)
        else:
            scheduler.cancel(task)  # so that the next one finds the queue as this one did

    return step


STEPS: tuple[tuple[str, Callable[[int], Callable[[int], None]]], ...] = (
    ("tick: all idle", lambda size: step_tick(make_pool(size))),
    ("tick: all hold one", lambda size: step_tick(make_pool(size, 1))),
    ("tick: all hold five", lambda size: step_tick(make_pool(size, 5))),
    ("tick: so many queued", lambda size: step_tick(make_pool(1, 1, queued=size))),
    ("one task: all idle", lambda size: step_task(make_pool(size))),
    ("one task: all but one idle hold five", lambda size: step_task(with_idle(make_pool(size, 5)))),
    ("one task: all hold one, 1 s", lambda size: step_task(make_pool(size, 1, seconds=LONG))),
    ("one task: so many queued", lambda size: step_task(make_pool(1, 1, queued=size))),
)


def with_idle(scheduler: Scheduler) -> Scheduler:
    """Let a worker join that has nothing to do."""
    scheduler._slots += 1
    scheduler.worker_ready(Worker("idle"), 0.0)
    return scheduler


def show_steps(repetitions: int) -> list[dict[str, Any]]:
    """Print what single steps cost in a pool that otherwise stands still."""
    print(f"\nus a step, median of {repetitions}")
    print(f"{'':>38}" + "".join(f"{size:>10,}" for size in SIZES))
    rows = []
    for title, make in STEPS:
        medians = []
        for size in SIZES:
            times = []
            for _ in range(repetitions):
                step = make(size)
                times.append(time_step(step))
            medians.append(statistics.median(times))
        print(f"{title:>38}" + "".join(f"{micros:10.2f}" for micros in medians), flush=True)
        rows.append({"step": title, "sizes": SIZES, "microseconds": medians})
    return rows


def time_step(step: Callable[[int], None]) -> float:
    """Return the microseconds of one step, from as many as fit into a tenth of a second."""
    gc.collect()
    gc.disable()
    count = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < 0.1:
        step(count)
        count += 1
    gc.enable()
    return (time.perf_counter() - begun) / count * 1e6


# ---------------------------------------------------------------------- memory


def show_memory(tasks: int = 100_000) -> dict[str, float]:
    """Print how much memory a queued task takes: the core's share, without the payload and the future."""
    scheduler = make_pool(1, 1)
    gc.collect()
    tracemalloc.start()
    numbers = list(range(10**9, 10**9 + tasks))
    before = tracemalloc.get_traced_memory()[0]
    scheduler.submit([Task(number, "known", PAYLOAD) for number in numbers], 0.0)
    queued = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    print(f"\nmemory of a queued task in the core: {queued / tasks:,.0f} bytes ({tasks:,} queued, payload not counted)")
    return {"bytes_per_queued_task": queued / tasks}


if __name__ == "__main__":
    main()
