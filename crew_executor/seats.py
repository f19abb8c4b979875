"""The places of a pool: max_workers of them, each taken by one worker after the other. A label for reports, no more.

No task is bound to a seat, and nobody waits for one. A worker gets a seat when it is launched: the free one with the
lowest number. While one worker leaves and its successor is under way already, two may share a seat. Called under the
dispatcher's lock.
"""

from __future__ import annotations

from heapq import heappop, heappush

from .connection import Connection
from .stats import SeatStats


class Seat:
    """One place.

    Attributes:
        workers: who has it now, the latest last.
        launches, instances, assigned, complete: what those have done who have left it.
    """

    __slots__ = ("assigned", "complete", "instances", "launches", "name", "number", "workers")

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = ""
        self.workers: list[Connection] = []
        self.launches = self.instances = self.assigned = self.complete = 0

    def take(self, connection: Connection) -> None:
        """Let a worker have the seat."""
        self.workers.append(connection)
        self.name = connection.worker.name
        self.launches += 1
        connection.facts = connection.facts._replace(seat=self.number)

    def leave(self, connection: Connection) -> None:
        """Count what a worker has done that is gone."""
        self.workers.remove(connection)
        self.instances += connection.is_joined
        self.assigned += connection.worker.tasks_assigned
        self.complete += connection.worker.tasks_done

    def stats(self) -> SeatStats:
        """Return a snapshot."""
        assigned, complete, instances = self.assigned, self.complete, self.instances
        is_busy = is_connected = False
        for connection in self.workers:
            worker = connection.worker
            assigned += worker.tasks_assigned
            complete += worker.tasks_done
            instances += connection.is_joined
            is_connected = is_connected or (connection.is_joined and connection.exit is None)
            is_busy = is_busy or bool(worker.held)
        return SeatStats(self.number, self.name, is_connected, is_busy, self.launches, instances, assigned, complete)


class Seats:
    """The seats of one pool.

    Args:
        number: how many there are.
    """

    def __init__(self, number: int) -> None:
        self.launches = 0
        self._seats = [Seat(place + 1) for place in range(number)]
        # A heap of (workers, number): the first is that with the fewest workers. An entry that is not true any more is
        # thrown away when it comes up.
        self._entries = [(0, seat.number) for seat in self._seats]
        self._noted = set(self._entries)  # the same: each is there once

    def take(self, connection: Connection) -> None:
        """Give a worker that is about to be launched a seat."""
        self.launches += 1
        while True:
            workers, number = entry = heappop(self._entries)
            self._noted.remove(entry)
            seat = self._seats[number - 1]
            if workers == len(seat.workers):
                break
        seat.take(connection)
        self._note(seat)

    def leave(self, connection: Connection) -> None:
        """Free the seat of a worker that is gone."""
        seat = self._seats[(connection.facts.seat or 0) - 1]
        seat.leave(connection)
        self._note(seat)

    def stats(self) -> tuple[SeatStats, ...]:
        """Return a snapshot of each seat."""
        return tuple([seat.stats() for seat in self._seats])

    def _note(self, seat: Seat) -> None:
        entry = len(seat.workers), seat.number
        if entry not in self._noted:
            self._noted.add(entry)
            heappush(self._entries, entry)
