"""Promises of an idle worker's next place: one task has it, everybody can see which, wherever its submitter stopped."""

from __future__ import annotations

from typing import Any, cast

import pytest

from crew_executor.core.budget import Budget
from crew_executor.core.messages import Kind, TaskFlag, decode_frame, decode_tasks
from crew_executor.core.task import STOPPING, Task
from crew_executor.core.worker import Worker
from crew_executor.hatch import Hatch
from crew_executor.ticket import Ticket

from .fakes import interrupt_at, make_outcome


class FakeHatch:
    """Keep what is sent."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.frames: list[bytes] = []
        self.is_open = is_open

    def send(self, frame: bytes) -> bool:
        if self.is_open:
            self.frames.append(frame)
        return self.is_open


@pytest.fixture
def hatch() -> FakeHatch:
    return FakeHatch()


def promise(hatch: FakeHatch) -> Ticket:
    worker = Worker("w1")
    worker.ordinal = 6
    return Ticket(worker, cast(Hatch, hatch), 77)


def make(task_id: int, **options: Any) -> Task:
    return Task(task_id, "f", b"payload", **options)


def test_the_first_task_has_the_place(hatch: FakeHatch) -> None:
    ticket, first = promise(hatch), make(1)
    ticket.use(first, [first])
    second = make(2)
    ticket.use(second, [second])

    assert (first, True, 1) == (ticket.holder, ticket.is_sent, len(hatch.frames))
    assert ticket.close()


def test_its_frame_is_what_the_dispatcher_would_send_but_without_a_number(hatch: FakeHatch) -> None:
    ticket = promise(hatch)
    task = Task(3, "f", b"payload", flags=TaskFlag.CATCH_OUTPUT, budget=Budget(timeout=1.5))
    assert ticket.use(task, [task])

    frame = decode_frame(memoryview(hatch.frames[0])[8:])
    (item,) = decode_tasks(frame)
    assert (Kind.TASKS, 77, 0, 0) == (frame.kind, frame.run, frame.sequence, frame.ack)
    assert (7, 3, 1, TaskFlag.CATCH_OUTPUT, 1.5) == (item.ordinal, item.task_id, item.attempt, item.flags, item.timeout)
    assert (b"payload",) == tuple(map(bytes, item.parts))


def test_a_closed_ticket_is_of_no_use(hatch: FakeHatch) -> None:
    ticket = promise(hatch)

    assert not ticket.close()
    late = make(1)
    ticket.use(late, [late])
    assert (None, False, []) == (ticket.holder, ticket.is_sent, hatch.frames)


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
    overtaken = ticket.holder
    ticket.use(plain, [plain])

    assert (None, plain) == (overtaken, ticket.holder), "nothing overtakes what came before it"


def test_what_somebody_has_taken_from_the_inbox_is_not_sent_again(hatch: FakeHatch) -> None:
    ticket = promise(hatch)
    ticket.use(make(1), [])

    assert (None, []) == (ticket.holder, hatch.frames)


def test_a_task_that_is_over_before_its_submitter_has_sent_it_does_no_harm(hatch: FakeHatch) -> None:
    class Inbox(list[Task]):
        def __getitem__(self, place: Any) -> Any:
            task = super().__getitem__(place)
            task.payload = ()  # as when the dispatcher was faster
            return task

    ticket, task = promise(hatch), make(1)
    ticket.use(task, Inbox([task]))

    assert ticket.is_sent


def test_what_the_hatch_does_not_take_is_left_to_the_dispatcher() -> None:
    ticket, task = promise(FakeHatch(is_open=False)), make(1)
    ticket.use(task, [task])

    assert (task, False) == (ticket.holder, ticket.is_sent)


@pytest.mark.parametrize("moment", range(24))
def test_wherever_the_submitter_is_interrupted_nothing_is_sent_without_a_claim(moment: int, hatch: FakeHatch) -> None:
    ticket, task = promise(hatch), make(1)
    interrupt_at(moment, lambda: ticket.use(task, [task]))

    assert ticket.close() is (ticket.holder is task)
    assert ticket.holder is task or not hatch.frames
    assert hatch.frames or not ticket.is_sent


def test_what_was_sent_and_is_over_is_served(hatch: FakeHatch) -> None:
    ticket, task = promise(hatch), make(3)
    ticket.use(task, [task])

    assert task is ticket.served(ticket.worker, [make_outcome(3)], [task])


@pytest.mark.parametrize("odd", ["of another", "of two", "of another attempt", "by another", "with others", "stopped"])
def test_what_is_not_so_simple_goes_the_long_way(odd: str, hatch: FakeHatch) -> None:
    ticket, task = promise(hatch), make(3)
    ticket.use(task, [task])
    outcomes = [make_outcome(4 if odd == "of another" else 3, 2 if odd == "of another attempt" else 1)]
    if odd == "stopped":
        task.state = STOPPING
    if odd == "of two":
        outcomes.append(make_outcome(4))
    worker = Worker("w2") if odd == "by another" else ticket.worker
    inbox = [task, make(5)] if odd == "with others" else [task]

    assert ticket.served(worker, outcomes, inbox) is None


def test_what_may_not_have_been_sent_is_not_served(hatch: FakeHatch) -> None:
    """Its submitter was interrupted, or has not come so far. It is sent again, and the worker drops the second."""
    unused, lost, task = promise(hatch), promise(FakeHatch(is_open=False)), make(3)
    lost.use(task, [task])

    assert lost.holder is task
    assert lost.served(lost.worker, [make_outcome(3)], [task]) is None
    assert unused.served(unused.worker, [make_outcome(3)], [task]) is None
