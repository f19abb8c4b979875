"""What an executor tells of itself while it works: timeline() and on_event()."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from crew_executor import CrewExecutor, WorkerCrashError
from crew_executor import events as events_module
from crew_executor.events import Event, PoolEvent, TaskEvent, WorkerEvent

from .helpers import add, append_line, die, identity, touch_and_wait, wait_until, warn


def fail(text: str) -> None:
    raise ValueError(text)


def fail_once(folder: str) -> str:
    """Fail in the first of all runs."""
    try:
        os.mkdir(os.path.join(folder, "tried"))
    except FileExistsError:
        return "done"
    raise RuntimeError("the first run")


def tasks_of(events: list[Event], name: str) -> list[TaskEvent]:
    return [event for event in events if isinstance(event, TaskEvent) and event.name.endswith(name)]


def workers_of(events: list[Event], kind: str) -> list[WorkerEvent]:
    return [event for event in events if isinstance(event, WorkerEvent) and event.kind == kind]


def test_each_end_of_a_task_is_recorded(tmp_path: Path) -> None:
    with CrewExecutor(1, name="seen") as executor:
        recording = executor.timeline()
        executor.submit(add, 1, 2).result()
        executor.submit(fail, "no").exception()
        with pytest.warns(UserWarning, match="careful"):
            executor.submit(warn, "careful").result()
        assert isinstance(executor.submit(die).exception(), WorkerCrashError)
        assert executor.options(retries=1).submit(fail_once, str(tmp_path)).result() == "done"
        running = executor.submit(touch_and_wait, str(tmp_path / "begun"), str(tmp_path / "release"))
        wait_until((tmp_path / "begun").exists, "it runs")
        assert executor.submit(identity, 1).cancel() or True  # it may have been sent ahead
        queued = executor.options(priority=-1, name="unwanted").submit(identity, 2)
        was_cancelled = queued.cancel()
        assert running.kill()
    events = recording.events

    (good,) = tasks_of(events, "add")
    assert (good.status, good.attempt, good.is_last, good.items, good.failures, good.error) == (
        "success", 1, True, 1, 0, "",
    )  # fmt: skip
    assert good.submitted is not None
    assert good.started is not None
    assert good.seconds is not None
    (bad,) = tasks_of(events, ".fail")
    assert (bad.status, bad.failures, bad.error) == ("error", 1, "builtins.ValueError: no")
    (warned,) = tasks_of(events, "warn")
    assert (warned.status, warned.warnings) == ("success", 1)
    (crashed,) = tasks_of(events, "die")
    assert crashed.status == "crash"
    assert "SIGKILL" in crashed.error
    first, second = tasks_of(events, "fail_once")
    assert (first.status, first.attempt, first.is_last) == ("error", 1, False)
    assert (second.status, second.attempt, second.is_last) == ("success", 2, True)
    (killed,) = tasks_of(events, "touch_and_wait")
    assert (killed.status, killed.worker) == ("cancel", workers_of(events, "joined")[-1].worker)
    assert [event.status for event in tasks_of(events, "unwanted")] == ["cancel" if was_cancelled else "success"]


def test_workers_are_told_from_launch_to_end() -> None:
    with CrewExecutor(1) as executor:
        recording = executor.timeline()
        pid = executor.submit(os.getpid).result()
        executor.submit(die).exception()
        executor.submit(add, 1, 2).result()
    events = recording.events

    lost, left = workers_of(events, "gone")
    assert (lost.pid, lost.is_lost, lost.words) == (pid, True, "killed by SIGKILL")
    assert (left.is_lost, left.words) == (False, "left")
    assert [event.worker for event in workers_of(events, "launched")] == [lost.worker, left.worker]
    assert [event.worker for event in workers_of(events, "joined")] == [lost.worker, left.worker]
    pool = [event for event in events if isinstance(event, PoolEvent)]
    assert pool[-1][1:5] == (0, 0, 0, 0)
    assert any(event.decision.startswith("launch 1") for event in pool)


def test_items_of_a_map_are_told_as_they_were_done() -> None:
    with CrewExecutor(2) as executor:
        recording = executor.timeline()
        assert list(executor.map(identity, range(500))) == list(range(500))
        with pytest.raises(ZeroDivisionError):
            list(executor.map(divmod, [1] * 4, [1, 1, 1, 0]))

    assert sum(event.items for event in tasks_of(recording.events, "identity")) == 500
    divided = tasks_of(recording.events, "divmod")
    assert sum(event.items for event in divided) == 4
    assert sum(event.failures for event in divided) == 1
    assert [event.status for event in divided if event.failures] == ["error"]


def submit_to(executor: CrewExecutor) -> int:
    executor.submit(fail, "inner").exception()
    return sum(executor.submit(add, number, 1).result() for number in range(3))


def test_what_tasks_submit_is_told_too() -> None:
    with CrewExecutor(2) as executor:
        recording = executor.timeline()
        assert executor.submit(submit_to, executor).result(timeout=30) == 6
        assert [future.result() for future in executor.run_on_all(identity, 1)] == [1] * len(executor.stats().workers)

    assert [event.status for event in tasks_of(recording.events, "add")] == ["success"] * 3
    assert [event.error for event in tasks_of(recording.events, ".fail")] == ["builtins.ValueError: inner"]


def test_who_listens_late_is_told_who_is_there() -> None:
    with CrewExecutor(1) as executor:
        executor.submit(add, 1, 2).result()
        recording = executor.timeline()
        assert executor.timeline() is recording
        executor.submit(identity, 1).result()
        executor.submit(die).exception()  # so that its end is there, too
    (launched, *_others) = workers_of(recording.events, "launched")

    assert [event.worker for event in workers_of(recording.events, "joined")] == [launched.worker]
    assert tasks_of(recording.events, "add") == []
    assert len(tasks_of(recording.events, "identity")) == 1


def test_nobody_is_told_when_nobody_listens() -> None:
    with CrewExecutor(1) as executor:
        executor.submit(add, 1, 2).result()

        assert executor._dispatcher.events.listeners == ()


def test_a_timeline_is_saved_while_it_runs_and_after(tmp_path: Path) -> None:
    with CrewExecutor(1, name="saved") as executor:
        recording = executor.timeline()
        executor.submit(add, 1, 2).result()
        recording.save(tmp_path / "now.html")
    recording.save(tmp_path / "after.html")
    recording.save(tmp_path / "after.json")

    assert "<title>saved: timeline</title>" in (tmp_path / "now.html").read_text("utf-8")
    assert (tmp_path / "after.html").stat().st_size > (tmp_path / "now.html").stat().st_size
    assert repr(recording).startswith("<Timeline of saved: ")


def test_a_hook_has_been_told_all_when_shutdown_returns() -> None:
    told: list[Event] = []
    threads = set()

    def note(event: Event) -> None:
        told.append(event)
        threads.add(threading.current_thread().name)

    with CrewExecutor(1, name="hooked") as executor:
        executor.on_event(note)
        for _ in range(100):
            executor.submit(add, 1, 2)

    assert len(tasks_of(told, "add")) == 100
    assert len(workers_of(told, "gone")) == 1
    assert threads == {"crew-callbacks-events-hooked"}


def test_a_hook_that_fails_or_blocks_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    go_on = threading.Event()

    def fail_always(event: Event) -> None:
        raise SystemExit("of the hook")

    with CrewExecutor(1) as executor, caplog.at_level(logging.ERROR, "crew_executor"):
        executor.on_event(fail_always)
        executor.on_event(lambda _event: go_on.wait(30))
        assert [executor.submit(add, number, 1).result(timeout=30) for number in range(50)] == list(range(1, 51))
        go_on.set()

    assert "of the hook" in caplog.text


def test_a_hook_that_fails_in_the_same_way_is_told_of_once_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = 0

    def fail_in_two_ways(event: Event) -> None:
        nonlocal events
        events += 1
        if isinstance(event, TaskEvent):
            raise ValueError(f"event {events}")
        raise KeyError("no task")

    def counted() -> list[str]:
        """The lines without a traceback, beside which there are two with one."""
        own = [record for record in caplog.records if record.getMessage().startswith("on_event")]
        lines = [record.getMessage().rpartition(">: ")[2] for record in own if record.exc_info is None]
        assert len(own) == len(lines) + 2
        return lines

    with CrewExecutor(1) as executor, caplog.at_level(logging.ERROR, "crew_executor"):
        executor.on_event(fail_in_two_ways)
        for number in range(50):
            executor.submit(add, number, 1)
    assert len(counted()) == 2
    assert any(line.startswith("49 more failures like builtins.ValueError: event ") for line in counted())

    caplog.clear()
    monkeypatch.setattr(events_module, "FAILURE_SECONDS", 0)
    with CrewExecutor(1) as executor, caplog.at_level(logging.ERROR, "crew_executor"):
        executor.on_event(fail_in_two_ways)
        for number in range(5):
            executor.submit(add, number, 1).result()
    assert sum(line.startswith("1 more failures like builtins.ValueError") for line in counted()) == 4


def test_a_hook_may_use_the_executor(tmp_path: Path) -> None:
    with CrewExecutor(1) as executor:

        def follow(event: Event) -> None:
            if isinstance(event, TaskEvent) and event.name.endswith("add"):
                executor.submit(append_line, str(tmp_path / "lines"), event.status)

        executor.on_event(follow)
        executor.submit(add, 1, 2).result()
        wait_until((tmp_path / "lines").exists, "the task of the hook ran")

    assert (tmp_path / "lines").read_text() == "success\n"


def test_what_cannot_be_called_is_refused() -> None:
    with CrewExecutor(1) as executor, pytest.raises(TypeError, match="on_event"):
        executor.on_event("print")  # type: ignore[arg-type]
