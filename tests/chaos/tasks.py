"""What workers run in a chaos run: each call first leaves a mark of its start, then does something that can be checked.

Imports nothing but the standard library, so that a worker's start stays cheap. Must not know executors or futures, and
must not catch what the monkey does to it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
import warnings
from concurrent.futures import BrokenExecutor
from typing import Any

STARTED, ENDED = "s", "e"

_PATTERN_BYTES = 4096
_FAMILY_SECONDS = 600
"""How long a child of a task lives if nobody ends it: longer than a short run, so that a forgotten one is found."""


class Planned(Exception):
    """What a task raises when it is meant to."""


def mark(path: str, letter: str, number: int) -> None:
    """Append one line with one write: the kernel keeps such lines whole and in order, whoever dies."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{letter} {number}\n".encode())
    finally:
        os.close(fd)


def answer(number: int) -> int:
    """Return what the task of this number returns, so that mixed-up results are noticed."""
    return number * 7 + 1


def pattern(number: int, size_bytes: int) -> bytes:
    """Return bytes that belong to this number alone."""
    block = random.Random(number).randbytes(_PATTERN_BYTES)
    return (block * (size_bytes // _PATTERN_BYTES + 1))[:size_bytes]


def tiny(path: str, number: int) -> int:
    """Do next to nothing."""
    mark(path, STARTED, number)
    return answer(number)


def nap(path: str, number: int, seconds: float) -> int:
    """Take its time without any CPU."""
    mark(path, STARTED, number)
    time.sleep(seconds)
    return answer(number)


def spin(path: str, number: int, seconds: float) -> int:
    """Take its time with the CPU."""
    mark(path, STARTED, number)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
    return answer(number)


def fail(path: str, number: int) -> None:
    """Raise the error that belongs to this number."""
    mark(path, STARTED, number)
    raise Planned(number)


def branch(path: str, number: int, executor: Any, depth: int) -> int:
    """Submit tasks to its own pool, which do so as well."""
    mark(path, STARTED, number)
    if leaves(executor, depth) != 2**depth:
        raise RuntimeError(f"task {number} has counted wrong")
    return answer(number)


def leaves(executor: Any, depth: int) -> int:
    """Return the number of leaves of a tree of tasks; those whose worker was killed are submitted again."""
    if depth == 0:
        return 1
    futures = [executor.submit(leaves, executor, depth - 1) for _ in range(2)]
    count = 0
    while futures:
        future = futures.pop()
        try:
            count += future.result()
        except BrokenExecutor:
            futures.append(executor.submit(leaves, executor, depth - 1))
    return count


def leave(path: str, number: int, code: int) -> None:
    """End the worker from inside."""
    mark(path, STARTED, number)
    os._exit(code)


def heavy(path: str, number: int, blob: bytes, result_bytes: int) -> tuple[bool, bytes]:
    """Check a large argument; return the verdict and a large result."""
    mark(path, STARTED, number)
    return blob == pattern(number, len(blob)), pattern(number + 1, result_bytes)


def family(path: str, number: int, is_fork: bool, seconds: float) -> int:
    """Have a child for a while and end it; whoever kills this task has to end the child, too."""
    mark(path, STARTED, number)
    if is_fork:
        pid = _fork()
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    else:
        with subprocess.Popen(["sleep", str(_FAMILY_SECONDS)], stdin=subprocess.DEVNULL) as child:
            time.sleep(seconds)
            child.kill()
    return answer(number)


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of threads, here NNG's; this child touches none of them
        pid = os.fork()
    if pid == 0:
        time.sleep(_FAMILY_SECONDS)
        os._exit(0)
    return pid


def two_marks(path: str, number: int, seconds: float, how: str) -> int:
    """Leave a second mark at the end, which a task that was stopped must never do.

    Args:
        how: what it does in between: "sleep", "count" in C with the interpreter lock held, or "swallow" interrupts.
    """
    mark(path, STARTED, number)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if how == "count":
                sum(range(10**10))
            else:
                time.sleep(max(0.0, until - time.monotonic()))
        except BaseException:
            if how != "swallow":
                raise
    mark(path, ENDED, number)
    return answer(number)


def item(path: str, number: int, is_failing: bool) -> int:
    """Be one item of a map()."""
    mark(path, STARTED, number)
    if is_failing:
        raise Planned(number)
    return answer(number)
