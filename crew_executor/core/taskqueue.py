"""The tasks that wait: higher rank first, first in first out within one rank. Pure.

A cancelled task stays in its lane as a stone and is skipped when its turn comes: cancelling is O(1), however long
the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from .task import QUEUED

if TYPE_CHECKING:
    from .task import Task


class TaskQueue:
    """Hold waiting tasks by rank. `len()` counts the living ones, those of several items by their items.

    Attributes:
        living: how many those are. Who cancels a task counts it down here, in the same breath: see Scheduler.cancel().
    """

    __slots__ = ("_by_rank", "_order", "living")

    def __init__(self) -> None:
        self._by_rank: dict[int, deque[Task]] = {}
        self._order: list[int] = []  # a heap of the ranks in use, negated: the highest is first
        self.living = 0

    def __len__(self) -> int:
        return self.living

    def __iter__(self) -> Iterator[Task]:
        for rank in sorted(self._by_rank, reverse=True):
            yield from (task for task in self._by_rank[rank] if task.is_queued)

    def append(self, task: Task) -> None:
        """Put a new task behind those of its rank."""
        (self._by_rank.get(task.rank) or self._lane(task.rank)).append(task)  # for most, no call
        self.living += task.items

    def put_back(self, task: Task) -> None:
        """Put a task that was sent in vain before those of its rank; call with the latest of several first."""
        self._lane(task.rank).appendleft(task)
        self.living += task.items

    def front(self) -> deque[Task] | None:
        """Return the lane whose first task's turn it is, or None; who takes that task counts `living` down."""
        order = self._order
        while order:
            lane = self._by_rank[-order[0]]
            while lane:
                if lane[0].state is QUEUED:
                    return lane
                lane.popleft()
            del self._by_rank[-heappop(order)]
        return None

    def _lane(self, rank: int) -> deque[Task]:
        lane = self._by_rank.get(rank)
        if lane is None:
            lane = self._by_rank[rank] = deque()
            heappush(self._order, -rank)
        return lane
