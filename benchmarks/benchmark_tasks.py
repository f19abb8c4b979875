"""What workers run for the benchmark, where a function of Python itself does not do.

It imports little: workers import it, and some have their memory measured.
"""

from __future__ import annotations

import os
import time
from typing import Any


def same(value: Any) -> Any:
    """Return the argument."""
    return value


def increment(number: int) -> int:
    """Return the next number."""
    return number + 1


def burn(size: int) -> int:
    """Compute for a time that depends on the size."""
    return sum(range(size))


def nap(seconds: float) -> tuple[float, float]:
    """Sleep, and return the times of begin and end. The clock is the same in all processes (Linux)."""
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def wait_for_file(path: str) -> str:
    """Occupy the worker until the file is there."""
    while not os.path.exists(path):  # not pathlib: workers whose memory is measured import this
        time.sleep(0.01)
    return path


def slice_sum(array: Any, number: int) -> float:
    """Look at a little of a big array."""
    return float(array[number * 1000 : (number + 1) * 1000].sum())
