"""What the tests of clients run in workers. It stands apart: a worker need not import the library that asks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Noting:
    """Call a function, and note in a directory which process has called it.

    Args:
        function: importable.
        directory: one that all processes see.
    """

    def __init__(self, function: Callable[..., Any], directory: Path) -> None:
        self.function = function
        self.directory = directory

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns."""
        (self.directory / str(os.getpid())).touch()
        return self.function(*args, **kwargs)

    def pids(self) -> set[int]:
        """Return the processes that have called it."""
        return {int(path.name) for path in self.directory.iterdir()}


def getpid_of(_item: object) -> int:
    """Return the pid, whatever the argument."""
    return os.getpid()


def count_primes(limit: int) -> int:
    """Return how many primes are below the limit."""
    sieve = bytearray([1]) * limit
    for number in range(2, int(limit**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit, number)))
    return sum(sieve[2:])


def group_size(word: str, group: list[str]) -> tuple[str, int]:
    """Return the word and the size of its group."""
    return word, len(group)


def fail_once(path: Path, x: float) -> float:
    """Raise ConnectionError in the first call, return the number in all others."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return x
    raise ConnectionError("the first call")


# ---------------------------------------------------------------------- functions to be minimised, integrated, learned


def distance(x: float, y: float) -> float:
    """Return 0 at (0.5, -1), more elsewhere."""
    return (x - 0.5) ** 2 + abs(y + 1)


def valley(point: np.ndarray) -> float:
    """Rosenbrock's function, in any number of dimensions: 0 where all are 1."""
    return float(np.sum(100 * (point[1:] - point[:-1] ** 2) ** 2 + (1 - point[:-1]) ** 2))


def residuals(point: np.ndarray) -> np.ndarray:
    """Return the residuals whose squares make the valley of two dimensions."""
    return np.array([10 * (point[1] - point[0] ** 2), 1 - point[0]])


def waves(x: float, frequencies: np.ndarray) -> np.ndarray:
    """Return a vector of damped waves."""
    return np.sin(frequencies * x) / (1 + x**2)


def peak(x: float, width: float = 0.01) -> float:
    """A line with a narrow peak at 0.3."""
    return x + width**2 / (width**2 + (x - 0.3) ** 2)


def hill(point: tuple[float, float]) -> float:
    """A hill in the plane."""
    return 1 / (0.1 + point[0] ** 2 + point[1] ** 2)


def log_probability(point: np.ndarray, inverse_variances: np.ndarray) -> float:
    """Return the logarithm of a normal density; ValueError beyond ten."""
    if np.abs(point).max() > 10:
        raise ValueError("that far out is nothing")
    return -0.5 * float(np.sum(inverse_variances * point**2))
