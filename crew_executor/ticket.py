"""The next place of an idle worker, promised to whoever submits first: that thread sends its task there itself.

So the worker gets it one change of threads sooner, and at once where the submitting thread goes on to compute. The
thread is a user's, and decides nothing (docs/adr/0010, 0033): worker and ordinal are settled when the dispatcher hands
the ticket out, and a task has the place by being the first in a list. Between any two steps a signal handler may raise,
or take as long as it likes:

1. submitter: sees the ticket, puts the task into the inbox
2. submitter: claims the ticket, the first one has it    3. submitter: sends the frame
4. submitter: notes that it is sent                      5. submitter, in any case: rings
6. dispatcher: closes the ticket, finds who has it, takes the inbox

If 2 is missing, the task waits in the inbox like any other. If 4 is missing at 6, the dispatcher sends the same frame
over the link, and the worker drops the second one by its ordinal. A ticket is closed before the dispatcher decides
anything else, so nothing else is ever sent to the worker while one is out.
"""

from __future__ import annotations

from collections.abc import Sequence

from .core.messages import Outcome, encode_frame_of_one
from .core.task import NEW, Task
from .core.worker import Worker
from .hatch import FRAME_BYTES_MAX, Hatch

_PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX - 1024  # so many are enough for the rest of a frame of one task


class Ticket:
    """Promise a worker's next place.

    Args:
        worker: idle, as long as the ticket is out.
        hatch: the worker's.
        run: the executor's run.

    Attributes:
        ordinal: what its task will have.
        is_sent: its task was sent by who submitted it.
    """

    __slots__ = ("_claims", "_hatch", "_run", "is_sent", "ordinal", "worker")

    def __init__(self, worker: Worker, hatch: Hatch, run: int) -> None:
        self.worker = worker
        self.ordinal = worker.ordinal + 1
        self.is_sent = False
        self._hatch = hatch
        self._run = run
        self._claims: list[Task | None] = []

    @property
    def holder(self) -> Task | None:
        """The task that has the place, or None: nobody yet, or nobody any more."""
        return self._claims[0] if self._claims else None

    def use(self, task: Task, inbox: Sequence[Task]) -> bool:
        """Send a new task, which is in the inbox already, if nobody else has the place; never waits.

        Returns whether it was sent.

        Only the first in the inbox, so that nothing overtakes what came before it. Not items of a map(), subtasks, nor
        what needs more than any worker has, more than one part, or more than a frame of its own.
        """
        payload = task.payload  # now: once it is claimed it may have been run, and its payload dropped
        if type(payload) is not bytes or task.payload_bytes > _PAYLOAD_BYTES_MAX:
            return False
        if task.parent is not None or task.needs is not None or task.beside is not None:
            return False
        try:
            if inbox[0] is not task:
                return False
        except IndexError:  # somebody has taken it already
            return False
        claims = self._claims
        claims.append(task)
        if claims[0] is not task:
            return False
        timeout = 0.0 if task.budget is None else task.budget.timeout
        frame = encode_frame_of_one(self._run, self.ordinal, task.task_id, task.flags, payload, timeout)
        self.is_sent = is_sent = self._hatch.send(frame)
        return is_sent

    def served(self, worker: Worker, outcomes: Sequence[Outcome], inbox: Sequence[Task]) -> Task | None:
        """Return the task that has the place, if it was sent and is over, and nothing else has come since.

        Args:
            worker: who reports these outcomes.
            outcomes: what is reported.
            inbox: what was submitted.
        """
        task = self._claims[0] if self.is_sent else None
        if task is None or self.worker is not worker or len(outcomes) != 1 or len(inbox) != 1:
            return None
        (outcome,) = outcomes
        return task if task.state is NEW and outcome.task_id == task.task_id and outcome.attempt == 1 else None

    def close(self) -> bool:
        """Promise the place no more; return whether a task has it."""
        self._claims.append(None)
        return self._claims[0] is not None
