"""Shows what tasks have warned of as if the client had been warned. Must not import what a worker names."""

from __future__ import annotations

import json
import sys
import warnings
from typing import TYPE_CHECKING

from .log import logger

if TYPE_CHECKING:
    from .records import TaskWarning


def show_warnings(part: bytes) -> tuple[TaskWarning, ...]:
    """Show a task's warnings through this process's filters and return them. Never raises."""
    from .records import TaskWarning  # late: see CrewFuture.record()

    shown = []
    for entry in json.loads(part):
        shown.append(TaskWarning(entry["message"], entry["category"], entry["filename"], entry["lineno"]))
        # Only a class that is here already: a worker's word must not import anything.
        category = getattr(sys.modules.get(entry["module"]), entry["category"], UserWarning)
        if not (isinstance(category, type) and issubclass(category, Warning)):
            category = UserWarning
        try:
            warnings.warn_explicit(entry["message"], category, entry["filename"], entry["lineno"])
        except Exception as error:  # a filter that makes errors of warnings: there is nobody here to raise it to
            logger.warning("a task's warning was turned into an error by a filter of the client: %s", error)
    return tuple(shown)
