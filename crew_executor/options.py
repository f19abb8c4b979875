"""What can be said about a task besides its call. Immutable; options of a view of a view add up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class TaskOptions:
    """The options of a view.

    Args:
        name: the tasks' name, or None for the function's.
        priority: higher runs first; None stands for 0.
    """

    name: str | None = None
    priority: int | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name must be a string, not {type(self.name).__name__}")
        if self.priority is not None and not isinstance(self.priority, int):
            raise TypeError(f"priority must be an integer, not {type(self.priority).__name__}")

    def add(self, **options: Any) -> TaskOptions:
        """Return these options with those given that are not None."""
        return replace(self, **{key: value for key, value in options.items() if value is not None})
