"""What a task needs that not every worker has, and who has it. Pure; moves nothing.

Needs are amounts by name: {"gpus": 1}. A worker has as much of each as it was given at its start, and runs one task at
a time: so nothing is used up, and a task fits a worker or never will.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .taskqueue import TaskQueue

Needs = tuple[tuple[str, float], ...]
"""Names with amounts, sorted: hashable."""
Resources = Mapping[str, float]
AMOUNT_MAX = 1e15


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
    amounts: dict[Any, Any] = dict(resources)
    for key, amount in amounts.items():
        if not isinstance(key, str) or isinstance(amount, bool) or not hasattr(amount, "__float__"):
            raise TypeError(f"{name} must have names with numbers, not {key!r}: {amount!r}")
        if not key or not 0 <= amount < AMOUNT_MAX:
            raise ValueError(f"{name} must have names with amounts from 0 to {AMOUNT_MAX:g}, not {key!r}: {amount!r}")
    return {key: float(amount) for key, amount in amounts.items() if amount}


def needs_of(resources: Resources | Needs) -> Needs:
    """Return what is needed, as the scheduler takes it.

    Args:
        resources: amounts by name, or needs that were made of such.

    Raises:
        TypeError, ValueError: as check_resources().
    """
    amounts: Any = resources
    if isinstance(resources, tuple):
        with contextlib.suppress(TypeError, ValueError):  # no needs: check_resources() says so
            amounts = dict(resources)
    return tuple(sorted(check_resources("resources", amounts).items()))


def is_met(needs: Needs, resources: Resources) -> bool:
    """Answer whether a worker with these resources can run a task with these needs."""
    return all(resources.get(name, 0) >= amount for name, amount in needs)


def in_words(resources: Resources) -> str:
    """Return amounts in words: "gpus=2, licences=1"; "nothing"."""
    return ", ".join(f"{name}={amount:.12g}" for name, amount in sorted(resources.items())) or "nothing"


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


def next_queue(ordinary: TaskQueue, queues: Mapping[Needs, TaskQueue], resources: Resources) -> tuple[TaskQueue, bool]:
    """Return from which queue a worker with these resources gets its next task, and whether that goes alone.

    Tasks that only such workers can run come first among those of their rank, and nothing goes ahead of one.
    """
    needed = first_queue(queues, resources)
    lane = None if needed is None else needed.front()
    if needed is None or lane is None:
        return ordinary, False
    others = ordinary.front()
    return ordinary if others is not None and others[0].rank > lane[0].rank else needed, True
