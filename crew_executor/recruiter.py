"""Counts what the scaler must know, and remembers what it said. Called under the dispatcher's lock; launches nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from .connection import Connection, take_census
from .core.needs import Needs, in_words
from .core.scaling import Scaler, ScalingRules
from .core.scheduler import Scheduler
from .core.stock import Stock
from .events import EventStream

DECISIONS_KEPT = 20


class Recruiter:
    """Say how many workers are wanted.

    Args:
        name: the executor's.
        rules: the bounds of the pool.
        scheduler: has the tasks.
        connections: the workers that are there or on their way.
        stock: has what they are given.

    Attributes:
        scaler: decides.
        decisions: its last words, the latest last.
    """

    def __init__(
        self, name: str, rules: ScalingRules, scheduler: Scheduler, connections: Mapping[str, Connection], stock: Stock
    ) -> None:
        self._name = name
        self.scaler = Scaler(rules)
        self.decisions: deque[str] = deque(maxlen=DECISIONS_KEPT)
        self._rules = rules
        self._scheduler = scheduler
        self._connections = connections
        self.stock = stock

    # ------------------------------------------------------------------ what workers have

    def check_needs(self, needs: Needs | None) -> None:
        """Raise ValueError if no worker of this pool can have what a task needs: it would wait for ever."""
        if needs and not self.stock.can_meet(needs):
            raise ValueError(
                f"no worker of executor {self._name} can have {in_words(dict(needs))}: the best equipped has "
                f"{self.stock.best()}; see gpus= and resources= of its launcher, and max_workers="
            )

    def _waiting_for_sets(self) -> int:
        """Return how many tasks wait that only workers with a set can run."""
        queues = self._scheduler.queues_by_needs.items()
        return sum([queue.living for needs, queue in queues if queue.living and self.stock.needs_a_set(needs)])

    # ------------------------------------------------------------------ how many there should be

    def has_room(self) -> bool:
        """Answer whether there may be one more worker; those that lend their slots do not count."""
        return len(self._connections) - self._scheduler.workers_lending < self._rules.max_workers

    def is_short(self) -> bool:
        """Answer whether workers are missing: cheap, for the hot path, before any counting."""
        workers = len(self._connections)
        if not self.has_room():
            return False
        if self.stock.has_sets and self._waiting_for_sets():
            return True  # whoever is there may have none
        return self.scaler.is_short(tasks_open=self._scheduler.tasks_open, workers=workers)

    def tell(self, events: EventStream) -> None:
        """Tell how many tasks and workers there are, if it is time to; under the dispatcher's lock."""
        scheduler = self._scheduler
        if events.is_pool_due(is_calm=not scheduler.tasks_open):
            starting = sum(not connection.is_ready for connection in self._connections.values())
            decision = self.decisions[-1] if self.decisions else ""
            events.pool(scheduler.tasks_queued, scheduler.tasks_held, len(scheduler.workers), starting, decision)

    def note_demand(self, now: float, tasks_over: int = 0) -> None:
        """Remember how many tasks there are, now that some have come, of which so many are over."""
        self.scaler.note_demand(self._scheduler.tasks_open + tasks_over, now)

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
        tasks_open = scheduler.tasks_open - census.tasks_leaving - scheduler.workers_lending
        room, needed = None, 0
        if self.stock.has_sets:
            room, waiting, left = self.stock.room(), self._waiting_for_sets(), self.stock.sets_left()
            starting = sum([not each.is_ready and each.set_number is not None for each in self._connections.values()])
            tasks_open -= max(0, waiting - left - starting)  # for these no worker more is of use
            if self._rules.mode in ("demand", "one") or self.scaler.is_finishing:
                needed = max(0, min(waiting - starting, left))
            self.stock.note_needed(needed)
        number = self.scaler.launches(
            tasks_open=tasks_open, starting=census.starting, ready=scheduler.workers_ready, leaving=census.leaving,
            now=now, needed=needed, room=room,
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
