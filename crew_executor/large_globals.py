"""What is said of globals that are large: they travel with calls. In the client; says it once of each."""

from __future__ import annotations

import contextlib
from types import FunctionType
from typing import Any

from . import serialize
from .places import Key

LARGE_BYTES = 1_000_000
"""A pickled global above this is mentioned once in the log: it travels with every call that uses it."""

_mentioned: set[Key] = set()


def mention_large(module: str, name: str, size: int, what: str = "global") -> None:
    """Say that something takes so many bytes."""
    if (module, name) not in _mentioned:
        _mentioned.add((module, name))
        from .log import logger  # late: a worker need not import logging

        logger.warning(
            "the %s %s of %s takes %.1f MB and travels with every call of a function that uses it: pass what is "
            "needed as an argument, load it in an initializer, or put it into a module that workers can import",
            what, name, module, size / 1e6,
        )  # fmt: skip


def look_for_large_closures(call: Any) -> None:
    """Mention variables that the called function has taken along from the function that made it."""
    function = call[0] if isinstance(call, tuple) and call else call
    if not isinstance(function, FunctionType):
        return
    place = f"{function.__module__}.{function.__qualname__}"
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if (place, name) in _looked_at:
            continue
        _looked_at.add((place, name))
        with contextlib.suppress(Exception):  # an empty cell; what cannot be pickled alone: this is only a hint
            size = len(serialize.dumps(cell.cell_contents))
            if size > LARGE_BYTES:
                mention_large(place, name, size, "variable")


_looked_at: set[Key] = set()
