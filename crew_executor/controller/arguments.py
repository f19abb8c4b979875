"""What a controller is made with and given to do, checked at once and in crew's words. Decides nothing.

crew's `Inf`, math.inf here, stands for "no limit" wherever None does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from ..executor import SECONDS_MAX, CrewExecutor
from ..launchers import BaseLauncher, make_launcher
from .inline import InlineExecutor

INLINE = "inline"
"""The launcher that is none: tasks run in push()."""
AUTO_SCALE = {"demand": "demand", "one": "one", "none": "manual"}
"""crew's words for how workers are launched, and the executor's."""


def whole(word: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number; raise TypeError or ValueError, naming the argument, if it is none or out of range."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{word} must be a whole number, not {value!r}")
    number = int(value.__index__())
    if number < least or (most is not None and number > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{word} must be {bounds}, not {value!r}")
    return number


def limit(word: str, value: Any) -> int | None:
    """Return a whole number from 1 on, or None for no limit."""
    return None if value is None or value == math.inf else whole(word, value, 1)


def seconds(word: str, value: Any) -> float | None:
    """Return a time above 0 in seconds, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{word} must be a number of seconds or None, not {value!r}")
    if not 0 < value <= SECONDS_MAX and value != math.inf:
        raise ValueError(f"{word} must be above 0 seconds and at most {SECONDS_MAX:g}, or math.inf, not {value!r}")
    return value


def name_of(word: str, value: Any) -> str:
    """Return a name; raise TypeError or ValueError if it is none."""
    if not isinstance(value, str):
        raise TypeError(f"{word} must be a string, not {value!r}")
    if not (0 < len(value) <= 100 and value.isprintable()):
        raise ValueError(f"{word} must have 1 to 100 printable characters, not {value[:100]!r}")
    return value


def callable_task(fn: Any) -> Callable[..., Any]:
    """Return what is to be called; raise TypeError if it cannot be."""
    if not callable(fn):
        raise TypeError(f"a task is a function and what it is called with, push(f, 1, 2), not {fn!r}, as f(1, 2) gives")
    return fn  # type: ignore[no-any-return]


def keywords(kwargs: Any) -> dict[str, Any]:
    """Return the keyword arguments of a call."""
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"kwargs must be a dictionary of keyword arguments, not {kwargs!r}")
    return dict(kwargs or {})


def items(iterables: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return the arguments of each call of a map(); raise TypeError for what cannot be iterated over."""
    if not iterables:
        raise TypeError("map() and walk() need at least one iterable beside the function")
    for place, one in enumerate(iterables, 2):
        if not isinstance(one, Iterable) and not hasattr(one, "__getitem__"):
            raise TypeError(
                f"argument {place} of map() or walk() must be an iterable with an element for each task, not {one!r}; "
                "the same for all is itertools.repeat(...), or kwargs="
            )
    return list(zip(*iterables, strict=False))


def launcher_of(launcher: Any, seconds_start: float | None, seconds_wall: float | None) -> BaseLauncher | None:
    """Return the launcher that is meant, with these times; None: tasks run inline.

    Raises:
        ValueError, TypeError: there is no such launcher; or it is made already, and has times of its own.
    """
    if launcher == INLINE:
        return None
    try:
        made = make_launcher(launcher)
    except ValueError as error:
        raise ValueError(f"{error}; and {INLINE!r}, which runs each task in push()") from None
    if seconds_start is None and seconds_wall is None:
        return made
    if launcher != "local":
        raise ValueError(
            f"seconds_start and seconds_wall belong to the launcher, and this one is made already: {launcher!r}; give "
            "it startup_timeout and walltime instead"
        )
    return type(made)(
        startup_timeout=made.startup_timeout if seconds_start is None else seconds_start, walltime=seconds_wall
    )


def executor_maker(
    name: str, workers: int, tasks_max: Any, seconds_idle: Any, seconds_start: Any, seconds_wall: Any, auto_scale: Any,
    launcher: Any, workers_min: Any, initializer: Any, initargs: Any,
) -> Callable[[], CrewExecutor | InlineExecutor]:  # fmt: skip
    """Return what makes the executor of a controller with these arguments; raise what Controller() does."""
    if not isinstance(auto_scale, str) or auto_scale not in AUTO_SCALE:
        raise ValueError(f"auto_scale must be one of {', '.join(AUTO_SCALE)}, not {auto_scale!r}")
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer must be a function, not {initializer!r}")
    made = launcher_of(launcher, seconds("seconds_start", seconds_start), seconds("seconds_wall", seconds_wall))
    options: dict[str, Any] = {
        "max_tasks_per_child": limit("tasks_max", tasks_max),
        "idle_timeout": seconds("seconds_idle", seconds_idle),
        "min_workers": whole("workers_min", workers_min, 0, workers),
        "scaling": AUTO_SCALE[auto_scale],
    }
    if made is None:
        return partial(InlineExecutor, name, initializer, tuple(initargs))
    return partial(
        CrewExecutor, workers, initializer=initializer, initargs=tuple(initargs), launcher=made, name=name, **options
    )
