"""How one running task is made to stop: interrupted first, its worker killed if that does not help. Pure.

Killing must never hit the next task. The worker could finish the task and start another between a look at its cell and
the kill:
    1. supervisor: sees task 7 running    2. worker: finishes 7, starts 8    3. supervisor: kills; 8 is lost
So the worker is frozen before the look: what is seen then stays true until it is killed, or thawed.
"""

from __future__ import annotations

from enum import Enum

GRACE_SECONDS = 0.5
"""From the interrupt to the kill: time for a task's `finally` blocks, and the slot is free again within a second."""
FREEZE_SECONDS = 0.2
"""How long a worker may take to freeze. One that sleeps in the kernel (a dead network drive) cannot freeze, nor run."""


class Action(Enum):
    """What is to be done to the worker now."""

    WAIT = "nothing"
    INTERRUPT = "tell its main thread to raise"
    FREEZE = "stop it, to look"
    KILL = "kill it, and what its task has started"
    THAW = "let it go on: the task is over"
    FORGET = "the task is over"


class Stop:
    """The stop of one task at one worker.

    Args:
        ordinal: the task's number on the worker's link.

    Attributes:
        due: monotonic seconds when step() has something to do again, at the latest.
    """

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self.due = 0.0
        self._next = Action.INTERRUPT

    @property
    def has_frozen(self) -> bool:
        """Whether FREEZE was ordered, and neither KILL nor THAW yet: whoever drops the stop then must thaw."""
        return self._next is Action.KILL

    def step(self, now: float, *, started: int, ended: int, is_frozen: bool) -> Action:
        """Decide what to do now; after KILL, THAW and FORGET the stop is over.

        Args:
            now: monotonic seconds.
            started, ended: the last tasks that the worker started, and whose calls are over, by its cell.
            is_frozen: whether the worker is known to stand still since FREEZE was ordered.
        """
        is_over = started != self.ordinal or ended >= self.ordinal
        if self._next is Action.KILL:
            if not is_frozen and now < self.due:
                return Action.WAIT
            return Action.THAW if is_over else Action.KILL
        if is_over:
            return Action.FORGET
        if now < self.due:
            return Action.WAIT
        action = self._next
        if action is Action.INTERRUPT:
            self._next, self.due = Action.FREEZE, now + GRACE_SECONDS
        else:
            self._next, self.due = Action.KILL, now + FREEZE_SECONDS
        return action
