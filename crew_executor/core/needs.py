"""What a task needs that not every worker has, and who has it. Pure; moves nothing.

Needs are amounts by name: {"gpus": 1}. A worker has as much of each as it was given at its start, and runs one task at
a time: so nothing is used up, and a task fits a worker or never will.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .taskqueue import TaskQueue

Needs = tuple[tuple[str, float], ...]
"""Names with amounts, sorted: hashable."""
Resources = Mapping[str, float]


def check_resources(name: str, resources: Any) -> dict[str, float]:
    """Return a mapping of names to amounts as it was given; those of 0 are left out.

    Args:
        name: what it is called, for the error.
        resources: the mapping, or what was given in its place.

    Raises:
        TypeError: it is no mapping of texts to numbers.
        ValueError: an amount is negative, or no number.
    """
    if not isinstance(resources, Mapping):
        raise TypeError(f'{name} must be amounts by name, as {{"gpus": 1}}, not {resources!r}')
    for key, amount in resources.items():
        if not isinstance(key, str) or not isinstance(amount, (int, float)) or isinstance(amount, bool):
            raise TypeError(f"{name} must have names with numbers, not {key!r}: {amount!r}")
        if not 0 <= amount < math.inf:
            raise ValueError(f"{name} must have amounts of at least 0, not {key!r}: {amount!r}")
    return {key: amount for key, amount in resources.items() if amount}


def needs_of(resources: Resources | Needs) -> Needs:
    """Return what is needed, as the scheduler takes it.

    Args:
        resources: amounts by name, or needs that were made of such.

    Raises:
        TypeError, ValueError: as check_resources().
    """
    amounts = dict(resources) if isinstance(resources, tuple) else resources
    return tuple(sorted(check_resources("resources", amounts).items()))


def is_met(needs: Needs, resources: Resources) -> bool:
    """Answer whether a worker with these resources can run a task with these needs."""
    return all(resources.get(name, 0) >= amount for name, amount in needs)


def in_words(resources: Resources) -> str:
    """Return amounts in words: "gpus=2, licences=1"; "nothing"."""
    return ", ".join(f"{name}={amount:g}" for name, amount in sorted(resources.items())) or "nothing"


def first_queue(queues: Mapping[Needs, TaskQueue], resources: Resources) -> TaskQueue | None:
    """Return the queue with the first task that a worker with these resources can run, or None.

    The first is that of the highest rank, and of several such the oldest.
    """
    best: tuple[tuple[int, int], TaskQueue] | None = None
    for needs, queue in queues.items():
        if queue.living and is_met(needs, resources) and (lane := queue.front()) is not None:
            order = lane[0].rank, -lane[0].task_id
            if best is None or order > best[0]:
                best = order, queue
    return None if best is None else best[1]
