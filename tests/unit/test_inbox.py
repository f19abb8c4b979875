"""New tasks on their way to the dispatcher: none is lost or left lying, and who waits for room is woken."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from crew_executor.core.task import DONE, Task
from crew_executor.core.worker import Worker
from crew_executor.inbox import Inbox
from crew_executor.mailbox import Mailbox
from crew_executor.ticket import Ticket

from .fakes import interrupt_at, make_outcome


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


def make(task_id: int) -> Task:
    return Task(task_id, "f", b"payload")


def is_rung(mailbox: Mailbox) -> bool:
    """Answer whether the receiver would wake, and let it hear the bell."""
    return mailbox.bell.acquire(blocking=False)


def test_tasks_are_taken_once_and_in_their_order(mailbox: Mailbox) -> None:
    inbox, tasks = Inbox(mailbox), [make(1), make(2)]
    for task in tasks:
        inbox.put(task)

    assert tasks == inbox.take()
    assert [] == inbox.take()


def test_the_bell_is_rung_once_for_many_tasks(mailbox: Mailbox) -> None:
    inbox = Inbox(mailbox)
    inbox.put(make(1))
    first = is_rung(mailbox)
    inbox.put(make(2))

    assert (True, False) == (first, is_rung(mailbox))


def test_a_task_that_can_wait_rings_no_bell(mailbox: Mailbox) -> None:
    inbox = Inbox(mailbox)
    inbox.is_awaited = False
    inbox.put(make(1))

    assert not is_rung(mailbox)
    assert 1 == len(inbox.take())


@pytest.mark.parametrize(("is_sent", "is_glanced_at"), [(True, True), (True, False), (False, True), (False, False)])
def test_no_bell_is_rung_for_what_a_worker_has_while_the_taker_comes_by_itself(
    mailbox: Mailbox, is_sent: bool, is_glanced_at: bool
) -> None:
    class FakeTicket:
        def use(self, task: Task, tasks: deque[Task]) -> bool:
            assert tasks[-1] is task
            return is_sent

    inbox = Inbox(mailbox)
    inbox.ticket, inbox.is_glanced_at = FakeTicket(), is_glanced_at  # type: ignore[assignment]
    inbox.put(make(1))

    assert is_rung(mailbox) is not (is_sent and is_glanced_at)


def test_a_task_may_be_put_while_the_bell_is_rung_already(mailbox: Mailbox) -> None:
    inbox = Inbox(mailbox)
    mailbox.put(print)
    inbox.put(make(1))

    assert 1 == len(inbox.take())
    assert 1 == len(mailbox.take(0))


def test_cancelled_tasks_do_not_count(mailbox: Mailbox) -> None:
    inbox, cancelled = Inbox(mailbox), make(1)
    inbox.put(cancelled)
    inbox.put(make(2))
    cancelled.state = DONE

    assert 1 == inbox.count()


def test_who_finds_room_does_not_wait(mailbox: Mailbox) -> None:
    inbox = Inbox(mailbox)
    inbox.put_when(lambda: True, make(1))

    assert 1 == len(inbox.take())


def test_who_finds_no_room_waits_until_there_is_some(mailbox: Mailbox) -> None:
    inbox, rooms = Inbox(mailbox), [False]
    looked = threading.Event()

    def has_room() -> bool:
        looked.set()
        return rooms[0]

    submitter = threading.Thread(target=inbox.put_when, args=(has_room, make(1)))
    submitter.start()
    looked.wait()
    early = inbox.take()
    rooms[0] = True
    inbox.wake_waiting()
    submitter.join()

    assert [] == early
    assert 1 == len(inbox.take())


def test_room_that_is_made_during_the_look_is_not_missed(mailbox: Mailbox) -> None:
    inbox, answers = Inbox(mailbox), [False, True]

    def has_room() -> bool:
        inbox.wake_waiting()  # as another thread might, just after the look
        return answers.pop(0)

    inbox.put_when(has_room, make(1))

    assert 1 == len(inbox.take())


def test_a_refusal_ends_the_wait(mailbox: Mailbox) -> None:
    inbox = Inbox(mailbox)

    def refuse() -> bool:
        raise RuntimeError("shut down")

    with pytest.raises(RuntimeError, match="shut down"):
        inbox.put_when(refuse, make(1))

    assert [] == inbox.take()


@pytest.mark.parametrize("has_ticket", [False, True])
@pytest.mark.parametrize("moment", range(12))
def test_an_interrupt_leaves_no_task_without_a_bell(mailbox: Mailbox, moment: int, has_ticket: bool) -> None:
    inbox = Inbox(mailbox)
    if has_ticket:
        inbox.ticket = OneTicket()  # type: ignore[assignment]
    interrupt_at(moment, lambda: inbox.put(make(1)))

    assert is_rung(mailbox) or not inbox.take()


@pytest.mark.parametrize("moment", range(12))
def test_an_interrupt_leaves_no_event_without_a_bell(mailbox: Mailbox, moment: int) -> None:
    interrupt_at(moment, lambda: mailbox.put(print))

    rung = is_rung(mailbox)
    assert rung == bool(mailbox.take(0))


class OneTicket:
    """A ticket that takes what comes, and counts."""

    def __init__(self) -> None:
        self.holder: Task | None = None

    def use(self, task: Task, _inbox: object) -> None:
        self.holder = self.holder or task

    def has(self, task: Task) -> bool:
        return self.holder is task

    def close(self) -> bool:
        return self.holder is not None


def test_a_ticket_is_for_the_task_that_is_put_next(mailbox: Mailbox) -> None:
    inbox, task, ticket = Inbox(mailbox), make(1), OneTicket()
    inbox.ticket = ticket  # type: ignore[assignment]
    before = inbox.is_sent(task)
    inbox.put(task)

    assert (False, True) == (before, inbox.is_sent(task))
    assert is_rung(mailbox), "the dispatcher must hear of it"
    assert ticket is inbox.withdraw_ticket()
    assert inbox.withdraw_ticket() is None
    assert [task] == inbox.take()
    assert not inbox.is_sent(task)


def test_a_ticket_that_nobody_has_used_is_withdrawn_without_a_word(mailbox: Mailbox) -> None:
    inbox = Inbox(mailbox)
    inbox.ticket = OneTicket()  # type: ignore[assignment]

    assert inbox.withdraw_ticket() is None
    assert inbox.ticket is None


def test_a_ticket_that_is_handed_out_once_the_task_is_in_is_not_for_it(mailbox: Mailbox) -> None:
    # A reader may have taken it, and a worker have run it, before its submitter goes on.
    inbox, ticket = Inbox(mailbox), OneTicket()

    class Tasks(deque[Task]):
        def append(self, task: Task) -> None:
            super().append(task)
            inbox.take()
            inbox.ticket = ticket  # type: ignore[assignment]

    inbox.tasks = Tasks()
    inbox.put(make(1))

    assert ticket.holder is None


class FakeHatch:
    """Take everything."""

    def expects_waiter(self) -> bool:
        return False

    def send(self, _frame: bytes) -> bool:
        return True


def test_a_ticket_is_in_use_as_long_as_tasks_come_with_it_and_none_without(mailbox: Mailbox) -> None:
    inbox = Inbox(mailbox)
    seen = [inbox.is_ticket_in_use()]
    inbox.ticket = ticket = Ticket(Worker("w1"), FakeHatch(), 77, None, deque())  # type: ignore[arg-type]
    seen.append(inbox.is_ticket_in_use())
    for number in (1, 2):
        inbox.put(make(number))
        seen += [inbox.is_ticket_in_use(), inbox.is_ticket_in_use()]
        ticket.note(make_outcome(number))
    inbox.put(make(3))
    inbox.put(make(4))  # has no place
    seen.append(inbox.is_ticket_in_use())

    assert [False, False, True, False, True, False, False] == seen


def test_a_new_ticket_is_in_use_with_its_first_task(mailbox: Mailbox) -> None:
    inbox = Inbox(mailbox)
    for _ in range(2):
        inbox.ticket = Ticket(Worker("w1"), FakeHatch(), 77, None, deque())  # type: ignore[arg-type]
        inbox.put(make(1))
        assert inbox.is_ticket_in_use()
        assert inbox.withdraw_ticket() is not None
        inbox.take()
