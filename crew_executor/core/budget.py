"""What one task may cost: how long a run, and how many runs. Pure: numbers that go down.

Three kinds of runs that came to nothing are told apart, because only the user knows which may be repeated: the task's
own failure, the death of its worker while it ran, and a worker that was taken away by whoever gave it (its scheduler).
Rule: a task without a budget, and one whose budget is spent, never runs a second time.
"""

from __future__ import annotations

LOSSES_MAX = 5
"""Runs lost to the worker's scheduler that are repeated free of both budgets (DESIGN.md, "Retries")."""


class Budget:
    """What is left for one task; the Scheduler spends it.

    Args:
        timeout: seconds that each run may take; 0.0: no limit.
        retries: runs that may still fail by an exception the user named.
        crash_retries: runs that may still be lost with a worker that died.
        is_timeout_retried: whether a run that was ended for its timeout is one of the former.
    """

    __slots__ = ("crash_retries", "is_timeout_retried", "losses", "retries", "timeout")

    def __init__(
        self, timeout: float = 0.0, retries: int = 0, crash_retries: int = 0, is_timeout_retried: bool = False
    ) -> None:
        self.timeout = timeout
        self.retries = retries
        self.crash_retries = crash_retries
        self.is_timeout_retried = is_timeout_retried
        self.losses = LOSSES_MAX if retries > 0 or crash_retries > 0 else 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and self._left() == other._left()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def _left(self) -> tuple[float, ...]:
        return self.timeout, self.retries, self.crash_retries, self.is_timeout_retried, self.losses

    def spend_failure(self) -> bool:
        """Take one retry; False when there is none left."""
        if self.retries <= 0:
            return False
        self.retries -= 1
        return True

    def spend_crash(self) -> bool:
        """Take one retry after a crash; False when there is none left."""
        if self.crash_retries <= 0:
            return False
        self.crash_retries -= 1
        return True

    def spend_loss(self) -> bool:
        """Take one of the free retries after a loss that is nobody's fault here."""
        if self.losses <= 0:
            return False
        self.losses -= 1
        return True

    def spend_timeout(self) -> bool:
        """Take one retry after a run that was ended for its timeout."""
        return self.is_timeout_retried and self.spend_failure()
