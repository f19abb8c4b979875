"""The tasks of a controller that are not done, and the records that nobody has popped. Called with its condition held.

Each step that changes something is one operation, or may be done again: a Ctrl-C in a user's thread tears nothing.
"""

from __future__ import annotations

import itertools
from collections import deque

from .pushed import Pushed
from .result import Result


class Backlog:
    """Keep tasks from push() to pop().

    Args:
        controller: its name, for errors.

    Attributes:
        open: tasks for pop() that are not done, by name.
        mapped: tasks of map() that are not done, by name.
        done: the records that pop() has, the oldest first.
    """

    def __init__(self, controller: str) -> None:
        self._controller = controller
        self._numbers = itertools.count(1)
        self._unpopped_names: set[str] = set()
        self.open: dict[str, Pushed] = {}
        self.mapped: dict[str, Pushed] = {}
        self.done: deque[Result] = deque()

    def free_name(self, name: str | None) -> str:
        """Return the name for a new task; None: the next number.

        Raises:
            ValueError: another task has it, which is not done or not popped.
        """
        if name is None:
            return next(free for number in self._numbers if not self._is_taken(free := str(number)))
        if self._is_taken(name):
            state = "done and not popped" if name in self._unpopped_names else "not done"
            raise ValueError(
                f"controller {self._controller} has a task named {name!r} already, which is {state}: give this one "
                "another name, or pop that one first"
            )
        return name

    def _is_taken(self, name: str) -> bool:
        return name in self.open or name in self.mapped or name in self._unpopped_names

    def finish(self, pushed: Pushed, result: Result) -> bool:
        """Take the record of a task that is done; return whether map() has it now, and pop() will not.

        If neither knows of the task, its push() was interrupted, and has raised: nobody waits for it.
        """
        if pushed.results is not None:
            if self.mapped.get(pushed.name) is not pushed:
                return False
            pushed.results.by_name[pushed.name] = result
            del self.mapped[pushed.name]
            return True
        if self.open.get(pushed.name) is pushed:
            self._unpopped_names.add(pushed.name)
            self.done.append(result)
            del self.open[pushed.name]
        return False

    def first(self) -> Result:
        """Return the record that is popped next; there is one."""
        return self.done[0]

    def remove_first(self) -> None:
        """Forget it."""
        self._unpopped_names.discard(self.done[0].name)
        self.done.popleft()
