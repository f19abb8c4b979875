"""From the inbox to the scheduler: what was sent with a ticket goes first, with its outcome where that is known."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import pytest

from crew_executor.connection import Connection
from crew_executor.core.messages import Outcome
from crew_executor.core.scheduler import Scheduler
from crew_executor.core.task import DONE, SENT, STOPPING, Task
from crew_executor.core.worker import Worker
from crew_executor.hatch import Hatch
from crew_executor.inbox import Inbox
from crew_executor.mailbox import Mailbox
from crew_executor.ticket import LateOutcome, Ticket
from crew_executor.turnstile import GLANCES, Turnstile

from .fakes import make_outcome


class Port:
    """Note what the scheduler decides."""

    def __init__(self) -> None:
        self.sent: list[Task] = []
        self.finished: list[tuple[Task, Outcome]] = []

    def send(self, _worker: Worker, tasks: list[Task]) -> None:
        self.sent += tasks

    def finish(self, _worker: Worker, finished: list[tuple[Task, Outcome]]) -> None:
        self.finished += finished


class FakeConnection:
    """A worker that tickets can be made for."""

    class Hatch:
        """Take everything."""

        def expects_waiter(self) -> bool:
            return True

        def send(self, _frame: bytes) -> bool:
            return True

    def __init__(self, name: str) -> None:
        self.worker = Worker(name)

    def make_ticket(self, late: deque[LateOutcome]) -> Ticket:
        return Ticket(self.worker, cast(Hatch, self.Hatch()), 77, None, late)


class House:
    """A dispatcher with one idle worker, and what it is asked and told."""

    def __init__(self) -> None:
        self.is_refusing, self.gives_tickets = False, True
        self.refused: list[Task] = []
        self.demands: list[int] = []
        self.port = Port()
        self.scheduler = Scheduler(cast(Any, self.port), 1)
        self.connection = FakeConnection("w1")
        self.scheduler.worker_ready(self.connection.worker, 0.0)
        self.inbox = Inbox(Mailbox())
        connections = cast("dict[str, Connection]", {"w1": self.connection})
        self.turnstile = Turnstile(self, self.inbox, self.scheduler, connections)
        self.turnstile.offer()

    def refuse_later(self, tasks: list[Task]) -> None:
        self.refused += tasks

    def demand_noted(self, _now: float, tasks_over: int) -> None:
        self.demands.append(tasks_over)

    def put(self, number: int) -> Task:
        task = Task(number, "f", b"payload")
        self.inbox.put(task)
        return task

    def note(self, number: int) -> Outcome:
        assert self.inbox.ticket is not None
        outcome = make_outcome(number)
        self.inbox.ticket.note(outcome)
        return outcome

    def serve(self, *outcomes: Outcome, is_plain: bool = True) -> bool:
        return self.turnstile.serve(cast(Connection, self.connection), outcomes, 1.0, is_plain=is_plain)


@pytest.fixture
def house() -> House:
    return House()


def test_what_was_sent_is_the_workers_and_what_is_over_is_done(house: House) -> None:
    first = house.put(1)
    outcome = house.note(1)
    second, third = house.put(2), house.put(3)
    house.turnstile.catch_up()

    assert ([DONE, SENT, SENT], [(first, outcome)]) == ([first.state, second.state, third.state], house.port.finished)
    assert (2, 3) == (second.ordinal, third.ordinal)
    assert [second, third] == house.port.sent, "both frames: the connection knows that the first has gone"
    assert (None, []) == (house.inbox.ticket, house.inbox.take())
    assert [0] == house.demands


def test_tasks_that_are_all_over_needed_one_worker(house: House) -> None:
    for number in (1, 2, 3):
        house.put(number)
        house.note(number)
    house.turnstile.catch_up()
    house.turnstile.offer()

    assert [1] == house.demands
    assert house.scheduler.tasks_done == 3
    assert house.inbox.ticket is not None
    assert house.inbox.ticket.ordinal == 4


def test_a_task_that_is_to_be_ended_and_is_over_is_reported_to_nobody(house: House) -> None:
    first = house.put(1)
    assert house.scheduler.stop(first, is_sent=True)
    house.note(1)
    second = house.put(2)
    house.note(2)
    house.turnstile.catch_up()

    assert [DONE, DONE] == [first.state, second.state]
    assert [second] == [task for task, _outcome in house.port.finished]
    assert not house.connection.worker.held


def test_a_task_that_is_to_be_ended_stays_the_workers(house: House) -> None:
    first = house.put(1)
    assert house.scheduler.stop(first, is_sent=True)
    house.turnstile.catch_up()

    assert STOPPING == first.state
    assert [first] == list(house.connection.worker.held.values())


def test_the_only_task_is_served_with_its_outcome_and_the_next_place_is_promised(house: House) -> None:
    task = house.put(1)
    outcome = make_outcome(1)

    assert house.serve(outcome)
    assert [(task, outcome)] == house.port.finished
    assert [] == house.port.sent
    assert house.inbox.ticket is not None
    assert (2, [], [1]) == (house.inbox.ticket.ordinal, house.inbox.take(), house.demands)


@pytest.mark.parametrize("odd", ["not plain", "another came", "it is known", "no ticket"])
def test_what_is_not_the_only_task_is_caught_up_with(odd: str, house: House) -> None:
    if odd == "no ticket":
        house.inbox.withdraw_ticket()
    task = house.put(1)
    if odd == "it is known":
        house.note(1)
        house.put(2)
    if odd == "another came":
        house.put(2)

    assert not house.serve(make_outcome(1), is_plain=odd != "not plain")
    assert task.state == (DONE if odd == "it is known" else SENT)
    assert (None, []) == (house.inbox.ticket, house.inbox.take())


def test_who_submits_after_the_outcome_and_before_it_is_heard_of_has_a_place_all_the_same(house: House) -> None:
    """1. waiter: notes the outcome  2. submitter: sends the next  3. reader: comes with the report of the first."""
    first = house.put(1)
    house.note(1)
    second = house.put(2)

    assert not house.serve(make_outcome(1))
    assert ([DONE, SENT], [second]) == ([first.state, second.state], house.port.sent)


def test_where_nothing_is_run_any_more_everything_is_refused(house: House) -> None:
    task = house.put(1)
    house.is_refusing = True
    house.turnstile.catch_up()

    assert ([task], []) == (house.refused, house.demands)


def test_no_ticket_where_none_are_given(house: House) -> None:
    house.inbox.withdraw_ticket()
    house.gives_tickets = False
    house.turnstile.offer()

    assert house.inbox.ticket is None


def test_what_a_scheduler_that_fails_was_given_is_in_the_inbox_again(house: House) -> None:
    tasks = [house.put(1), house.put(2)]
    house.connection.worker.ordinal = 7  # the ticket says another
    with pytest.raises(RuntimeError, match="which it cannot be"):
        house.turnstile.catch_up()

    assert tasks == house.inbox.take()


def test_the_inbox_is_glanced_at_as_long_as_tickets_are_used_and_left_alone_meanwhile(house: House) -> None:
    looks: list[int] = []

    def look() -> None:
        looks.append(len(house.inbox.tasks))
        house.turnstile.catch_up()
        for task in list(house.connection.worker.held.values()):
            house.scheduler.outcomes(house.connection.worker, [make_outcome(task.task_id)], 1.0)
        house.turnstile.offer()

    house.put(1)
    house.turnstile.glance(look)  # somebody has rung
    assert (looks, house.inbox.is_glanced_at) == ([1], True)
    house.put(2)
    house.turnstile.glance(look)
    assert looks == [1], "they are talking"
    house.turnstile.glance(look)
    assert looks == [1, 1], "nothing has come since: its task takes long, or nobody has waited"
    for _ in range(GLANCES):
        assert house.inbox.is_glanced_at
        house.turnstile.glance(look)
    assert (looks, house.inbox.is_glanced_at) == ([1, 1] + [0] * GLANCES, False)


def test_what_is_known_after_the_ticket_was_closed_is_the_schedulers_with_the_next_decision(house: House) -> None:
    first = house.put(1)
    ticket = house.inbox.ticket
    assert ticket is not None
    house.turnstile.catch_up()
    states = [first.state]
    ticket.note(outcome := make_outcome(1))
    house.turnstile.catch_up()

    assert ([SENT], DONE) == (states, first.state)
    assert [(first, outcome)] == house.port.finished


def test_the_next_task_goes_the_long_way_where_an_outcome_is_late(house: House) -> None:
    house.put(1)
    ticket = house.inbox.ticket
    assert ticket is not None
    house.turnstile.catch_up()
    house.scheduler.outcomes(house.connection.worker, [make_outcome(1)], 1.0)  # its report
    house.turnstile.offer()
    house.put(2)
    ticket.note(make_outcome(1))

    assert not house.serve(make_outcome(2))
    assert not house.inbox.late


def test_no_worker_seems_busy_when_new_tasks_are_counted(house: House) -> None:
    house.put(1)
    ticket = house.inbox.ticket
    assert ticket is not None
    house.turnstile.catch_up()
    ticket.note(make_outcome(1))
    second = house.put(2)
    open_then: list[int] = []
    house.demand_noted = lambda _now, _over: open_then.append(house.scheduler.tasks_open)  # type: ignore[method-assign]
    house.turnstile.catch_up()

    assert (open_then, second.state) == ([1], SENT), "or another worker would be launched"


def test_who_comes_while_the_dispatcher_looks_away_rings(house: House) -> None:
    """Its bell was rung for a task that has a place by now, and everything in the inbox has one."""
    house.put(1)
    house.turnstile.glance(house.turnstile.catch_up)
    house.scheduler.outcomes(house.connection.worker, [make_outcome(1)], 1.0)
    house.turnstile.offer()
    house.put(2)
    house.inbox.is_awaited = False  # by a ring that was meant for it
    house.turnstile.glance(house.turnstile.catch_up)

    assert [2] == [task.task_id for task in house.inbox.tasks], "it looked away"
    assert house.inbox.is_awaited
