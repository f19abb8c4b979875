"""Counts what the scaler must know, and remembers what it said. Called under the dispatcher's lock; launches nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from .connection import Connection, take_census
from .core.scaling import Scaler, ScalingRules
from .core.scheduler import Scheduler
from .events import EventStream

DECISIONS_KEPT = 20


class Recruiter:
    """Say how many workers are wanted.

    Args:
        rules: the bounds of the pool.
        scheduler: has the tasks.
        connections: the workers that are there or on their way.

    Attributes:
        scaler: decides.
        decisions: its last words, the latest last.
    """

    def __init__(self, rules: ScalingRules, scheduler: Scheduler, connections: Mapping[str, Connection]) -> None:
        self.scaler = Scaler(rules)
        self.decisions: deque[str] = deque(maxlen=DECISIONS_KEPT)
        self._rules = rules
        self._scheduler = scheduler
        self._connections = connections

    def has_room(self) -> bool:
        """Answer whether there may be one more worker; those that lend their slots do not count."""
        return len(self._connections) - self._scheduler.workers_lending < self._rules.max_workers

    def is_short(self) -> bool:
        """Answer whether workers are missing: cheap, for the hot path, before any counting."""
        workers = len(self._connections)
        return self.has_room() and self.scaler.is_short(tasks_open=self._scheduler.tasks_open, workers=workers)

    def tell(self, events: EventStream) -> None:
        """Tell how many tasks and workers there are, if it is time to; under the dispatcher's lock."""
        scheduler = self._scheduler
        if events.is_pool_due(is_calm=not scheduler.tasks_open):
            starting = sum(not connection.is_ready for connection in self._connections.values())
            decision = self.decisions[-1] if self.decisions else ""
            events.pool(len(scheduler.queue), scheduler.tasks_held, len(scheduler.workers), starting, decision)

    def note_demand(self, now: float) -> None:
        """Remember how many tasks there are, now that some have come."""
        self.scaler.note_demand(self._scheduler.tasks_open, now)

    def may_leave(self, now: float) -> bool:
        """Answer whether a worker may leave for being idle."""
        return self.scaler.may_leave(ready=self._scheduler.workers_ready, now=now)

    def workers_kept(self) -> int:
        """Return how many workers are wanted even without tasks; all, where users say how many there are."""
        return self._rules.max_workers if self._rules.mode == "manual" else self.scaler.floor()

    def note_left(self, name: str) -> None:
        """Remember that a worker was let go for being idle."""
        ready, floor = self._scheduler.workers_ready, self.scaler.floor()
        self.decisions.append(
            f"worker {name} leaves: idle for idle_timeout={self._rules.idle_timeout} s; {ready} others ready, at least "
            f"{floor} stay"
        )

    def note_replaced(self, name: str) -> None:
        """Remember that a worker has asked for a successor."""
        self.decisions.append(
            f"worker {name} is replaced: max_worker_memory or max_task_memory was met, or an import interrupted"
        )

    def launches(self, now: float) -> int:
        """Return how many workers to launch now."""
        census, scheduler = take_census(self._connections.values()), self._scheduler
        number = self.scaler.launches(
            tasks_open=scheduler.tasks_open - census.tasks_leaving - scheduler.workers_lending,
            starting=census.starting, ready=scheduler.workers_ready, leaving=census.leaving, now=now,
        )  # fmt: skip
        if number:
            self.decisions.append(self.scaler.last_decision)
        return number

    def launch_failed(self, launched_at: float, now: float) -> str:
        """Count a failed launch; return why the pool is given up, or nothing."""
        scaler = self.scaler
        scaler.launch_failed(launched_at=launched_at, ready=self._scheduler.workers_ready, now=now)
        self.decisions.append(scaler.last_decision)
        if not scaler.is_given_up:
            return ""
        return f"{scaler.failures} launches in a row failed (max_failed_launches={self._rules.failures_max})"
