"""Checks the story of a task, told from its record."""

from __future__ import annotations

from concurrent.futures import CancelledError

from crew_executor import TaskTimeoutError, WorkerCrashError
from crew_executor.core.messages import Outcome, OutcomeFlag
from crew_executor.notes import add_note
from crew_executor.post_mortem import tell
from crew_executor.records import TaskRecord, TaskWarning


def test_a_task_that_has_not_begun() -> None:
    record = TaskRecord("square", "m.square")

    assert tell(record, ()) == "task square, a call of m.square, is not done: it waits for a worker"
    assert tell(record, (), is_running=True).endswith(" is not done: it runs, or is the next at its worker")


def test_a_task_that_has_succeeded() -> None:
    record = TaskRecord(
        "m.square", "m.square", "success", result=4, seconds=0.25, worker="w-1", host="h1", pid=7, submitted=1.0,
        started=1.5, queue_seconds=0.5, cpu_seconds=0.125, max_rss=20_000_000, attempts=1, seed=3,
        warnings=(TaskWarning("careful", "UserWarning", "m.py", 3),), output="a\nb\n",
    )  # fmt: skip
    first, submitted, started, *others = tell(record, ()).splitlines()

    assert first == "task m.square has succeeded"
    assert submitted.startswith("  submitted at ")
    assert submitted.endswith(":01.000")
    assert started.endswith(":01.500, 0.500 s later")
    assert others == [
        "  ran for 0.250 s, with 0.125 s of CPU time",
        "  at worker w-1 (pid 7 on h1); it has had at most 20 MB of memory",
        "  its random numbers began at seed 3",
        "  UserWarning: careful (m.py:3)",
        "  it has written:",
        "    a",
        "    b",
    ]


def test_earlier_attempts_come_in_their_order() -> None:
    report = b'{"type_name": "ValueError", "text": "no"}'
    first = Outcome(1, 1, int(OutcomeFlag.ERROR), (b"", report), 1.0, 0.5, 0.1, 0)
    error = ValueError("no")
    record = TaskRecord("f", "f", "error", error=error, traceback="Traceback:\n  ValueError: no\n", attempts=3)

    assert tell(record, (first, "worker w-1 was lost")).splitlines() == [
        "task f has failed, in attempt 3",
        "  attempt 1: ValueError: no (after 0.500 s)",
        "  attempt 2: worker w-1 was lost",
        "  its error:",
        "    Traceback:",
        "      ValueError: no",
    ]


def test_what_is_no_error_of_the_function_is_told_without_a_traceback() -> None:
    error = TaskTimeoutError("task f took longer than timeout=1 s")
    record = TaskRecord("f", "f", "timeout", error=error, traceback="Traceback: of our own")

    assert tell(record, ()).splitlines() == [
        "task f took too long",
        "  why:",
        "    took longer than timeout=1 s",
    ]


def test_nothing_is_told_twice() -> None:
    first = "worker w-1 was lost"
    lost = WorkerCrashError("task f (attempt 2): worker w-2 was lost: killed by SIGKILL")
    failed = ValueError("no")
    for error in (lost, failed):
        add_note(error, f"attempt 1 failed, too: {first}")
        add_note(error, "and more")
    crash = TaskRecord("f", "f", "crash", error=lost, attempts=2)
    traceback = f"Traceback:\nValueError: no\nattempt 1 failed, too: {first}\nand more\n"
    failure = TaskRecord("f", "f", "error", error=failed, traceback=traceback, attempts=2)
    cancelled = TaskRecord("f", "f", "cancel", error=CancelledError("task f was cancelled"))

    assert tell(crash, (first,)).splitlines() == [
        "task f was lost with its worker, in attempt 2",
        "  attempt 1: worker w-1 was lost",
        "  why:",
        "    worker w-2 was lost: killed by SIGKILL",
        "  more:",
        "    and more",
    ]
    assert tell(failure, (first,)).splitlines() == [
        "task f has failed, in attempt 2",
        "  attempt 1: worker w-1 was lost",
        "  its error:",
        "    Traceback:",
        "    ValueError: no",
        "    and more",
    ]
    assert tell(cancelled, ()) == "task f was cancelled"
