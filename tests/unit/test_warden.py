"""Checks warden.py with real cells and a fake kernel: who is interrupted, frozen, killed or let go, and when."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from crew_executor import warden as module
from crew_executor.cell import Cell, create_file
from crew_executor.core.stopping import FREEZE_SECONDS, GRACE_SECONDS
from crew_executor.warden import NEVER, Warden

PID, OTHER = 4001, 4002
NOW = 1000.0
GRACE_OVER = NOW + GRACE_SECONDS
INTERRUPT, FREEZE, THAW, KILL = signal.SIGINT, signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL


class Kernel:
    """Note signals; know who stands still."""

    def __init__(self) -> None:
        self.signals: list[tuple[int, int]] = []
        self.frozen: set[int] = set()
        self.reaped: set[int] = set()
        self.groups: dict[int, int] = {}  # of those that are not the leaders of their own

    def getpgid(self, pid: int) -> int:
        if pid in self.reaped:
            raise ProcessLookupError
        return self.groups.get(pid, pid)

    def kill(self, pid: int, number: int) -> None:
        if pid in self.reaped:
            raise ProcessLookupError
        self.signals.append((pid, number))

    def waitid(self, kind: int, pid: int, options: int) -> SimpleNamespace | None:
        assert os.P_PID == kind
        assert options & os.WNOHANG, "the supervisor never waits"
        assert options & os.WNOWAIT, "an exit is for _reap() to collect"
        if pid in self.reaped:
            raise ChildProcessError
        return SimpleNamespace(si_pid=pid) if pid in self.frozen else None

    def take(self) -> list[tuple[int, int]]:
        signals, self.signals = self.signals, []
        return signals


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(os, "kill", kernel.kill)
    monkeypatch.setattr(os, "killpg", kernel.kill)
    monkeypatch.setattr(os, "getpgid", kernel.getpgid)
    monkeypatch.setattr(os, "waitid", kernel.waitid, raising=False)
    return kernel


@pytest.fixture
def warden() -> Iterator[Warden]:
    warden = Warden()
    yield warden
    warden.close()


Admit = Callable[[int], Cell]


@pytest.fixture
def admit(warden: Warden) -> Iterator[Admit]:
    """Admit workers; what is returned is the worker's own view of its cell."""
    cells = []

    def admit(pid: int) -> Cell:
        cell = Cell(create_file())
        cells.append(cell)
        warden.admit(pid, os.dup(cell.fd))
        return cell

    yield admit
    for cell in cells:
        cell.close()


def start(cell: Cell, ordinal: int, deadline: float | None = None) -> None:
    """Do what a worker does before a task."""
    assert cell.claim(ordinal)
    if deadline is not None:
        cell.set_deadline(ordinal, deadline)


def go_on(cell: Cell, ordinal: int, deadline: float | None = None) -> None:
    """Finish what runs, and start the next one."""
    cell.finish(ordinal - 1)
    start(cell, ordinal, deadline)


# ---------------------------------------------------------------------- when to look


def test_without_deadlines_there_is_nothing_to_look_for(warden: Warden, admit: Admit) -> None:
    alone = warden.look(NOW)
    start(admit(PID), 1)

    assert NEVER == alone == warden.look(NOW)


def test_the_next_look_is_at_the_earliest_deadline_of_all_workers(warden: Warden, admit: Admit, kernel: Kernel) -> None:
    start(admit(PID), 1, NOW + 20)
    start(admit(OTHER), 5, NOW + 10)

    assert NOW + 10 == warden.look(NOW)
    assert [] == kernel.take()


def test_every_worker_is_told_when_the_next_look_is(warden: Warden, admit: Admit) -> None:
    """So that a stream of tasks with equal timeouts wakes the supervisor once per timeout."""
    first, second = admit(PID), admit(OTHER)
    first.adopt()
    second.adopt()
    start(first, 1, NOW + 10)
    start(second, 1)
    warden.look(NOW)
    go_on(second, 2)

    assert second.set_deadline(2, NOW + 9)
    assert second._locks or not second.set_deadline(2, NOW + 10)


