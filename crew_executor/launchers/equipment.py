"""What each worker of a pool has that tasks may need, and which GPUs it sees. Pure arithmetic; sets nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""What it lists CUDA numbers anew, from 0; HIP heeds it, too."""


class Equipment(NamedTuple):
    """What the worker at one place has.

    Attributes:
        resources: amounts by name, "gpus" among them.
        devices: the GPUs it is to see, as CUDA names them; None: whatever its process sees anyhow.
    """

    resources: Mapping[str, float]
    devices: tuple[str, ...] | None = None


def own_devices(gpus: int | Sequence[int | str] | None) -> tuple[str, ...] | None:
    """Return the names of GPUs on this machine.

    Args:
        gpus: how many, or which ones, as CUDA names them: numbers or "GPU-..."; None: it is not said.

    Raises:
        TypeError: it is none of these.
        ValueError: a number below 0, or more than CUDA_VISIBLE_DEVICES leaves to this process.
    """
    if gpus is None:
        return None
    if isinstance(gpus, (bool, str)) or not isinstance(gpus, (int, Sequence)):
        raise TypeError(f"gpus must be a number of GPUs, or a sequence of their names, not {gpus!r}")
    if not isinstance(gpus, int):
        return tuple(map(str, gpus))
    if gpus < 0:
        raise ValueError(f"gpus must be at least 0, not {gpus}")
    visible = visible_devices()
    if visible is None:
        return tuple(map(str, range(gpus)))
    if len(visible) < gpus:
        raise ValueError(f"gpus={gpus}, but {DEVICES_VARIABLE} leaves this process {len(visible)} GPUs")
    return visible[:gpus]


def visible_devices() -> tuple[str, ...] | None:
    """Return what CUDA_VISIBLE_DEVICES lists here, or None if it is not set."""
    value = os.environ.get(DEVICES_VARIABLE)
    return None if value is None else tuple(filter(None, (name.strip() for name in value.split(","))))


def exclusive(devices: Sequence[str], workers: int) -> list[tuple[str, ...]]:
    """Give each GPU to one worker alone, the first workers first; the others have none.

    Args:
        devices: the GPUs.
        workers: how many workers there may be. With fewer than GPUs each has several, all the same number.
    """
    each = max(1, len(devices) // workers)
    return [tuple(devices[place * each : (place + 1) * each]) for place in range(workers)]


def shared(devices: Sequence[str], place: int, workers: int) -> tuple[str, ...]:
    """Return the GPUs of one worker of a job, all of which have equally much.

    Args:
        devices: those of the job.
        place: the worker's, from 0; beyond `workers` it has those of another.
        workers: so many share them. With more than GPUs several have the same one.
    """
    each = len(devices) // workers
    place %= workers
    if each:
        return tuple(devices[place * each : (place + 1) * each])
    return (devices[place % len(devices)],) if devices else ()
