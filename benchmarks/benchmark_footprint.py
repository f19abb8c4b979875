"""The rows about what a pool costs while it works or waits: memory, CPU time, and the time to end it. Linux only."""

from __future__ import annotations

import gc
import operator
import os
import tempfile
import time
from pathlib import Path

import benchmark_tasks as tasks
from benchmark_contender import Contender
from benchmark_pool import check, make_warm, seconds_of, warm_pool
from benchmark_processes import cpu_seconds, processes_of_this_measurement, pss_bytes
from benchmark_row import Bar, Measured, NotOffered, Row, Settings, make_row

ROWS: dict[str, Row] = {}


@make_row(ROWS, "queued-memory", "queued memory a task", "bytes", "lower", Bar(0.6), seconds=900)
def queued_memory(contender: Contender, settings: Settings) -> Measured:
    """While every worker is occupied, submit `operator.add(1, i)` 200,000 times (with --large 1,000,000): how much all
    processes together grow, per task. The first 5,000 results are awaited and checked.
    """
    count = contender.share(settings.number(200_000, 2_000, 1_000_000))
    pool = make_warm(contender, settings)
    with tempfile.TemporaryDirectory() as directory:
        gate = str(Path(directory) / "gate")
        guards = [contender.submit(pool, tasks.wait_for_file, gate) for _ in range(settings.workers)]
        time.sleep(0.3)
        before = _total_pss()
        futures = [contender.submit(pool, operator.add, 1, number) for number in range(count)]
        time.sleep(0.3)
        grown = _total_pss() - before
        Path(gate).touch()
        check(contender.results(guards), [gate] * len(guards))
    awaited = min(count, 5_000)
    check(contender.results(futures[:awaited]), list(range(1, awaited + 1)))
    # The rest would take minutes with some pools, and is the matter of other rows. The pool is left as it is.
    return Measured(grown / count, {"tasks": count})


def _total_pss() -> int:
    gc.collect()
    return sum(pss_bytes(pid) for pid in processes_of_this_measurement())


@make_row(ROWS, "worker-memory", "memory of a pool, per worker", "MB", "lower")
def worker_memory(contender: Contender, settings: Settings) -> Measured:
    """Memory of all processes of a warm pool but the client, divided by the number of workers: PSS, so what forked
    processes share counts once. Helpers (servers, trackers, supervisors) are included.
    """
    with warm_pool(contender, settings):
        time.sleep(0.5)
        memory = {pid: pss_bytes(pid) / 1e6 for pid in processes_of_this_measurement()}
    client = memory.pop(os.getpid())
    if not any(memory.values()):
        raise NotOffered("no processes of its own")
    parts = {"processes": len(memory), "all MB": sum(memory.values()), "client MB": client}
    return Measured(sum(memory.values()) / settings.workers, parts)


@make_row(ROWS, "idle", "idle pool, CPU", "% of a core", "lower", Bar(0.2, None), baseline=None)
def idle(contender: Contender, settings: Settings) -> Measured:
    """CPU time of all processes of a pool, the client's included, while nothing is asked of them: for 5 seconds, after
    a warm-up and 1 second of rest.
    """
    with warm_pool(contender, settings):
        gc.collect()
        time.sleep(1.0)
        processes = list(processes_of_this_measurement())
        before = {pid: cpu_seconds(pid) for pid in processes}
        began = time.monotonic()
        time.sleep(settings.number(5, 1))
        seconds = time.monotonic() - began
        spent = sum(cpu_seconds(pid) - before[pid] for pid in reversed(processes))
    return Measured(100 * spent / seconds, {"processes": len(processes)})


@make_row(ROWS, "shutdown", "shutdown of a warm pool", "ms", "lower")
def shutdown(contender: Contender, settings: Settings) -> Measured:
    """End a warm pool that has nothing to do, and wait until it says that it has ended. `processes left` are those that
    live on beside the client at that moment.
    """
    pool = make_warm(contender, settings)
    time.sleep(0.2)
    seconds, _ = seconds_of(lambda: contender.close(pool))
    return Measured(seconds * 1e3, {"processes left": len(processes_of_this_measurement()) - 1})