def test_a_deadline_that_was_set_while_the_look_was_planned_is_not_missed(
    warden: Warden, admit: Admit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has seen the former plan and woken nobody; the supervisor looks again after the barrier."""
    cell = admit(PID)
    monkeypatch.setattr(module, "run_barrier", lambda: start(cell, 1, NOW + 3))

    assert NOW + 3 == warden.look(NOW)


def test_a_deadline_of_a_task_that_is_over_is_not_waited_for(warden: Warden, admit: Admit, kernel: Kernel) -> None:
    cell = admit(PID)
    start(cell, 1, NOW + 10)
    warden.look(NOW)
    go_on(cell, 2)

    assert NEVER == warden.look(NOW + 10)
    assert [] == kernel.take()


# ---------------------------------------------------------------------- a task past its deadline


def test_a_task_past_its_deadline_is_interrupted_then_its_worker_frozen_then_killed(
    warden: Warden, admit: Admit, kernel: Kernel
) -> None:
    cell = admit(PID)
    start(cell, 7, NOW)
    looks = [warden.look(NOW)]
    interrupted = cell.is_to_be_interrupted(7)
    signals = kernel.take()
    looks.append(warden.look(GRACE_OVER))
    signals += kernel.take()
    before = cell.timed_out
    kernel.frozen.add(PID)
    warden.look(GRACE_OVER + 0.001)

    assert [(PID, INTERRUPT), (PID, FREEZE), (PID, KILL)] == signals + kernel.take()
    assert [GRACE_OVER, GRACE_OVER + FREEZE_SECONDS] == looks
    assert interrupted
    assert (0, 7) == (before, cell.timed_out)


def test_a_worker_that_cannot_freeze_is_killed_all_the_same(warden: Warden, admit: Admit, kernel: Kernel) -> None:
    cell = admit(PID)
    start(cell, 7, NOW)
    for now in (NOW, GRACE_OVER, GRACE_OVER + FREEZE_SECONDS / 2, GRACE_OVER + FREEZE_SECONDS):
        warden.look(now)

    assert [(PID, INTERRUPT), (PID, FREEZE), (PID, KILL)] == kernel.take()
    assert 7 == cell.timed_out


def test_a_worker_that_a_task_has_moved_to_another_group_is_killed_with_the_one_it_had(
    warden: Warden, admit: Admit, kernel: Kernel
) -> None:
    start(admit(PID), 7, NOW)
    kernel.groups[PID] = 1
    for now in (NOW, GRACE_OVER, GRACE_OVER + FREEZE_SECONDS):
        warden.look(now)

    assert [(PID, INTERRUPT), (PID, FREEZE), (PID, KILL), (PID, KILL)] == kernel.take(), "the group, and the worker"


def test_a_task_that_heeds_its_interrupt_costs_nobody_anything(warden: Warden, admit: Admit, kernel: Kernel) -> None:
    cell = admit(PID)
    start(cell, 7, NOW)
    warden.look(NOW)
    kernel.take()
    go_on(cell, 8, NOW + 60)

    assert NOW + 60 == warden.look(GRACE_OVER)
    assert [] == kernel.take()
    assert 0 == cell.timed_out


def test_the_next_task_has_a_deadline_of_its_own_also_if_it_passes_before_the_next_look(
    warden: Warden, admit: Admit, kernel: Kernel
) -> None:
    cell = admit(PID)
    start(cell, 7, NOW)
    warden.look(NOW)
    go_on(cell, 8, NOW + 0.1)
    kernel.take()
    again = warden.look(GRACE_OVER)
    warden.look(GRACE_OVER)

    assert again <= GRACE_OVER, "at once"
    assert [(PID, INTERRUPT)] == kernel.take()
    assert cell.is_to_be_interrupted(8)


def test_a_worker_that_went_on_before_it_stood_still_is_let_go(warden: Warden, admit: Admit, kernel: Kernel) -> None:
    cell = admit(PID)
    start(cell, 7, NOW)
    warden.look(NOW)
    warden.look(GRACE_OVER)
    go_on(cell, 8)
    kernel.frozen.add(PID)
    kernel.take()

    assert NEVER == warden.look(GRACE_OVER + 0.001)
    assert [(PID, THAW)] == kernel.take()
    assert 0 == cell.timed_out


def test_workers_are_judged_one_by_one(warden: Warden, admit: Admit, kernel: Kernel) -> None:
    start(admit(PID), 7, NOW)
    start(admit(OTHER), 7, NOW + 0.2)

    assert NOW + 0.2 == warden.look(NOW)
    assert GRACE_OVER == warden.look(NOW + 0.2)
    assert [(PID, INTERRUPT), (OTHER, INTERRUPT)] == kernel.take()


# ---------------------------------------------------------------------- orders of the client


def test_an_order_is_carried_out_like_a_deadline_but_is_no_timeout(
    warden: Warden, admit: Admit, kernel: Kernel
) -> None:
    cell = admit(PID)
    start(cell, 7)
    warden.order_stop(PID, 7)
    warden.look(NOW)
    warden.look(GRACE_OVER)
    kernel.frozen.add(PID)

    assert NEVER == warden.look(GRACE_OVER)
    assert [(PID, INTERRUPT), (PID, FREEZE), (PID, KILL)] == kernel.take()
    assert 0 == cell.timed_out


def test_an_order_that_is_repeated_or_late_changes_nothing(warden: Warden, admit: Admit, kernel: Kernel) -> None:
    start(admit(PID), 7)
    warden.order_stop(PID, 7)
    warden.look(NOW)
    warden.order_stop(PID, 7)
    warden.order_stop(PID, 6)
    warden.look(GRACE_OVER)

    assert [(PID, INTERRUPT), (PID, FREEZE)] == kernel.take()


@pytest.mark.parametrize("ordinal", [6, 8])
def test_an_order_for_a_task_that_does_not_run_hits_nobody(
    warden: Warden, admit: Admit, kernel: Kernel, ordinal: int
) -> None:
    start(admit(PID), 7)
    warden.order_stop(PID, ordinal)

    assert NEVER == warden.look(NOW)
    assert [] == kernel.take()


def test_an_order_for_the_next_task_begins_anew(warden: Warden, admit: Admit, kernel: Kernel) -> None:
    cell = admit(PID)
    start(cell, 7, NOW)
    warden.look(NOW)
    go_on(cell, 8)
    warden.order_stop(PID, 8)

    looks = [warden.look(NOW + 0.1), warden.look(NOW + 0.1 + GRACE_SECONDS), warden.look(NOW + 60)]

    assert [NOW + 0.1 + GRACE_SECONDS, NOW + 0.1 + GRACE_SECONDS + FREEZE_SECONDS, NEVER] == looks
    assert [INTERRUPT, INTERRUPT, FREEZE, KILL] == [number for _pid, number in kernel.take()]
    assert 0 == cell.timed_out, "the timeout was the former task's"


def test_an_order_for_the_next_task_lets_a_frozen_worker_go_first(warden: Warden, admit: Admit, kernel: Kernel) -> None:
    """It could not heed the interrupt while it stands still, and would be killed for nothing."""
    cell = admit(PID)
    start(cell, 7)
    warden.order_stop(PID, 7)
    warden.look(NOW)
    warden.look(GRACE_OVER)
    go_on(cell, 8)
    kernel.frozen.add(PID)
    kernel.take()
    warden.order_stop(PID, 8)
    warden.look(GRACE_OVER)

    assert [(PID, THAW), (PID, INTERRUPT)] == kernel.take()


def test_a_worker_does_not_stand_still_for_ever_if_the_next_order_comes_too_late(
    warden: Warden, admit: Admit, kernel: Kernel
) -> None:
    cell = admit(PID)
    start(cell, 7)
    warden.order_stop(PID, 7)
    warden.look(NOW)
    warden.look(GRACE_OVER)
    go_on(cell, 8)
    go_on(cell, 9)
    kernel.frozen.add(PID)
    kernel.take()
    warden.order_stop(PID, 8)

    assert NEVER == warden.look(GRACE_OVER)
    assert [(PID, THAW)] == kernel.take()


def test_the_deadline_of_the_next_task_lets_a_frozen_worker_go_first(
    warden: Warden, admit: Admit, kernel: Kernel
) -> None:
    cell = admit(PID)
    start(cell, 7)
    warden.order_stop(PID, 7)
    warden.look(NOW)
    warden.look(GRACE_OVER)
    go_on(cell, 8, GRACE_OVER)
    kernel.take()
    warden.look(GRACE_OVER + 0.001)

    assert [(PID, THAW), (PID, INTERRUPT)] == kernel.take()


def test_an_order_for_a_stranger_is_ignored(warden: Warden, kernel: Kernel) -> None:
    warden.order_stop(PID, 7)

    assert NEVER == warden.look(NOW)
    assert [] == kernel.take()


# ---------------------------------------------------------------------- the end of a worker


def test_a_worker_that_ended_by_itself_meanwhile_is_no_error(warden: Warden, admit: Admit, kernel: Kernel) -> None:
    start(admit(PID), 7, NOW)
    kernel.reaped.add(PID)
    for now in (NOW, GRACE_OVER, GRACE_OVER + FREEZE_SECONDS):
        warden.look(now)

    assert [] == kernel.take()


def test_a_worker_that_is_dismissed_is_forgotten_with_its_stop(warden: Warden, admit: Admit, kernel: Kernel) -> None:
    start(admit(PID), 7, NOW)
    warden.look(NOW)
    warden.dismiss(PID)
    warden.dismiss(PID)
    kernel.take()
    start(admit(PID), 7)  # the number is used again

    assert NEVER == warden.look(GRACE_OVER)
    assert [] == kernel.take()


def test_dismissing_and_closing_free_the_descriptors(warden: Warden) -> None:
    fds = {pid: create_file() for pid in (PID, OTHER, 4003)}
    for pid, fd in fds.items():
        warden.admit(pid, fd)
    warden.dismiss(PID)
    open_then = [os.fstat(fds[pid]).st_size > 0 for pid in (OTHER, 4003)]
    warden.close()

    assert [True, True] == open_then
    for fd in fds.values():
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert NEVER == warden.look(NOW)


def test_where_nobody_can_tell_who_stands_still_time_has_to(
    warden: Warden, admit: Admit, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "waitid")
    start(admit(PID), 7, NOW)
    for now in (NOW, GRACE_OVER, GRACE_OVER + FREEZE_SECONDS / 2):
        warden.look(now)
    before = kernel.take()
    warden.look(GRACE_OVER + FREEZE_SECONDS)

    assert [(PID, INTERRUPT), (PID, FREEZE)] == before
    assert [(PID, KILL)] == kernel.take()
