"""The memory shared with a worker: claims, withdrawals, the outbox and deadlines, all sides driven step by step."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from crew_executor.cell import _DEADLINE, OUTBOX_BYTES, Cell, create_file

NEVER = float("inf")


@pytest.fixture(params=["membarrier", "lock"])
def sides(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cell, Cell]]:
    """A worker's and a client's view of one memory, with each of the two barriers."""
    if request.param == "lock":
        monkeypatch.setenv("CREW_EXECUTOR_NO_MEMBARRIER", "1")
    monkeypatch.setattr("crew_executor.cell._membarrier", None)
    fd = create_file()
    worker, client = Cell(fd), Cell(os.dup(fd))
    worker.adopt()
    yield worker, client
    worker.close()
    client.close()


def test_the_client_sees_what_was_started_and_finished(sides: tuple[Cell, Cell]) -> None:
    worker, client = sides
    claimed = [worker.claim(1)]
    worker.finish(1)
    claimed.append(worker.claim(2))

    assert claimed == [True, True]
    assert (client.started, client.finished) == (2, 1)
    assert client.started_at > 0


def test_a_withdrawal_keeps_what_has_started(sides: tuple[Cell, Cell]) -> None:
    worker, client = sides
    worker.claim(1)
    worker.claim(2)

    assert client.withdraw(5) == 2
    assert [worker.claim(ordinal) for ordinal in (3, 4, 5, 6)] == [False, False, False, True]


def test_a_second_withdrawal_does_not_revive_what_the_first_took(sides: tuple[Cell, Cell]) -> None:
    """The worker has marked a withdrawn task as started and is about to skip it when the client withdraws again."""
    worker, client = sides
    worker.claim(1)
    first = client.withdraw(5)
    skipped = worker.claim(3)
    second = client.withdraw(8)

    assert (first, skipped, second) == (1, False, 1)
    assert [worker.claim(ordinal) for ordinal in (4, 5, 6, 7, 8, 9)] == [False] * 5 + [True]


def test_a_withdrawal_after_new_tasks_have_started_keeps_them(sides: tuple[Cell, Cell]) -> None:
    worker, client = sides
    worker.claim(1)
    client.withdraw(5)
    for ordinal in (2, 3, 4, 5):
        worker.claim(ordinal)
    started = worker.claim(6)

    assert started
    assert client.withdraw(9) == 6
    assert not worker.claim(7)


def test_a_withdrawal_of_an_idle_worker_takes_nothing(sides: tuple[Cell, Cell]) -> None:
    worker, client = sides
    worker.claim(1)
    worker.finish(1)

    assert client.withdraw(1) == 1
    assert worker.claim(2)


def test_the_outbox_is_read_whole_and_emptied(sides: tuple[Cell, Cell]) -> None:
    worker, client = sides
    put = [worker.put(b"one"), worker.put(b"two")]
    full = client.read_outbox()
    worker.clear()

    assert put == [True, True]
    assert full == bytes(worker.peek()) + b"onetwo"
    assert client.read_outbox() == b""


def test_what_does_not_fit_into_the_outbox_is_refused(sides: tuple[Cell, Cell]) -> None:
    worker, client = sides
    worker.put(bytes(OUTBOX_BYTES - 1))

    assert not worker.put(b"ab")
    assert worker.put(b"a")
    assert len(client.read_outbox()) == OUTBOX_BYTES


def test_memory_without_memfd_comes_from_a_nameless_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREW_EXECUTOR_NO_MEMFD", "1")
    cell = Cell(create_file())

    assert os.fstat(cell.fd).st_nlink == 0
    cell.close()
    cell.close()


# ---------------------------------------------------------------------- deadlines


def test_a_worker_that_runs_nothing_has_no_deadline(sides: tuple[Cell, Cell]) -> None:
    worker, supervisor = sides
    fresh = supervisor.deadline()
    worker.claim(1)

    assert fresh == supervisor.deadline() == (0, NEVER)


def test_the_supervisor_sees_until_when_the_running_task_may_run(sides: tuple[Cell, Cell]) -> None:
    worker, supervisor = sides
    worker.claim(3)
    worker.set_deadline(3, 12.5)

    assert supervisor.deadline() == (3, 12.5)


def test_a_deadline_ends_with_its_task(sides: tuple[Cell, Cell]) -> None:
    worker, supervisor = sides
    worker.claim(1)
    worker.set_deadline(1, 12.5)
    worker.end(1)  # its outcome is not handed over yet: the client may be slow to take it
    ended = supervisor.deadline()
    worker.finish(1)
    worker.claim(2)

    assert ended == supervisor.deadline() == (0, NEVER)
    assert 1 == supervisor.ended


def test_a_deadline_counts_for_the_task_that_it_was_set_for_while_the_next_one_is_being_written(
    sides: tuple[Cell, Cell],
) -> None:
    """The worker writes the time first, then whose it is: between the two the pair is of two tasks."""
    worker, supervisor = sides
    worker.claim(1)
    worker.set_deadline(1, 12.5)
    worker.finish(1)
    worker.claim(2)
    worker._clocks[_DEADLINE] = 99.0

    assert supervisor.deadline() == (0, NEVER)


def test_a_worker_that_skips_withdrawn_tasks_has_no_deadline(sides: tuple[Cell, Cell]) -> None:
    worker, supervisor = sides
    worker.claim(1)
    worker.set_deadline(1, 12.5)
    worker.finish(1)
    supervisor.withdraw(2)

    assert not worker.claim(2)
    assert supervisor.deadline() == (0, NEVER)


@pytest.mark.parametrize(
    ("plan", "deadline", "must_wake"),
    [(None, 5.0, True), (10.0, 5.0, True), (10.0, 10.0, False), (10.0, 15.0, False), (NEVER, 1e9, True)],
)
def test_the_supervisor_is_woken_for_a_deadline_before_its_next_look_and_for_the_first(
    sides: tuple[Cell, Cell], plan: float | None, deadline: float, must_wake: bool
) -> None:
    worker, supervisor = sides
    if plan is not None:
        supervisor.plan_look(plan)
    worker.claim(1)

    # Without a barrier nobody knows whether the plan that is read is the present one.
    assert worker.set_deadline(1, deadline) is (must_wake or worker._locks)


def test_an_interrupt_is_for_one_task_alone(sides: tuple[Cell, Cell]) -> None:
    worker, supervisor = sides
    worker.claim(4)
    before = worker.is_to_be_interrupted(4)
    supervisor.interrupt(4)

    assert not before
    assert [worker.is_to_be_interrupted(ordinal) for ordinal in (3, 4, 5)] == [False, True, False]


def test_the_client_learns_for_whose_timeout_a_worker_was_killed(sides: tuple[Cell, Cell]) -> None:
    _worker, client = sides
    before = client.timed_out
    client.mark_timed_out(7)

    assert (before, client.timed_out) == (0, 7)


def test_what_the_supervisor_writes_leaves_claims_and_the_outbox_alone(sides: tuple[Cell, Cell]) -> None:
    worker, supervisor = sides
    worker.claim(1)
    worker.put(b"one")
    supervisor.interrupt(2**60)
    supervisor.mark_timed_out(2**60)
    supervisor.plan_look(NEVER)

    assert worker.claim(2)
    assert (supervisor.started, supervisor.finished, supervisor.read_outbox()) == (2, 0, b"one")
    assert supervisor.withdraw(5) == 2
