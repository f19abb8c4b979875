"""How far ahead workers are given work. Pure.

A worker holds about a horizon of work: enough to hide a round trip and a client whose interpreter lock is busy, and no
more, for what is sent may have to be taken back. A worker on another host has a longer one, by what the network takes;
but tasks that take much longer than a round trip are not sent ahead there: if that host is lost nobody knows which of
them had begun, and they may not run again.
"""

from __future__ import annotations

from .estimates import item_seconds
from .messages import FLUSH_SECONDS
from .roster import AHEAD_ONE_SECONDS
from .task import UNKNOWN_SECONDS, Task
from .worker import Worker

FRAME_TASKS = 640
"""Tasks in a frame, after which a worker reports: 4 ms of the shortest, about as long as a client that submits takes to
send more."""
FRAME_BYTES = 256 * 1024
"""Payload bytes in a frame of several tasks: less than what whoever comes along may write (INLINE_BYTES of pump.py). A
frame costs both sides some 80 us, whatever is in it."""
AHEAD_TASKS = 2 * FRAME_TASKS
"""Tasks a worker may hold, started or not: while it works on one frame, the client deals with the one before and sends
the next (docs/adr/0037)."""
AHEAD_BYTES = 2 * FRAME_BYTES
"""Payload bytes sent ahead of a busy worker: they wait in the socket, whose buffer holds 400 kB, and for room in it."""
HORIZON_MIN = 3 * FLUSH_SECONDS
HORIZON_MAX = 0.060
"""Bounds of the horizon in seconds. A worker reports after FLUSH_SECONDS and the task it is in, which is no longer:
from one report to the next refill it may need twice that and the client's reaction. The upper bound is a few times the
13 ms that a client takes whose other threads compute."""
REACTIONS = 4
"""The horizon in reactions of the client: a report is one old when it is handled, and the next refill another."""
ROUND_TRIPS = 2
"""What the horizon of a far worker has more, in round trips: a report is on its way, and the next refill."""
AHEAD_ROUND_TRIPS = 10
"""What takes longer than so many round trips is not sent ahead to a far worker: it would gain a tenth at most."""
ENOUGH = 0.75
"""The part of the horizon above which a worker is not refilled: a frame for each task would cost more than it gains."""


class Horizon:
    """Say how much a worker may hold.

    Attributes:
        seconds: of work, for workers on this machine.
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = HORIZON_MIN

    def of(self, worker: Worker) -> float:
        """Return the worker's own."""
        return self.seconds + ROUND_TRIPS * worker.round_trip if worker.round_trip else self.seconds

    def observe(self, seconds: float) -> None:
        """Learn how long the client takes from an outcome's sending to its handling."""
        target = min(max(HORIZON_MIN, REACTIONS * seconds), HORIZON_MAX)  # in this order NaN becomes HORIZON_MIN
        # Rise at once, come down slowly: a client thread that computes stays for a while.
        self.seconds = target if target > self.seconds else self.seconds + (target - self.seconds) / 16

    def is_full(self, worker: Worker, holds: int) -> bool:
        """Answer whether a worker that holds so many tasks has enough."""
        return worker.held_items > 1 and (
            holds > FRAME_TASKS or worker.held_seconds > ENOUGH * self.of(worker) or worker.held_bytes > FRAME_BYTES
        )

    def fits(self, worker: Worker, task: Task, estimate: float | None) -> bool:
        """Answer whether a task, thought to take so long, may be sent behind what a busy worker holds."""
        if estimate is None or worker.held_bytes + task.payload_bytes > AHEAD_BYTES:
            return False
        if worker.held_seconds >= UNKNOWN_SECONDS:  # something unknown is running: nobody knows for how long
            return False
        if worker.round_trip and estimate > AHEAD_ROUND_TRIPS * worker.round_trip:
            return False
        ahead = self.seconds if not worker.round_trip else self.of(worker)  # asked for each task: for most, no call
        if worker.held_seconds + estimate <= ahead:
            return True
        return worker.held_items == 1 and estimate <= AHEAD_ONE_SECONDS

    def items_that_fit(self, worker: Worker, task: Task, estimate: float | None) -> int:
        """Return how many items of a task the worker may be given; 0: none."""
        least = 0 if worker.held else 1
        if estimate is None or worker.held_seconds >= UNKNOWN_SECONDS:
            return least
        if worker.round_trip and item_seconds(estimate) > AHEAD_ROUND_TRIPS * worker.round_trip:
            return least
        if worker.held_items == 1 and estimate <= AHEAD_ONE_SECONDS:
            least = 1
        by_time = (self.of(worker) - worker.held_seconds) / item_seconds(estimate)
        room = min(FRAME_BYTES, AHEAD_BYTES - worker.held_bytes)
        by_bytes = room * task.items / max(1, task.payload_bytes)
        if by_bytes < 1 and worker.held:
            return 0
        return max(least, int(min(by_time, by_bytes, task.items)))
