"""What was submitted goes through here from the inbox to the scheduler; tickets are handed out here, and taken back.

Everything is called under the dispatcher's lock, by threads of ours. Decides nothing: the scheduler says to whom the
next task would go, and hears of the tasks that were sent to him, in their order; see ticket.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from .connection import Connection
from .core.messages import Outcome
from .core.scheduler import Scheduler
from .core.task import NEW, Task
from .core.worker import Worker
from .inbox import Inbox
from .ticket import Place, Ticket

GLANCES = 5
"""So many looks after the last ticket was used the dispatcher still comes by itself. With one, who sends one task after
the other to an only worker would have to ring for every second."""


class Shell(Protocol):
    """What is asked of the dispatcher."""

    @property
    def is_refusing(self) -> bool:
        """Whether nothing that was submitted is run any more."""

    @property
    def gives_tickets(self) -> bool:
        """Whether the next place of a worker may be promised."""

    def refuse_later(self, tasks: list[Task]) -> None:
        """End the futures of these tasks when the lock is free."""

    def demand_noted(self, now: float, tasks_over: int) -> None:
        """Tasks have come; so many workers more were needed for them than for those that are open now."""


class Turnstile:
    """Let the scheduler have what was submitted.

    Args:
        shell: the dispatcher.
        inbox: what was submitted.
        scheduler: is to have it.
        connections: the workers.
    """

    def __init__(self, shell: Shell, inbox: Inbox, scheduler: Scheduler, connections: Mapping[str, Connection]) -> None:
        self._shell = shell
        self._inbox = inbox
        self._scheduler = scheduler
        self._connections = connections
        self._tickets_glanced = self._glances_left = 0

    def catch_up(self) -> None:
        """Let the scheduler have what is there, and no ticket be out until offer(): before anything is decided."""
        self._catch_up(self._inbox.withdraw_ticket())

    def let_in(self) -> None:
        """Let the scheduler have what has come since catch_up()."""
        self._catch_up(None)

    def offer(self) -> None:
        """Hand out a ticket for the worker that the next task would go to, if that is plain: after all decisions."""
        if self._shell.gives_tickets and (worker := self._scheduler.next_idle()) is not None:
            self._inbox.ticket = self._connections[worker.name].make_ticket(self._inbox.late)

    def serve(self, connection: Connection, outcomes: Sequence[Outcome], now: float, *, is_plain: bool) -> bool:
        """Take the only task that was submitted with its outcome, if it is that; else catch up.

        Returns whether it was: then all else is as it was, and the worker's next place is promised again.

        Args:
            connection: the worker's.
            outcomes: what it reports.
            now: monotonic seconds.
            is_plain: nothing else is to be done when a task is over.
        """
        inbox = self._inbox
        ticket = inbox.withdraw_ticket()
        if ticket is not None and is_plain and len(inbox.tasks) == 1 and not inbox.late:
            task = ticket.served(connection.worker, outcomes)
            if task is not None:
                self._scheduler.submit_to(connection.worker, task, ticket.ordinal, now, outcomes[0])
                inbox.tasks.popleft()
                self._shell.demand_noted(now, 1)
                if not inbox.tasks:
                    inbox.ticket = connection.make_ticket(self._inbox.late)
                return True
        self._catch_up(ticket)  # a worker that seems to have nothing to do would take from the others
        return False

    def glance(self, look: Callable[[], object]) -> None:
        """Look at what was submitted, unless whoever submits is in the midst of it; see Inbox.is_glanced_at."""
        inbox = self._inbox
        if inbox.is_glanced_at:
            # Before the look at what is there: whoever comes later than that rings.
            inbox.is_awaited = True
            if inbox.is_ticket_in_use():
                return
        inbox.is_glanced_at, tickets_used = False, self._tickets_glanced
        look()
        self._tickets_glanced = inbox.tickets_used
        self._glances_left = GLANCES if tickets_used != self._tickets_glanced else max(0, self._glances_left - 1)
        inbox.is_glanced_at = self._glances_left > 0

    def _catch_up(self, ticket: Ticket | None) -> None:
        inbox, now = self._inbox, time.monotonic()
        tasks = inbox.take()
        if tasks and self._shell.is_refusing:
            self._shell.refuse_later(tasks)
            return
        sent = [] if ticket is None else list(ticket.places())
        try:
            if ticket is not None:
                self._let_in_sent(ticket.worker, sent, now)
            while inbox.late:  # after their tasks, and before a worker is launched because one seems busy
                worker, outcome = inbox.late.popleft()
                self._scheduler.outcomes(worker, [outcome], now)
            if len(sent) < len(tasks):
                self._scheduler.submit(tasks, now)
        except BaseException:
            inbox.tasks.extendleft(reversed(tasks))  # the pool breaks, and refuses what is new there
            raise
        if tasks:
            # Those that are over came one after the other: one worker was enough.
            self._shell.demand_noted(now, int(len(sent) == len(tasks) and sent[-1].outcome is not None))

    def _let_in_sent(self, worker: Worker, sent: list[Place], now: float) -> None:
        for task, ordinal, outcome in sent:
            is_simple = outcome is not None and task.state is NEW
            self._scheduler.submit_to(worker, task, ordinal, now, outcome if is_simple else None)
            if outcome is not None and not is_simple:  # its run was to be ended
                self._scheduler.outcomes(worker, [outcome], now)
