"""The next places of an idle worker, promised to whoever submits: that thread sends its task there itself.

So the worker gets it one change of threads sooner, and at once where the submitting thread goes on to compute. The
thread is a user's, and decides nothing (docs/adr/0010, 0033): worker and ordinals are settled when the dispatcher hands
the ticket out, and a task has a place by where it stands in a list. Between any two steps a signal handler may raise,
or take as long as it likes:

1. submitter: sees the ticket, puts the task into the inbox
2. submitter: claims the place, the first one has it     3. submitter: sends the frame
4. submitter: notes that it is sent                      5. submitter, in any case: rings
6. dispatcher: closes the ticket, finds who has places, takes the inbox

If 2 is missing, the task waits in the inbox like any other. If 4 is missing at 6, the dispatcher sends the same frame
over the link, and the worker drops the second one by its ordinal. A ticket is closed before the dispatcher decides
anything else, so nothing else is ever sent to the worker while one is out.

The place after the first is open once that one's outcome is known: who waits for it gets it from the worker through the
hatch (waiting.py, docs/adr/0038) and notes it in the same list. So two threads may talk, one task at a time, and the
dispatcher hears of it afterwards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .core.messages import Outcome, TaskFlag, encode_frame_of_one
from .core.task import NEW, Task
from .core.worker import Worker
from .hatch import FRAME_BYTES_MAX, Hatch

PLACES_MAX = 32
"""What the dispatcher has to catch up with at once, at most."""
_PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX - 1024  # so many are enough for the rest of a frame of one task


class Place(NamedTuple):
    """A place that a task has: its ordinal, and the task's outcome, if that is known."""

    task: Task
    ordinal: int
    outcome: Outcome | None


LateOutcome = tuple[Worker, Outcome]


class Ticket:
    """Promise a worker's next places, one after the other.

    Args:
        worker: idle as the dispatcher knows it, as long as the ticket is out.
        hatch: the worker's.
        run: the executor's run.
        facts: of the worker, opaque: for futures.
        late: where outcomes go that are known only when the ticket is closed, and its tasks are the dispatcher's.

    Attributes:
        ordinal: what its first task will have.
        ordinal_sent: that of the last task which was sent by who submitted it.
    """

    # The log: a task that has the first place, its outcome, the task that has the second one ... Whatever does not fit
    # into that order ends it: a task that came too late for a place, or None, when the ticket is closed.
    __slots__ = (
        "_answer_place",
        "_late",
        "_log",
        "_run",
        "_task_to_answer",
        "facts",
        "hatch",
        "ordinal",
        "ordinal_sent",
        "worker",
    )

    def __init__(self, worker: Worker, hatch: Hatch, run: int, facts: Any, late: deque[LateOutcome]) -> None:
        self.worker = worker
        self.hatch = hatch
        self.facts = facts
        self.ordinal = worker.ordinal + 1
        self.ordinal_sent = 0
        self._run = run
        self._log: list[Task | Outcome | None] = []
        self._late = late
        self._task_to_answer: Task | None = None
        self._answer_place = 0  # where its outcome stands in the log, if it is known in time

    @property
    def length(self) -> int:
        """How much has happened with it: it grows."""
        return len(self._log)

    def places(self) -> Iterator[Place]:
        """Yield what is known of each place that a task has."""
        log = list(self._log)
        for place in range(0, len(log), 2):
            task = log[place]
            if type(task) is not Task:
                return
            outcome = log[place + 1] if place + 1 < len(log) else None
            known = outcome if type(outcome) is Outcome and outcome.task_id == task.task_id else None
            yield Place(task, self.ordinal + place // 2, known)
            if known is None:
                return

    def has(self, task: Task) -> bool:
        """Answer whether a task has a place."""
        return any(place.task is task for place in self.places())

    def use(self, task: Task, inbox: Sequence[Task]) -> bool:
        """Send a new task, which is in the inbox already, if the next place is open; never waits.

        Returns whether it was sent.

        Only if all that came before it has places, so that nothing overtakes. Not items of a map(), subtasks, nor what
        needs more than any worker has, more than one part, or more than a frame of its own.
        """
        if not _is_small(task):
            return False
        log, future, payload = self._log, task.handle, task.payload  # now: it may have been run soon, and emptied
        place = len(log)
        if not self._is_open(place) or type(payload) is not bytes or not _is_at(place // 2, task, inbox):
            return False
        if future is not None:
            future._ticket = self  # before anybody can see that it has the place
        log.append(task)
        if log[place] is not task:
            if future is not None:
                future._ticket = None
            return False
        flags, hatch, ordinal = task.flags, self.hatch, self.ordinal + place // 2
        if hatch.expects_waiter():
            flags |= TaskFlag.ANSWER
            self._task_to_answer, self._answer_place = task, place + 1
        timeout = 0.0 if task.budget is None else task.budget.timeout
        if not hatch.send(encode_frame_of_one(self._run, ordinal, task.task_id, flags, task.head, payload, timeout)):
            return False
        self.ordinal_sent = ordinal
        return True

    def _is_open(self, place: int) -> bool:
        """Answer whether the outcome of the task before is known, and nothing has come since."""
        if place % 2 or place >= 2 * PLACES_MAX:
            return False
        if not place:
            return True
        before, outcome = self._log[place - 2], self._log[place - 1]
        return type(outcome) is Outcome and type(before) is Task and outcome.task_id == before.task_id

    def will_answer(self, task: Task) -> bool:
        """Answer whether the worker was asked to say through the hatch what has become of this task."""
        return self._task_to_answer is task

    def note(self, outcome: Outcome) -> None:
        """Note what the worker has answered of the task that has the last place: the next place is open."""
        self._log.append(outcome)
        if self._log[self._answer_place] is not outcome:  # the ticket was closed before
            self._late.append((self.worker, outcome))

    def served(self, worker: Worker, outcomes: Sequence[Outcome]) -> Task | None:
        """Return the task that had the only place, if it was sent and is over; for a ticket that is closed.

        Args:
            worker: who reports these outcomes.
            outcomes: what is reported.
        """
        places = list(self.places())
        if self.worker is not worker or len(outcomes) != 1 or len(places) != 1 or not self.ordinal_sent:
            return None
        task, outcome = places[0].task, outcomes[0]
        return task if task.state is NEW and outcome.task_id == task.task_id and outcome.attempt == 1 else None

    def close(self) -> bool:
        """Promise no place any more; return whether a task has one."""
        self._log.append(None)
        return self._log[0] is not None


def _is_small(task: Task) -> bool:
    """Answer whether a task goes into one frame of the hatch, to any worker."""
    is_plain = task.parent is None and task.needs is None and task.beside is None
    is_one_part = type(task.payload) is bytes
    return is_plain and is_one_part and len(task.head) + len(task.payload) <= _PAYLOAD_BYTES_MAX


def _is_at(place: int, task: Task, inbox: Sequence[Task]) -> bool:
    try:
        return inbox[place] is task
    except IndexError:  # somebody has taken it already
        return False
