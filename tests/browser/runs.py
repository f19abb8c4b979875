"""Made-up runs of an executor, as the figures of its timeline; seeded, so that a test knows what is to be seen."""

from __future__ import annotations

import heapq
import random
from pathlib import Path
from typing import Any

import crew_executor
from crew_executor.timeline import page_of

TEMPLATE = Path(crew_executor.__file__).with_name("timeline_page.html")
STATUSES = ["success", "error", "crash", "timeout", "cancel"]
BEGAN = 1_764_400_000.0


def write_page(figures: dict[str, Any], path: Path) -> Path:
    """Write the page with these figures, as Timeline.save() does."""
    path.write_text(page_of(figures), "utf-8")
    return path


def empty(**more: Any) -> dict[str, Any]:
    """Return a run in which nothing happened."""
    return {
        "name": "crew-1", "run": "0123456789abcdef", "began": BEGAN, "seconds": 0.0, "version": "0.1", "max_workers": 8,
        "workers": [], "names": [], "errors": [], "statuses": STATUSES, "tasks": [], "samples": [], "notes": [], **more,
    }  # fmt: skip


def worker(number: int, joined: float | None, gone: float | None = None, end: str = "", **more: Any) -> dict[str, Any]:
    """Return a worker that was launched 0.2 s before it joined."""
    return {
        "name": f"crew-1-{number}", "host": "h1", "pid": 1000 + number, "launched": max(0.0, (joined or 0.2) - 0.2),
        "joined": joined, "gone": gone, "end": end, "is_lost": False, **more,
    }  # fmt: skip


def small() -> dict[str, Any]:
    """Return 20 tasks on 3 workers, one of which dies; all are idle for a second, and the last task is the longest."""
    killed = "killed by signal 9 (SIGKILL)"
    tasks: list[list[Any]] = []
    for n in range(12):
        start = 0.3 + n // 3 * 0.5
        tasks.append([n % 2, n % 3, 0.0, start, 0.47, 0, 1, 1, int(n == 4), -1])
    tasks[7] = [1, 1, 0.0, 1.3, 0.2, 2, 1, 1, 0, 1, 1, 1]  # worker 2 dies here
    tasks[10] = [1, 2, 0.0, 2.3, 0.4, 0, 2, 1, 0, -1, 0, 0]  # once more
    tasks.append([0, 0, 3.6, 3.65, 0.4, 1, 1, 1, 0, 0])
    tasks.append([2, 2, 3.6, 3.65, 2.2, 0, 1, 40, 0, -1])
    tasks.extend([0, 0, 3.6, 4.1 + n * 0.31, 0.3, 0, 1, 1, 0, -1] for n in range(3))
    tasks.append([1, 0, 3.6, 5.1, 0.6, 3, 1, 1, 2, 2])
    tasks.extend([0, -1, 3.6, None, None, 4, 1, 1, 0, -1] for _ in range(2))
    return empty(
        seconds=6.2,
        max_workers=3,
        workers=[
            worker(1, 0.25, 6.15, "left: idle"),
            worker(2, 0.28, 1.5, killed, is_lost=True),
            worker(3, 0.3, 6.2, "left: idle", host="h2"),
        ],
        names=["square", "fetch", "train"],
        errors=["ValueError: bad", f"worker crew-1-2 (pid 1002 on h1) was lost: {killed}", "TaskTimeoutError: slow"],
        tasks=tasks,
        samples=[
            [0.0, 12, 0, 0, 3], [0.25, 11, 1, 1, 2], [0.3, 9, 3, 3, 0], [0.8, 6, 3, 3, 0], [1.3, 3, 3, 3, 0],
            [1.5, 4, 2, 2, 0], [1.8, 2, 2, 2, 0], [2.3, 0, 2, 2, 0], [2.7, 0, 1, 2, 0], [2.77, 0, 0, 2, 0],
            [3.6, 7, 0, 2, 0], [3.65, 5, 2, 2, 0], [4.1, 3, 2, 2, 0], [4.5, 1, 2, 2, 0], [5.1, 0, 2, 2, 0],
            [5.7, 0, 1, 2, 0], [5.85, 0, 0, 2, 0], [6.15, 0, 0, 1, 0], [6.2, 0, 0, 0, 0],
        ],
        notes=[[0.0, "launch 3 workers: 12 tasks wait"], [1.5, "launch none: its host is at its limit"]],
    )  # fmt: skip


def large(count: int = 5000, workers: int = 64, seed: int = 1, *, seconds: float = 0.75) -> dict[str, Any]:
    """Return a run with so many tasks: a batch, a pause, a batch; some fail, one worker dies, one task is very long."""
    chance = random.Random(seed)
    names = ["simulate", "score", "load_chunk", "<b>report</b>"]
    joined = [round(0.2 + 0.05 * n + chance.random() * 0.3, 6) for n in range(workers)]
    victim = chance.randrange(workers)
    free = [(at, number) for number, at in enumerate(joined)]
    heapq.heapify(free)
    tasks: list[list[Any]] = []
    changes: list[tuple[float, int, int, int, int]] = [(0.0, 0, 0, 0, workers)]
    changes += [(at, 0, 0, 1, -1) for at in joined]
    submitted, dies, gone = 0.0, 0.0, {}
    for n in range(count):
        if n == count // 2:  # the pool runs dry before the second batch comes
            submitted = max(free)[0] + seconds * 3
        if n in (0, count // 2):
            changes.append((submitted, count // 2 if n == 0 else count - count // 2, 0, 0, 0))
        at, number = heapq.heappop(free)
        start = round(max(at, submitted) + 0.002, 6)
        length = chance.lognormvariate(0.0, 0.6) * seconds
        status, error = 0, -1
        if n == count // 3:
            length = seconds * 12
        elif number == victim and start > seconds * 30 and not dies:
            status, error, dies = 2, 1, start + length
            gone[number] = round(dies, 6)
        elif chance.random() < 0.006:
            status, error = 1, 0
        length = round(length, 6)
        tasks.append([n % len(names), number, submitted, start, length, status, 1, 1, 0, error])
        changes += [(start, -1, 1, 0, 0), (start + length, 0, -1, 0, 0)]
        if status == 2:
            changes.append((dies, 0, 0, -1, 0))
        else:
            heapq.heappush(free, (start + length, number))
    end = round(max(free)[0] + seconds, 6)
    samples, state = [], [0, 0, 0, 0]
    for at, *deltas in sorted(changes):
        state = [a + b for a, b in zip(state, deltas, strict=True)]
        samples.append([round(at, 6), *state])
    return empty(
        seconds=end,
        max_workers=workers,
        workers=[
            worker(n + 1, joined[n], gone[n], "killed by signal 9 (SIGKILL): out of memory", is_lost=True)
            if n in gone
            else worker(n + 1, joined[n], end, "left: closed", host=f"h{n % 4 + 1}")
            for n in range(workers)
        ],
        names=names,
        errors=["ValueError: bad", "worker was lost: killed by signal 9 (SIGKILL)"],
        tasks=tasks,
        samples=samples,
        notes=[[0.0, f"launch {workers} workers: {count // 2} tasks wait"]],
    )
