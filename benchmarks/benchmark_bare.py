"""Processes that do nothing but the work itself: what the efficiency of a pool is held against.

As a script it is such a process: it says when it is ready, begins on a word, and says when it is done.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmark_tasks import burn


def seconds_of_bare_processes(processes: int, size: int, count: int) -> float:
    """Return how long so many processes take that each call burn(size) so many times."""
    command = [sys.executable, __file__, str(size), str(count)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    _hear(started, "ready")
    began = time.perf_counter()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    _hear(started, "done")
    seconds = time.perf_counter() - began
    for process in started:
        process.communicate()
    return seconds


def _hear(processes: list[subprocess.Popen[str]], word: str) -> None:
    for process in processes:
        assert process.stdout is not None
        if (heard := process.stdout.readline().strip()) != word:
            raise RuntimeError(f"a bare process said {heard!r}, not {word!r}")


def size_of_one_millisecond() -> int:
    """Find the size for which burn() takes about a millisecond here."""
    size = 20_000
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(50):
            burn(size)
        size = max(1, round(size * 0.001 * 50 / (time.perf_counter() - began)))
    return size


if __name__ == "__main__":
    size, count = int(sys.argv[1]), int(sys.argv[2])
    expected = sum(range(size))
    print("ready", flush=True)
    sys.stdin.readline()
    right = sum(burn(size) == expected for _ in range(count))
    print("done" if right == count else "wrong", flush=True)
