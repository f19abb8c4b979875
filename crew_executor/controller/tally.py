"""What a controller counts for its reports: what was popped, by seat, and what the seats of its executors did."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..stats import SeatStats
from .result import Result


class Popped:
    """What was popped of the tasks of a seat."""

    __slots__ = ("errors", "seconds", "tasks", "warnings")

    def __init__(self) -> None:
        self.tasks = self.errors = self.warnings = 0
        self.seconds = 0.0


class Tally:
    """Count for one controller.

    Args:
        controller: its name.
        workers: how many seats it has.
    """

    def __init__(self, controller: str, workers: int) -> None:
        self._controller = controller
        self._popped: dict[int | None, Popped] = {}
        self._seats = tuple([SeatStats(place + 1, "", False, False, 0, 0, 0, 0) for place in range(workers)])

    @property
    def popped(self) -> int:
        """How many records were popped."""
        return sum([counts.tasks for counts in self._popped.values()])

    def count(self, result: Result) -> None:
        """Count a record that is popped."""
        # A backup has seats of its own, and did the work for this controller.
        seat = result.seat if result.controller == self._controller else None
        counts = self._popped.setdefault(seat, Popped())
        counts.seconds += result.seconds or 0.0
        counts.errors += result.status != "success"
        counts.warnings += bool(result.warnings)
        counts.tasks += 1

    def keep(self, seats: tuple[SeatStats, ...]) -> None:
        """Remember what the seats of an executor did that has ended."""
        self._seats = tuple([
            seat._replace(is_connected=False, is_busy=False) for seat in _added(self._seats, seats)
        ])  # fmt: skip

    def seats(self, now: Iterable[tuple[SeatStats, ...]]) -> tuple[SeatStats, ...]:
        """Return what the seats did, with the executors that have ended and those that there are now."""
        seats = self._seats
        for each in now:
            seats = _added(seats, each)
        return seats

    def rows(self, seats: tuple[SeatStats, ...]) -> list[dict[str, Any]]:
        """Return the rows of a summary: one for each seat."""
        rows = []
        for seat in seats:
            popped = self._popped.get(seat.number) or Popped()
            rows.append({
                "controller": self._controller, "worker_name": seat.worker, "worker_connected": seat.is_connected,
                "worker_busy": seat.is_busy, "worker_launches": seat.launches, "worker_instances": seat.instances,
                "tasks_assigned": seat.tasks_assigned, "tasks_complete": seat.tasks_complete,
                "popped_tasks": popped.tasks, "popped_seconds": popped.seconds, "popped_errors": popped.errors,
                "popped_warnings": popped.warnings,
            })  # fmt: skip
        return rows


def _added(before: tuple[SeatStats, ...], now: tuple[SeatStats, ...]) -> tuple[SeatStats, ...]:
    return tuple([
        new._replace(
            worker=new.worker or old.worker,
            launches=old.launches + new.launches,
            instances=old.instances + new.instances,
            tasks_assigned=old.tasks_assigned + new.tasks_assigned,
            tasks_complete=old.tasks_complete + new.tasks_complete,
        )
        for old, new in zip(before, now, strict=True)
    ])  # fmt: skip
