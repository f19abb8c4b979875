"""What each worker of a pool has that tasks may need, and which GPUs it sees. Pure arithmetic; sets nothing."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""What it lists CUDA numbers anew, from 0; HIP heeds it, too."""

_NAME = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")


class Equipment(NamedTuple):
    """What some workers have.

    Attributes:
        resources: amounts by name, "gpus" among them.
        devices: the GPUs they are to see, as CUDA names them; None: whatever their process sees anyhow.
    """

    resources: Mapping[str, float]
    devices: tuple[str, ...] | None = None


class Outfit(NamedTuple):
    """What a launcher has for its workers.

    Attributes:
        resources, devices: what a worker has that has no set, as in Equipment.
        sets: each of which one worker has at a time, all with the same resources.
    """

    resources: Mapping[str, float]
    devices: tuple[str, ...] | None = None
    sets: Sequence[Equipment] = ()


def check_gpus(gpus: Any) -> int | None:
    """Return how many GPUs a job has, as it was given.

    Raises:
        TypeError: it is neither None nor a whole number.
        ValueError: it is below 0.
    """
    if gpus is not None and (isinstance(gpus, bool) or not isinstance(gpus, int)):
        raise TypeError(f"gpus must be None or a whole number, not {gpus!r}")
    if gpus is not None and gpus < 0:
        raise ValueError(f"gpus must be at least 0, not {gpus}")
    return gpus


def own_devices(gpus: int | Sequence[int | str] | None) -> tuple[str, ...] | None:
    """Return the names of GPUs on this machine.

    Args:
        gpus: how many of those that this process sees; or which ones, as CUDA names them, whatever this process sees:
            numbers or "GPU-..."; None: it is not said.

    Raises:
        TypeError: it is none of these.
        ValueError: a number below 0, more than CUDA_VISIBLE_DEVICES leaves to this process, or no names.
    """
    if gpus is None or isinstance(gpus, int):
        number = check_gpus(gpus)
        visible = visible_devices()
        if number is None or visible is None:
            return None if number is None else tuple(map(str, range(number)))
        if len(visible) < number:
            raise ValueError(f"gpus={gpus}, but {DEVICES_VARIABLE} leaves this process {len(visible)} GPUs")
        return visible[:number]
    if isinstance(gpus, (str, bytes)) or not isinstance(gpus, Sequence):
        raise TypeError(f"gpus must be a number of GPUs, or a sequence of their names, not {gpus!r}")
    names = tuple(map(str, gpus))
    if not all(map(_NAME.fullmatch, names)) or len(set(names)) < len(names):
        raise ValueError(f"gpus must name each GPU once, as CUDA does (0, 1, 'GPU-8f...'), not {gpus!r}")
    return names


def visible_devices() -> tuple[str, ...] | None:
    """Return what CUDA_VISIBLE_DEVICES lists, as CUDA reads it: up to the first that is none. None: it is not set."""
    value = os.environ.get(DEVICES_VARIABLE)
    if value is None:
        return None
    return tuple(itertools.takewhile(_NAME.fullmatch, (name.strip() for name in value.split(","))))


def exclusive(devices: Sequence[str], workers: int) -> list[tuple[str, ...]]:
    """Divide GPUs into sets of one worker each, all of the same number.

    Args:
        devices: the GPUs.
        workers: how many workers there may be. With fewer than GPUs each has several.
    """
    each = max(1, len(devices) // workers)
    return [tuple(devices[start : start + each]) for start in range(0, len(devices) - each + 1, each)][:workers]


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
