"""Checks the words of events in the log."""

from __future__ import annotations

from crew_executor.event_log import describe
from crew_executor.events import PoolEvent, TaskEvent, WorkerEvent


def test_tasks() -> None:
    task = TaskEvent("f", "success", "w-1", 1.0, 2.5, 0.25, 1, True, 1, 0, 0, "")

    words = describe(task)
    assert words.startswith("task f: success, at w-1, began ")
    assert words.endswith(".500, ran 0.250000 s")
    again = task._replace(status="error", attempt=2, is_last=False, error="ValueError: no")
    assert describe(again).endswith("attempt 2, to be run again: ValueError: no")
    assert describe(task._replace(items=7)).startswith("7 items of f: success")
    assert describe(task._replace(status="cancel", worker="", started=None, seconds=None)) == "task f: cancel"


def test_workers_and_the_pool() -> None:
    assert describe(WorkerEvent("launched", 1.0, "w-1", "", None, "", is_lost=False)) == "worker w-1 launched"
    gone = WorkerEvent("gone", 1.0, "w-1", "h1", 7, "killed by SIGKILL", is_lost=True)
    assert describe(gone) == "worker w-1 (pid 7 on h1) gone: killed by SIGKILL"
    pool = PoolEvent(1.0, 3, 2, 1, 4, "launch 4: why")
    assert describe(pool) == "3 tasks queued, 2 at workers; 1 workers ready, 4 starting; launch 4: why"
    assert describe(pool._replace(decision="")).endswith("4 starting")
