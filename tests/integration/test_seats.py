"""stats().seats and launch_workers(): what workers did, by the places they have in turn; and workers by hand."""

from __future__ import annotations

import os
import signal

import pytest

from crew_executor import BrokenCrewError, CrewExecutor, WorkerCrashError
from crew_executor.launchers import LocalLauncher

from .helpers import identity, wait_until


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_seats_add_up_whatever_becomes_of_the_workers() -> None:
    with CrewExecutor(2, max_tasks_per_child=5) as executor:
        assert [seat.launches for seat in executor.stats().seats] == [0, 0]
        futures = [executor.submit(identity, number) for number in range(40)]
        assert [future.result() for future in futures] == list(range(40))
        with pytest.raises(WorkerCrashError):
            executor.submit(die).result()
        wait_until(lambda: all(w.state == "idle" for w in executor.stats().workers), "leavers have left")
        stats = executor.stats()

        assert sum(seat.tasks_complete for seat in stats.seats) == 40
        assert sum(seat.tasks_assigned for seat in stats.seats) == 41
        assert sum(seat.launches for seat in stats.seats) == stats.launched >= 9
        assert {future.record().seat for future in futures} <= {1, 2}
        assert len(stats.seats) == 2


def test_manual_workers_come_when_they_are_called() -> None:
    with CrewExecutor(2, scaling="manual") as executor:
        future = executor.submit(identity, 1)
        assert executor.stats().launched == 0
        executor.launch_workers(1)

        assert future.result() == 1
        assert executor.stats().launched == 1
        executor.launch_workers(5)
        wait_until(lambda: executor.stats().launched == 2, "no more than max_workers")
        with pytest.raises(ValueError, match="at least 1"):
            executor.launch_workers(0)


def test_workers_can_be_launched_ahead_of_the_work() -> None:
    with CrewExecutor(2) as executor:
        executor.launch_workers(2)
        wait_until(lambda: [w.state for w in executor.stats().workers] == ["idle", "idle"], "both are there")


def test_manual_workers_that_cannot_start_end_in_an_error() -> None:
    launcher = LocalLauncher(python="/nonexistent/python", max_failed_launches=2)
    with CrewExecutor(1, scaling="manual", launcher=launcher) as executor:
        future = executor.submit(identity, 1)
        executor.launch_workers(1)
        with pytest.raises(BrokenCrewError, match="2 launches in a row failed"):
            future.result()
    with pytest.raises((BrokenCrewError, RuntimeError)):
        executor.launch_workers(1)
