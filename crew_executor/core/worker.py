"""One worker as the scheduler sees it. Pure; decides nothing."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .needs import Resources
    from .task import Task


EXIT_GRACE = 5.0
"""Seconds a worker that said goodbye may take to end: exit functions, threads of its tasks. Then it is killed."""
START_SECONDS = 30.0
"""Seconds within which a worker must start a task that has reached it. One that does not is frozen, or a thread that a
task has left behind holds its interpreter lock: it is killed, and the task runs elsewhere."""

NOTHING: Resources = MappingProxyType({})


class Worker:
    """One worker as the scheduler sees it. Made by the shell, changed by the Scheduler alone.

    Attributes:
        held: tasks sent and not known to be done, by id, in the order of their ordinals.
        held_items: how many calls these are: a task of a map() may be several.
        ordinal: of the last task sent over its link.
        since: when the oldest held task became the oldest, as far as is known here (seconds, monotonic).
        tasks_left: how many more tasks it may be given (max_tasks_per_child), or None.
        tasks_done, tasks_lost: how many have ended here, and how many ended with it.
        resources: what it has that tasks may need; said before it is ready.
        stand_ins: workers with the same GPUs, that are to leave when it goes on.
        round_trip: seconds from here to its host and back; 0: it is on this machine.
        calls_open: what it is to run beside tasks, run_on_all(), and has not answered: until then it gets none.
        is_lending: its running task waits for subtasks, so another worker may be busy instead.
        lane, rung, alarm: where the Roster has it.
    """

    __slots__ = (
        "alarm", "calls_open", "held", "held_bytes", "held_items", "held_seconds", "is_leaving", "is_lending",
        "is_ready", "is_recalling", "lane", "name", "ordinal", "resources", "round_trip", "rung", "since",
        "stand_ins", "tasks_done", "tasks_left", "tasks_lost",
    )  # fmt: skip

    def __init__(self, name: str, *, tasks_max: int | None = None) -> None:
        self.name = name
        self.held: dict[int, Task] = {}
        self.held_items = 0
        self.held_seconds = 0.0
        self.held_bytes = 0
        self.ordinal = 0
        self.since = 0.0
        self.tasks_left = tasks_max
        self.tasks_done = 0
        self.tasks_lost = 0
        self.is_ready = False
        self.is_leaving = False
        self.is_lending = False
        self.is_recalling = False
        self.calls_open = 0
        self.resources: Resources = NOTHING
        self.stand_ins: list[Worker] = []
        self.round_trip = 0.0
        self.lane: dict[Worker, None] | None = None
        self.rung: dict[Worker, None] | None = None
        self.alarm: float | None = None

    def hold(self, task: Task, seconds: float) -> None:
        """Have a task behind all others; it is thought to take so long."""
        task.ordinal = self.ordinal + 1
        task.worker = self
        task.estimate = seconds
        self.held[task.task_id] = task
        self.ordinal += task.items
        self.held_items += task.items
        self.held_seconds += seconds
        self.held_bytes += task.payload_bytes

    def strike(self, items: int, seconds: float, payload_bytes: int) -> None:
        """Hold so much less."""
        self.held_items -= items
        self.held_seconds -= seconds
        self.held_bytes -= payload_bytes

    @property
    def is_open(self) -> bool:
        """Whether it may be given tasks."""
        return self.is_ready and not (self.is_leaving or self.is_lending or self.is_recalling or self.calls_open)

    @property
    def tasks_assigned(self) -> int:
        """How many tasks it was given that were not taken back."""
        return self.tasks_done + self.tasks_lost + self.held_items

    @property
    def has_waiting_task(self) -> bool:
        """Whether a task that it holds waits for subtasks."""
        return any(task.subtasks_open for task in self.held.values())

    @property
    def state(self) -> str:
        """The state in a word: starting, idle, busy, waiting (for subtasks), leaving."""
        if self.is_leaving:
            return "leaving"
        if not self.is_ready:
            return "starting"
        if self.is_lending:
            return "waiting"
        return "busy" if self.held or self.calls_open else "idle"

    def __repr__(self) -> str:
        return f"<Worker {self.name} {self.state} held={len(self.held)}>"
