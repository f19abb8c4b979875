"""The tasks that wait: higher rank first, first in first out within one rank. Pure.

A cancelled task stays in its deque as a stone and is skipped when its turn comes: cancelling is O(1), however long
the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .task import Task


class TaskQueue:
    """Hold waiting tasks by rank. `len()` counts the living ones.

    Attributes:
        living: how many those are. Who cancels a task counts it down here, in the same breath: see Scheduler.cancel().
    """

    __slots__ = ("_by_rank", "_order", "living")

    def __init__(self) -> None:
        self._by_rank: dict[int, deque[Task]] = {}
        self._order: list[int] = []  # ranks in use, highest first
        self.living = 0

    def __len__(self) -> int:
        return self.living

    def __iter__(self) -> Iterator[Task]:
        for rank in self._order:
            yield from (task for task in self._by_rank[rank] if task.is_queued)

    def append(self, task: Task) -> None:
        """Put a new task behind those of its rank."""
        self._lane(task.rank).append(task)
        self.living += 1

    def put_back(self, task: Task) -> None:
        """Put a task that was sent in vain before those of its rank; call with the latest of several first."""
        self._lane(task.rank).appendleft(task)
        self.living += 1

    def peek(self) -> Task | None:
        """Return the task whose turn it is, without taking it."""
        order = self._order
        while order:
            lane = self._by_rank[order[0]]
            while lane:
                if lane[0].is_queued:
                    return lane[0]
                lane.popleft()
            del self._by_rank[order.pop(0)]
        return None

    def pop(self) -> Task:
        """Take the task that peek() has just returned."""
        self.living -= 1
        return self._by_rank[self._order[0]].popleft()

    def _lane(self, rank: int) -> deque[Task]:
        lane = self._by_rank.get(rank)
        if lane is None:
            lane = self._by_rank[rank] = deque()
            self._order.append(rank)
            self._order.sort(reverse=True)
        return lane
