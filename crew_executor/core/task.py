"""One call on its way: what the scheduler knows of it. Pure; decides nothing."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .budget import Budget
    from .needs import Needs
    from .worker import Worker

UNKNOWN_SECONDS = 60.0
"""Stands for the estimate of a function never seen: more than any horizon."""
DEPTH_MAX = (1 << 16) - 1

NEW, QUEUED, SENT, STOPPING, DONE = "new", "queued", "sent", "stopping", "done"


class Task:
    """One call on its way. Made by the shell, changed by the Scheduler alone.

    Attributes:
        task_id: unique within the executor.
        key: what tells functions apart when their durations are learned.
        payload: opaque parts, emptied when the task is done. Bytes stand for one part, as most tasks have: a tuple
            around it would be one object more for the garbage collector, of three that a queued task has.
        payload_bytes: how long it is, without its head.
        head: a part that many tasks have in common, opaque: it crosses once in a frame of them; emptied as well.
        beside: what travels beside it, opaque; forgotten when the task is done.
        handle: whatever the shell wants to find again (its Future); opaque.
        is_dropped: cancelled by its user; its run may have to be ended yet.
        attempt: 1 for the first run. An outcome of another attempt is dropped.
        budget: how long and how often it may run, or None: once, as long as it likes.
        flags: what its worker is told, as TaskFlag.
        needs: what its worker must have, or None: any will do.
        parent: the task that submitted it, while that one ran, or None.
        depth: how many tasks are above it.
        subtasks_open: how many tasks submitted by it, in this attempt, are queued or held.
        rank: the higher goes first: priority, then depth.
        items: how many items of a map() it has still to do; 1 for an ordinary call. Each item has an ordinal.
        first: which of its payload's items the next one is.
        ordinal: its number on the link of the worker that holds it; of its first item.
    """

    __slots__ = (
        "attempt",
        "beside",
        "budget",
        "depth",
        "estimate",
        "first",
        "flags",
        "handle",
        "head",
        "is_dropped",
        "items",
        "key",
        "needs",
        "ordinal",
        "parent",
        "parent_attempt",
        "payload",
        "payload_bytes",
        "priority",
        "rank",
        "state",
        "subtasks_open",
        "task_id",
        "worker",
    )

    def __init__(
        self,
        task_id: int,
        key: Hashable,
        payload: Sequence[Any],
        handle: Any = None,
        beside: Any = None,
        head: bytes = b"",
        # By name, all these; not behind a star, for CPython looks each of those up in a dictionary, for every task.
        priority: int = 0,
        budget: Budget | None = None,
        flags: int = 0,
        parent: Task | None = None,
        items: int = 1,
        first: int = 0,
        payload_bytes: int | None = None,
        needs: Needs | None = None,
    ) -> None:
        self.task_id = task_id
        self.key = key
        self.payload = payload
        self.beside = beside
        self.head = head
        if payload_bytes is None:
            payload_bytes = len(payload) if type(payload) is bytes else sum(map(len, payload))
        self.payload_bytes = payload_bytes
        self.handle = handle
        self.priority = priority
        self.parent = parent
        self.depth: int
        self.parent_attempt: int
        if parent is None:
            self.parent_attempt = self.depth = 0
        else:
            self.parent_attempt, self.depth = parent.attempt, min(parent.depth + 1, DEPTH_MAX)
        self.rank = priority * (DEPTH_MAX + 1) + self.depth if priority or parent else 0
        self.budget = budget
        self.flags = flags
        self.needs = needs
        self.items = items
        self.first = first
        self.attempt: int = 1
        self.state = NEW
        self.is_dropped = False
        self.worker: Worker | None = None
        self.subtasks_open = self.ordinal = 0
        self.estimate = UNKNOWN_SECONDS

    @property
    def is_queued(self) -> bool:
        """Whether the task waits in the queue."""
        return self.state is QUEUED

    @property
    def last_ordinal(self) -> int:
        """The ordinal of its last item."""
        return self.ordinal + self.items - 1

    def advance(self, number: int) -> float:
        """Count its first items as done; return the estimate of what these would take."""
        share = number / self.items
        seconds = 0.0 if self.estimate >= UNKNOWN_SECONDS else self.estimate * share
        self.estimate -= seconds
        self.payload_bytes -= int(self.payload_bytes * share)
        self.first += number
        self.ordinal += number
        self.items -= number
        return seconds

    def give(self, rest: Task, number: int) -> None:
        """Keep the first `number` items, and make `rest` stand for the others: it is where this one is."""
        share = number / self.items
        rest.state, rest.worker, rest.attempt = self.state, self.worker, self.attempt
        rest.first, rest.items = self.first + number, self.items - number
        rest.ordinal = self.ordinal + number
        size, seconds = self.payload_bytes, self.estimate
        self.items = number
        self.payload_bytes = int(size * share)
        if seconds < UNKNOWN_SECONDS:
            self.estimate = seconds * share
        rest.payload_bytes = size - self.payload_bytes
        rest.estimate = seconds - self.estimate

    def __repr__(self) -> str:
        return f"<Task {self.task_id} {self.state} attempt={self.attempt}>"
