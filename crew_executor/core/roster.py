"""Who has how much to do: workers by what they hold, so that whoever is looked for is found at once. Pure.

Rule 1: nothing here may cost more because there are more workers. So there is no loop over all of them: whoever changes
is put in its place, and the first in a place is taken. Rule 2: tasks are moved by the scheduler alone.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from math import frexp

from .worker import Worker

AHEAD_ONE_SECONDS = 0.1
"""A single task up to this long may always wait at a busy worker: a recall gets it back for a few microseconds."""
RECALL_SECONDS = 0.0005
"""Taking back less than this much work for an idle worker costs more than it gains."""
RUNGS = 10
"""Of the ladder of those who have work ahead: below RECALL_SECONDS, up to twice that, up to four times, ..."""


class Roster:
    """Keep ready workers by how many tasks they hold, and those with work ahead by how much that is.

    A ready worker that may be given work is in exactly one of `idle`, `thin` and `ahead`.

    Attributes:
        idle: who holds nothing and owes no answer; whoever came last is taken first, so that the others can leave.
        equipped: those of `idle` that have what some tasks need.
        thin: who holds one task.
        ahead: who holds more.
        closing: leaving or lending workers that hold more than one: they get nothing, but what they have not started
            can be recalled.
        parting: leaving workers of this machine that still hold something: they are busy, too. Those on hosts that are
            about to be taken away have their successors elsewhere meanwhile.
        lending: whose running task waits for subtasks.
    """

    __slots__ = ("_alarms", "_number", "_rungs", "ahead", "closing", "equipped", "idle", "lending", "parting", "thin")

    def __init__(self) -> None:
        self.idle: dict[Worker, None] = {}
        self.equipped: dict[Worker, None] = {}
        self.thin: dict[Worker, None] = {}
        self.ahead: dict[Worker, None] = {}
        self.closing: dict[Worker, None] = {}
        self.parting: dict[Worker, None] = {}
        self.lending: dict[Worker, None] = {}
        # Who can be recalled, by how much it has ahead: a rung holds at least half of the next.
        self._rungs: list[dict[Worker, None]] = [{} for _ in range(RUNGS)]
        # A heap of (due, number, worker): see first_due(). The number only keeps workers from being compared.
        self._alarms: list[tuple[float, int, Worker]] = []
        self._number = 0

    def place(self, worker: Worker) -> None:
        """Put the worker where it belongs by now; to be called whenever what it holds or how it stands has changed."""
        held = worker.held_items
        if not held:
            worker.held_seconds, worker.held_bytes = 0.0, 0  # float sums drift
        if not worker.is_ready:
            lane = None
        elif worker.is_leaving or worker.is_lending:
            lane = self.closing if held > 1 else None
        elif held > 1:
            lane = self.ahead
        else:
            # Whoever owes an answer to a recall, or a call, can be given nothing before it: not idle, though it may
            # hold nothing.
            lane = self.thin if held or worker.is_recalling or worker.calls_open else self.idle
        if lane is not worker.lane:
            self._move(worker, lane)
        if worker.is_leaving and held and worker.is_ready and not (worker.is_lending or worker.round_trip):
            self.parting[worker] = None
        elif self.parting:
            self.parting.pop(worker, None)
        if worker.is_lending and worker.is_ready and not worker.is_leaving:
            self.lending[worker] = None
        elif self.lending:
            self.lending.pop(worker, None)
        if held > 1 and lane is not None and not worker.is_recalling:
            self._place_ahead(worker)
        elif worker.rung is not None:
            del worker.rung[worker]
            worker.rung = None

    def _move(self, worker: Worker, lane: dict[Worker, None] | None) -> None:
        if worker.lane is not None:
            del worker.lane[worker]
        if lane is not None:
            lane[worker] = None
        worker.lane = lane
        if worker.resources:
            if lane is self.idle:
                self.equipped[worker] = None
            else:
                self.equipped.pop(worker, None)

    def _place_ahead(self, worker: Worker) -> None:
        """Let it be found: by how much could be taken back, and by when its running task takes too long."""
        head = next(iter(worker.held.values()))
        height = frexp((worker.held_seconds - head.estimate / head.items) / RECALL_SECONDS)[1]
        rung = self._rungs[0 if height < 0 else height if height < RUNGS else RUNGS - 1]
        if rung is not worker.rung:
            if worker.rung is not None:
                del worker.rung[worker]
            rung[worker] = None
            worker.rung = rung
        due = due_at(worker)
        if worker.alarm is None or due < worker.alarm:
            self._number += 1
            worker.alarm = due
            heappush(self._alarms, (due, self._number, worker))

    def begin_recall(self, worker: Worker) -> None:
        """Note that it owes an answer: nobody asks again before it comes."""
        worker.is_recalling = True
        if worker.rung is not None:
            del worker.rung[worker]
            worker.rung = None

    def richest(self) -> Worker | None:
        """Return one of those who have most ahead, up to a factor of two; None if it is not worth a recall."""
        for rung in self._rungs[:0:-1]:
            if rung:
                return next(iter(rung))
        return None

    def first_due(self) -> Worker | None:
        """Return who has work ahead and whose running task is the first to be late, or None.

        A worker that makes progress is late later. Its alarm stays where it is, too early, and is set anew when it is
        the first: once for each time that it was given a new one to run, at most.
        """
        alarms = self._alarms
        while alarms:
            due, _number, worker = alarms[0]
            if worker.alarm != due:
                heappop(alarms)  # an earlier one took its place
            elif worker.rung is None:
                heappop(alarms)
                worker.alarm = None
            elif (really_due := due_at(worker)) > due:
                self._number += 1
                worker.alarm = really_due
                heapreplace(alarms, (really_due, self._number, worker))
            else:
                return worker
        return None

    def newest_thin(self, number: int) -> list[Worker]:
        """Return those who hold one task: all if they are so few, else so many that have just got it."""
        thin = self.thin
        if len(thin) <= number:
            return list(thin)
        # Not reversed(thin): that steps over all that were deleted there since the last insertions, each time.
        newest = [thin.popitem()[0] for _ in range(number)]
        for worker in reversed(newest):
            thin[worker] = None
        return newest

    def newest_idle(self) -> Worker:
        """Return who became idle last; of several, not one that has what some tasks need."""
        worker, _ = self.idle.popitem()
        self.idle[worker] = None
        if worker in self.equipped and len(self.idle) > len(self.equipped):
            return next(each for each in reversed(self.idle) if each not in self.equipped)
        return worker


def due_at(worker: Worker) -> float:
    """Return until when the running task of a worker may take as long as was thought; without any allowance."""
    head = next(iter(worker.held.values()))
    return worker.since + min(AHEAD_ONE_SECONDS, head.estimate / head.items)
