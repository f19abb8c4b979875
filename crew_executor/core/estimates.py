"""How long a task will take, learned from those of the same function. Pure.

The estimator is the one TCP uses for round trips (Jacobson 1988): a smoothed mean and a smoothed deviation. The mean
alone would trap short tasks behind a long one of the same function; mean plus twice the deviation rises at once with
the first long task and comes down over the next dozen.
"""

from __future__ import annotations

from collections.abc import Hashable

GAIN_MEAN = 1 / 8
GAIN_DEVIATION = 1 / 4
OVERHEAD_SECONDS = 20e-6
"""What a task costs a worker besides the user's code; keeps the count of tasks ahead finite for no-ops."""
ITEM_SECONDS = 2e-6
"""The same for each item, where a task is several items of a map()."""
KEYS_MAX = 4096
"""Functions remembered; the oldest is forgotten first. A notebook that makes lambdas all day stays small."""


def item_seconds(estimate: float) -> float:
    """Return what each item after the first adds to the estimate of a task."""
    return estimate - OVERHEAD_SECONDS + ITEM_SECONDS


class Estimates:
    """Remember how long tasks of each function took."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[Hashable, list[float]] = {}

    def observe(self, key: Hashable, seconds: float) -> None:
        """Learn that a task of `key` took `seconds`."""
        entry = self._by_key.get(key)
        if entry is None:
            if len(self._by_key) >= KEYS_MAX:
                del self._by_key[next(iter(self._by_key))]
            self._by_key[key] = [seconds, seconds / 2]
            return
        error = seconds - entry[0]
        entry[0] += GAIN_MEAN * error
        entry[1] += GAIN_DEVIATION * (abs(error) - entry[1])

    def seconds(self, key: Hashable) -> float | None:
        """Return a careful guess in seconds, or None for a function never seen."""
        entry = self._by_key.get(key)
        return None if entry is None else entry[0] + 2 * entry[1] + OVERHEAD_SECONDS
