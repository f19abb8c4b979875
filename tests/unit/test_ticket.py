"""Promises of an idle worker's next place: one task has it, everybody can see which, wherever its submitter stopped."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import pytest

from crew_executor.core.budget import Budget
from crew_executor.core.messages import Kind, TaskFlag, decode_frame, decode_tasks
from crew_executor.core.task import STOPPING, Task
from crew_executor.core.worker import Worker
from crew_executor.futures import CrewFuture
from crew_executor.hatch import Hatch
from crew_executor.ticket import PLACES_MAX, LateOutcome, Ticket

from .fakes import interrupt_at, make_outcome


class FakeHatch:
    """Keep what is sent."""

    def __init__(self, *, is_open: bool = True, is_watched: bool = False) -> None:
        self.frames: list[bytes] = []
        self.is_open = is_open
        self.is_watched = is_watched

    def expects_waiter(self) -> bool:
        is_expected, self.is_watched = self.is_watched, False
        return is_expected

    def send(self, frame: bytes) -> bool:
        if self.is_open:
            self.frames.append(frame)
        return self.is_open


@pytest.fixture
def hatch() -> FakeHatch:
    return FakeHatch()


def promise(hatch: FakeHatch, late: deque[LateOutcome] | None = None) -> Ticket:
    worker = Worker("w1")
    worker.ordinal = 6
    return Ticket(worker, cast(Hatch, hatch), 77, None, deque() if late is None else late)


def holders(ticket: Ticket) -> list[Task]:
    return [place.task for place in ticket.places()]


def make(task_id: int, **options: Any) -> Task:
    return Task(task_id, "f", b"payload", **options)


def test_the_first_task_has_the_place(hatch: FakeHatch) -> None:
    ticket, first = promise(hatch), make(1)
    ticket.use(first, [first])
    second = make(2)
    ticket.use(second, [second])

    assert ([first], 7, 1) == (holders(ticket), ticket.ordinal_sent, len(hatch.frames))
    assert (True, False) == (ticket.has(first), ticket.has(second))
    assert ticket.close()


def test_its_frame_is_what_the_dispatcher_would_send_but_without_a_number(hatch: FakeHatch) -> None:
    ticket = promise(hatch)
    task = Task(3, "f", b"payload", flags=TaskFlag.CATCH_OUTPUT, budget=Budget(timeout=1.5), head=b"head")
    assert ticket.use(task, [task])

    frame = decode_frame(memoryview(hatch.frames[0])[8:])
    (item,) = decode_tasks(frame)
    assert (Kind.TASKS, 77, 0, 0) == (frame.kind, frame.run, frame.sequence, frame.ack)
    assert (7, 3, 1, TaskFlag.CATCH_OUTPUT, 1.5) == (item.ordinal, item.task_id, item.attempt, item.flags, item.timeout)
    assert (b"head", b"payload") == (item.head, *map(bytes, item.parts))


def test_a_closed_ticket_is_of_no_use(hatch: FakeHatch) -> None:
    ticket = promise(hatch)

    assert not ticket.close()
    late = make(1)
    ticket.use(late, [late])
    assert ([], 0, []) == (holders(ticket), ticket.ordinal_sent, hatch.frames)


@pytest.mark.parametrize(
    "task",
    [
        make(1, needs=frozenset({("gpus", 1)})),
        make(1, beside=object()),
        make(1, parent=make(9)),
        Task(1, "f", bytes(16 * 1024)),
        Task(1, "f", (), items=3, payload_bytes=30),
        Task(1, "f", (b"payload", b"errors"), flags=TaskFlag.RETRY_ON),
    ],
    ids=["needs", "large buffers", "a subtask", "a long payload", "items of a map()", "two parts"],
)
def test_some_tasks_wait_for_the_dispatcher(task: Task, hatch: FakeHatch) -> None:
    ticket, plain = promise(hatch), make(2)
    ticket.use(task, [task, plain])
    ticket.use(plain, [task, plain])
    overtaken = holders(ticket)
    ticket.use(plain, [plain])

    assert ([], [plain]) == (overtaken, holders(ticket)), "nothing overtakes what came before it"


def test_what_somebody_has_taken_from_the_inbox_is_not_sent_again(hatch: FakeHatch) -> None:
    ticket = promise(hatch)
    ticket.use(make(1), [])

    assert ([], []) == (holders(ticket), hatch.frames)


def test_a_task_that_is_over_before_its_submitter_has_sent_it_does_no_harm(hatch: FakeHatch) -> None:
    class Inbox(list[Task]):
        def __getitem__(self, place: Any) -> Any:
            task = super().__getitem__(place)
            task.payload = ()  # as when the dispatcher was faster
            return task

    ticket, task = promise(hatch), make(1)
    ticket.use(task, Inbox([task]))

    assert ticket.ordinal_sent == 7


def test_what_the_hatch_does_not_take_is_left_to_the_dispatcher() -> None:
    ticket, task = promise(FakeHatch(is_open=False)), make(1)
    ticket.use(task, [task])

    assert ([task], 0) == (holders(ticket), ticket.ordinal_sent)


@pytest.mark.parametrize("moment", range(24))
def test_wherever_the_submitter_is_interrupted_nothing_is_sent_without_a_claim(moment: int, hatch: FakeHatch) -> None:
    ticket, task = promise(hatch), make(1)
    interrupt_at(moment, lambda: ticket.use(task, [task]))

    has_place = ticket.has(task)
    assert ticket.close() is has_place
    assert has_place or not hatch.frames
    assert hatch.frames or not ticket.ordinal_sent
    assert ticket.has(task) is has_place


def test_what_was_sent_and_is_over_is_served(hatch: FakeHatch) -> None:
    ticket, task = promise(hatch), make(3)
    ticket.use(task, [task])
    ticket.close()

    assert task is ticket.served(ticket.worker, [make_outcome(3)])


@pytest.mark.parametrize("odd", ["of another", "of two", "of another attempt", "by another", "with others", "stopped"])
def test_what_is_not_so_simple_goes_the_long_way(odd: str, hatch: FakeHatch) -> None:
    ticket, task = promise(hatch), make(3)
    ticket.use(task, [task])
    outcomes = [make_outcome(4 if odd == "of another" else 3, 2 if odd == "of another attempt" else 1)]
    if odd == "stopped":
        task.state = STOPPING
    if odd == "of two":
        outcomes.append(make_outcome(4))
    if odd == "with others":
        ticket.note(make_outcome(3))
        ticket.use(following := make(5), [task, following])
    ticket.close()
    worker = Worker("w2") if odd == "by another" else ticket.worker

    assert ticket.served(worker, outcomes) is None


def test_what_may_not_have_been_sent_is_not_served(hatch: FakeHatch) -> None:
    """Its submitter was interrupted, or has not come so far. It is sent again, and the worker drops the second."""
    unused, lost, task = promise(hatch), promise(FakeHatch(is_open=False)), make(3)
    lost.use(task, [task])

    assert holders(lost) == [task]
    assert lost.served(lost.worker, [make_outcome(3)]) is None
    assert unused.served(unused.worker, [make_outcome(3)]) is None


def test_the_next_place_is_open_when_the_outcome_before_it_is_known(hatch: FakeHatch) -> None:
    ticket, first, second, third = promise(hatch), make(1), make(2), make(3)
    outcomes = make_outcome(1), make_outcome(2)
    hatch.is_watched = True
    assert ticket.use(first, [first])
    ticket.note(outcomes[0])
    hatch.is_watched = True
    assert ticket.use(second, [first, second])
    assert not ticket.use(third, [first, second, third])
    before = list(ticket.places())
    ticket.note(outcomes[1])
    assert ticket.use(third, [first, second, third])

    assert before == [(first, 7, outcomes[0]), (second, 8, None)]
    assert list(ticket.places()) == [(first, 7, outcomes[0]), (second, 8, outcomes[1]), (third, 9, None)]
    assert [decode_tasks(decode_frame(memoryview(frame)[8:]))[0].ordinal for frame in hatch.frames] == [7, 8, 9]
    assert ticket.ordinal_sent == 9


def test_what_is_noted_when_the_ticket_is_closed_opens_nothing_and_is_for_the_dispatcher() -> None:
    late: deque[LateOutcome] = deque()
    ticket, first, second = promise(FakeHatch(is_watched=True), late), make(1), make(2)
    ticket.use(first, [first])
    ticket.close()
    known = list(ticket.places())
    assert not ticket.use(second, [first, second])
    assert not ticket.use(second, [second])
    ticket.note(outcome := make_outcome(1))

    assert list(late) == [(ticket.worker, outcome)]
    assert not ticket.use(second, [first, second])
    assert not ticket.use(second, [second])
    assert known == list(ticket.places()) == [(first, 7, None)]


def test_who_comes_while_a_task_runs_leaves_the_next_place_to_who_waits_for_it(hatch: FakeHatch) -> None:
    ticket, first, other, second = promise(hatch), make(1), make(2), make(3)
    ticket.use(first, [first])
    assert not ticket.use(other, [first, other])
    ticket.note(make_outcome(1))

    assert not ticket.use(second, [first, other, second]), "nothing overtakes"
    assert ticket.use(second, [first, second])


def test_one_of_two_that_want_the_same_place_gets_it(hatch: FakeHatch) -> None:
    ticket, slow, fast, third = promise(hatch), make(1), make(2), make(3)

    class Inbox(list[Task]):
        def __getitem__(self, place: Any) -> Any:
            if hatch.frames == []:
                ticket.use(fast, [fast])  # between the look at the place and the claim
            return super().__getitem__(place)

    assert not ticket.use(slow, Inbox([slow]))
    ticket.note(make_outcome(2))

    assert [(fast, 7, None)] == list(ticket.places())
    assert not ticket.use(third, [fast, third]), "an order that nobody can tell any more is the end of it"
    assert len(hatch.frames) == 1


def test_a_ticket_has_an_end(hatch: FakeHatch) -> None:
    ticket = promise(hatch)
    inbox: list[Task] = []
    for number in range(PLACES_MAX):
        inbox.append(make(number + 1))
        assert ticket.use(inbox[-1], inbox)
        ticket.note(make_outcome(number + 1))
    inbox.append(make(0))

    assert not ticket.use(inbox[-1], inbox)
    assert len(holders(ticket)) == PLACES_MAX


def test_a_worker_is_asked_to_answer_once_for_each_who_has_waited() -> None:
    hatch = FakeHatch(is_watched=True)
    ticket, first, second = promise(hatch), make(1), make(2)
    ticket.use(first, [first])
    ticket.note(make_outcome(1))
    ticket.use(second, [first, second])

    flags = [decode_tasks(decode_frame(memoryview(frame)[8:]))[0].flags for frame in hatch.frames]
    assert [TaskFlag.ANSWER, 0] == flags
    assert (True, False) == (ticket.will_answer(first), ticket.will_answer(second))


@pytest.mark.parametrize("moment", range(24))
def test_a_future_knows_its_ticket_before_anybody_sees_that_its_task_has_a_place(moment: int, hatch: FakeHatch) -> None:
    future: CrewFuture[int] = CrewFuture()
    ticket, task = promise(hatch), make(1, handle=future)
    interrupt_at(moment, lambda: ticket.use(task, [task]))

    assert future._ticket is ticket or not ticket.has(task)


def test_a_future_without_a_place_forgets_the_ticket(hatch: FakeHatch) -> None:
    future: CrewFuture[int] = CrewFuture()
    ticket, task = promise(hatch), make(1, handle=future)

    class Inbox(list[Task]):
        def __getitem__(self, place: Any) -> Any:
            ticket.close()
            return super().__getitem__(place)

    assert not ticket.use(task, Inbox([task]))
    assert future._ticket is None
