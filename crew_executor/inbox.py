"""What users have submitted and no thread of ours has taken yet: submit() does no more than put a task here.

A user's thread may be the main thread, where a signal handler may raise between any two calls: a Ctrl-C in the middle
of a decision would leave the scheduler with a task that is in two places, or in none. So users' threads decide nothing.
They leave a task, and ring if somebody should come; threads of ours, where no signal is ever handled, take the tasks
under the dispatcher's lock. put() takes no lock at all: a signal handler, a finaliser or a callback may use it in the
middle of anything.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .core.task import NEW, Task
from .event_loop import mention_wait

if TYPE_CHECKING:
    from .mailbox import Mailbox
    from .ticket import LateOutcome, Ticket


class Inbox:
    """Hold new tasks in their order.

    Args:
        mailbox: whose receiver is to come for the tasks.

    Attributes:
        tasks: the new tasks; empty it by popleft() only.
        is_awaited: whether a new task should be taken at once: a worker might run it, or be launched for it. Else it
            can wait until a worker reports something. Set it, then look at `tasks` again, under the dispatcher's lock:
            1. submitter: puts a task      2. taker: sets is_awaited to False
            3. submitter: does not ring    4. taker: looks again, and finds the task
        is_glanced_at: whether the taker comes within a moment by itself, which is soon enough for a task that a worker
            has already: one thread less to wake. Only the taker changes it: to False before a look at `tasks`, to True
            after it, so that nothing is overlooked.
        tickets_used: how many there were, as far as anybody has looked; changed under the dispatcher's lock.
        ticket: for the next task, if a worker waits for one; see ticket.py.
        late: outcomes of tasks that were sent with tickets which are closed; empty it by popleft() only.
    """

    __slots__ = (
        "_bell", "_door", "_is_wait_mentioned", "_length_seen", "_waiting", "is_awaited", "is_glanced_at", "late",
        "tasks", "ticket", "tickets_used",
    )  # fmt: skip

    def __init__(self, mailbox: Mailbox) -> None:
        self._bell = mailbox.bell
        self._door = threading.RLock()
        self._waiting: deque[threading.Lock] = deque()
        self.tasks: deque[Task] = deque()
        self.is_awaited = True
        self.is_glanced_at = False
        self.ticket: Ticket | None = None
        self.tickets_used = 0
        self.late: deque[LateOutcome] = deque()
        self._length_seen = 0  # of the ticket that is out
        self._is_wait_mentioned = False

    def put(self, task: Task) -> None:
        """Add a task, and ring if it is awaited.

        CPython looks for signals after calls of C functions and at the start of Python functions. Wherever a handler
        raises, the task is in and the bell rung, or neither; so no step here may become a function of its own.
        """
        # Before the task is in: a ticket that is handed out later may belong to a time when the task has run.
        ticket = self.ticket
        is_sent = False
        try:
            self.tasks.append(task)
            if ticket is not None:
                is_sent = ticket.use(task, self.tasks)
        finally:
            if self.is_awaited and not (is_sent and self.is_glanced_at):
                self.is_awaited = False
                try:  # noqa: SIM105  contextlib.suppress() is one of those functions
                    self._bell.release()
                except RuntimeError:  # rung already
                    pass

    def put_when(self, has_room: Callable[[], bool], task: Task) -> None:
        """Add a task once there is room for it; `has_room` may raise instead of answering."""
        while True:
            turn = threading.Lock()
            turn.acquire()
            # Before the look: room that is made after it wakes this turn.
            self._waiting.append(turn)
            with self._door:  # or two threads would take the same room
                if has_room():
                    self.put(task)
                    return
            if not self._is_wait_mentioned:
                self._is_wait_mentioned = mention_wait()
            turn.acquire()

    def wake_waiting(self) -> None:
        """Let those look again who wait for room."""
        while self._waiting:
            self._waiting.popleft().release()

    def withdraw_ticket(self) -> Ticket | None:
        """Have no ticket out any more; return the one that was, if a task has it. Under the dispatcher's lock."""
        ticket, self.ticket, self._length_seen = self.ticket, None, 0
        if ticket is None or not ticket.close():
            return None
        self.tickets_used += 1
        return ticket

    def is_ticket_in_use(self) -> bool:
        """Answer whether tasks came with the ticket since this was last asked, and none without it is here.

        So many of them are over, and who waits for the last has come for it so far: nobody need look for him.
        """
        ticket = self.ticket  # once: any thread of ours may take it away
        if ticket is None:
            return False
        before, self._length_seen = self._length_seen, ticket.length
        return self._length_seen > before and len(self.tasks) == (self._length_seen + 1) // 2

    def is_sent(self, task: Task) -> bool:
        """Answer whether a worker may have this task, which nobody has taken yet. Under the dispatcher's lock."""
        return self.ticket is not None and self.ticket.has(task)

    def count(self) -> int:
        """Return how many tasks wait here and are not cancelled, each item of a map() by itself."""
        return sum(task.items for task in list(self.tasks) if task.state is NEW)

    def take(self) -> list[Task]:
        """Remove the tasks and return them. Several threads may do so."""
        tasks = []
        with contextlib.suppress(IndexError):  # another thread was faster
            while self.tasks:
                tasks.append(self.tasks.popleft())
        return tasks
