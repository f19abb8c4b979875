"""What a pool gives to its workers: what all of them have, and sets (of GPUs) that one worker has at a time. Pure.

A worker is given its equipment when it is launched, and keeps it until its process is gone: who leaves may still run a
task. So a successor may have to wait for it. Workers without a set may be so many that all sets can still be given out:
the pool is never full of workers that cannot run what waits. A set whose holders all wait for subtasks may be lent to a
worker that stands in for them; when one of them goes on, the stand-in leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

from .needs import Needs, Resources, in_words, is_met
from .worker import NOTHING, Worker


class Stock:
    """Hand out equipment.

    Args:
        common: what every worker has.
        sets: what each of these has that is given to one worker at a time, all alike, `common` included.
        size: how many workers there may be at a time, but for stand-ins.
        is_set_first: whether a worker that any task may want is given a set first, not last.
    """

    def __init__(
        self, common: Resources = NOTHING, sets: Sequence[Resources] = (), size: int = 1, *, is_set_first: bool = False
    ) -> None:
        self._common = common
        self._sets = list(sets[:size])
        self._others_max = size - len(self._sets)
        self._is_set_first = is_set_first
        self._holders: list[list[Worker]] = [[] for _ in self._sets]
        self._others: dict[Worker, None] = {}  # who has no set
        self._needed = 0

    @property
    def has_sets(self) -> bool:
        """Whether there is anything to be handed out."""
        return bool(self._sets)

    def can_meet(self, needs: Needs) -> bool:
        """Answer whether any worker can have what is needed."""
        return is_met(needs, self._common) or (self.has_sets and is_met(needs, self._sets[0]))

    def needs_a_set(self, needs: Needs) -> bool:
        """Answer whether only who has a set can run a task with these needs."""
        return not is_met(needs, self._common)

    def best(self) -> str:
        """Return what the best equipped worker has, in words."""
        return in_words(self._sets[0] if self._sets else self._common)

    # ------------------------------------------------------------------ how many

    def sets_left(self) -> int:
        """Return how many workers more could be given a set."""
        return sum([_is_to_be_had(holders) for holders in self._holders])

    def room(self) -> int:
        """Return how many workers more may be launched, as far as it is for equipment."""
        return max(0, self._others_max - self._count_others()) + self.sets_left()

    def note_needed(self, number: int) -> None:
        """Give a set to each of the next so many workers."""
        self._needed = number

    def _count_others(self) -> int:
        return sum([not (worker.is_leaving or worker.is_lending) for worker in self._others])

    # ------------------------------------------------------------------ out and back

    def equip(self, worker: Worker) -> int | None:
        """Give a worker that is about to be launched its equipment; return the number of its set, or None."""
        worker.resources = self._common
        if not self._sets:
            return None
        wants_set = self._needed > 0 or self._is_set_first or self._count_others() >= self._others_max
        self._needed = max(0, self._needed - 1)
        place = self._place_to_be_had() if wants_set else None
        if place is None:
            self._others[worker] = None
            return None
        holders = self._holders[place]
        for holder in holders:
            holder.stand_ins.append(worker)
        holders.append(worker)
        worker.resources = self._sets[place]
        return place

    def _place_to_be_had(self) -> int | None:
        places = [place for place, holders in enumerate(self._holders) if _is_to_be_had(holders)]
        return min(places, key=lambda place: len(self._holders[place]), default=None)

    def take_back(self, worker: Worker) -> None:
        """Take the equipment of a worker whose process is gone."""
        self._others.pop(worker, None)
        for holders in self._holders:
            if worker in holders:
                holders.remove(worker)
                for holder in holders:
                    if worker in holder.stand_ins:
                        holder.stand_ins.remove(worker)


def _is_to_be_had(holders: list[Worker]) -> bool:
    return all(holder.is_lending and not holder.is_leaving for holder in holders)
