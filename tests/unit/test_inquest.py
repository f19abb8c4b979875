"""Checks that the end of a worker waits for the scheduler's word, and not for long."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, cast

from crew_executor.connection import Connection
from crew_executor.inquest import WHY_SECONDS, Inquest
from crew_executor.launchers import JobState, JobStatus, WorkerExit
from crew_executor.mailbox import Mailbox

END = WorkerExit("w-1", 7, exitcode=-15, is_taken_away=True)


class Desk:
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[Hashable], Callable[..., None]]] = []

    def ask(self, handles: Sequence[Hashable], then: Callable[..., None]) -> None:
        """Answer nothing yet."""
        self.asked.append((handles, then))


class World:
    """An inquest with one worker in it."""

    def __init__(self) -> None:
        self.desk, self.mailbox = Desk(), Mailbox()
        self.inquest = Inquest(self.desk, self.mailbox)
        self.told: list[tuple[Any, WorkerExit]] = []
        self.worker = cast(Connection, object())
        self.inquest.open("17", self.worker, END, lambda *told: self.told.append(told), 100.0)

    def run(self) -> None:
        """Do what is in the mailbox."""
        for function, arguments in self.mailbox.take(0):
            function(*arguments)


def test_the_schedulers_words_are_in_the_end_that_is_told() -> None:
    world = World()
    ((handles, then),) = world.desk.asked
    assert handles == ["17"]
    assert world.told == []
    assert world.inquest.next_wake() == [100.0 + WHY_SECONDS]

    then({"17": JobStatus(JobState.RUNNING, "COMPLETING (TimeLimit)")})

    ((worker, end),) = world.told
    assert worker is world.worker
    assert end.describe() == "killed by SIGTERM: COMPLETING (TimeLimit)"
    assert end.is_taken_away
    assert world.inquest.next_wake() == []


def test_what_is_said_already_is_not_said_twice() -> None:
    world = World()
    world.desk.asked[0][1]({"17": JobStatus(JobState.ENDED, "SIGTERM")})

    assert world.told[0][1] == END


def test_no_answer_is_told_as_it_is() -> None:
    world = World()
    world.desk.asked[0][1]({})

    assert world.told == [(world.worker, END)]


def test_an_answer_that_does_not_come_is_not_waited_for_and_is_of_no_use_later() -> None:
    world = World()
    world.inquest.watch(100.0 + WHY_SECONDS - 0.1)
    world.run()
    assert world.told == []

    world.inquest.watch(100.0 + WHY_SECONDS)
    world.run()
    assert world.told == [(world.worker, END)]

    world.desk.asked[0][1]({"17": JobStatus(JobState.ENDED, "TIMEOUT")})
    world.inquest.watch(200.0)
    world.run()
    assert len(world.told) == 1
