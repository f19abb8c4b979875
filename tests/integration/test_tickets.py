"""Tasks that their submitters send themselves: they start at once, run once, and can be cancelled like any other."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crew_executor import BrokenCrewError, CrewExecutor, CrewFuture, dispatcher
from crew_executor.hatch import Hatch

from .helpers import touch_and_wait, wait_until


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(1) as executor:
        executor.submit(int).result()
        yield executor


@pytest.fixture
def _no_switch() -> Iterator[None]:
    """No other thread of this process runs before this one waits for something."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def connection_of(executor: CrewExecutor) -> Any:
    (connection,) = executor._dispatcher._connections.values()
    return connection


def write_line(path: str, line: int) -> int:
    with open(path, "a") as file:
        file.write(f"{line}\n")
    return line


@pytest.mark.usefixtures("_no_switch")
def test_a_worker_has_its_task_before_any_thread_of_ours_has_run(executor: CrewExecutor) -> None:
    connection, until = connection_of(executor), time.monotonic() + 10
    before = connection.cell.started
    future = executor.submit(int, 7)
    while connection.cell.started == before and time.monotonic() < until:
        pass  # this thread computes

    assert connection.cell.started == before + 1
    assert 7 == future.result()


def _send_and_deny(hatch: Hatch, frame: bytes) -> bool:
    SEND(hatch, frame)
    return False  # as if a Ctrl-C had come between the writing and the note of it


def _lose(_hatch: Hatch, _frame: bytes) -> bool:
    return False


_late: list[tuple[Hatch, bytes]] = []


def _send_late(hatch: Hatch, frame: bytes) -> bool:
    """Send what was to be sent the last time."""
    _late.append((hatch, frame))
    if len(_late) > 1:
        SEND(*_late.pop(0))
    return False


SEND = Hatch.send


@pytest.mark.parametrize("send", [_send_and_deny, _lose, _send_late])
def test_a_task_runs_once_whatever_becomes_of_its_frame(
    send: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "lines"
    monkeypatch.setattr(Hatch, "send", send)
    with CrewExecutor(2) as executor:
        one_by_one = [executor.submit(write_line, str(path), line).result() for line in range(50)]
        together = [executor.submit(write_line, str(path), line) for line in range(50, 100)]
        assert list(range(50, 100)) == [future.result() for future in together]
        one_by_one += [executor.submit(write_line, str(path), line).result() for line in range(100, 150)]
    _late.clear()

    assert [*range(50), *range(100, 150)] == one_by_one
    assert list(range(150)) == sorted(map(int, path.read_text().split()))


@pytest.mark.usefixtures("_no_switch")
def test_a_task_that_was_sent_is_not_cancelled_before_it_is_noted(executor: CrewExecutor) -> None:
    future = executor.submit(int, 7)

    assert not future.cancel()
    assert 7 == future.result()


@pytest.mark.usefixtures("_no_switch")
@pytest.mark.parametrize("by", ["kill", "cancel_running"])
def test_a_task_that_was_sent_is_ended_before_it_is_noted(by: str, executor: CrewExecutor, tmp_path: Path) -> None:
    view = executor.options(cancel_running=True) if by == "cancel_running" else executor
    future = view.submit(touch_and_wait, str(tmp_path / "started"), str(tmp_path / "never"))
    is_cancelled = future.kill() if by == "kill" else future.cancel()

    assert is_cancelled
    assert future.cancelled()
    assert 1 == executor.submit(int, 1).result(), "the worker is free again"
    wait_until(lambda: executor.stats().done == 3, "the run has ended")
    # Another one, if the first was interrupted while it imported the function's module.
    pid = executor.submit(os.getpid).result()
    assert pid in {worker.pid for worker in executor.stats().workers}


def test_threads_that_submit_at_once_get_one_place_each(executor: CrewExecutor, tmp_path: Path) -> None:
    path, barrier = tmp_path / "lines", threading.Barrier(8)
    futures: list[CrewFuture[int]] = []

    def submit(number: int) -> None:
        for line in range(number * 100, number * 100 + 50):
            barrier.wait()
            future = executor.submit(write_line, str(path), line)
            futures.append(future)
            future.result()

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    lines = [number * 100 + line for number in range(8) for line in range(50)]
    assert lines == sorted(future.result() for future in futures)
    assert lines == sorted(map(int, path.read_text().split()))


def test_a_worker_that_dies_with_a_task_that_nobody_had_noted_gives_it_back(executor: CrewExecutor) -> None:
    pid = executor.submit(os.getpid).result()
    os.kill(pid, 19)  # SIGSTOP: it takes nothing any more
    future = executor.submit(int, 7)
    os.kill(pid, 9)

    assert 7 == future.result()


def test_a_pool_that_ends_has_no_ticket_left() -> None:
    executor = CrewExecutor(1)
    executor.submit(int).result()
    inbox = executor._dispatcher._inbox
    wait_until(lambda: inbox.ticket is not None, "the dispatcher is done, and has handed a ticket out")
    executor.shutdown()

    assert inbox.ticket is None


@pytest.mark.parametrize("arguments", [{"max_tasks_per_child": 5}, {"max_pending": 9}], ids=str)
def test_some_pools_promise_nothing(arguments: dict[str, int]) -> None:
    with CrewExecutor(1, **arguments) as executor:  # type: ignore[arg-type]
        assert [0, 1, 2] == [executor.submit(int, number).result() for number in range(3)]
        assert executor._dispatcher._inbox.ticket is None


def test_calls_for_all_workers_and_tickets_do_not_meet() -> None:
    with CrewExecutor(2) as executor:
        executor.submit(int).result()
        is_over = threading.Event()
        sums: list[int] = []

        def submit() -> None:
            count = 0
            while not is_over.is_set():
                count += executor.submit(int, 1).result()
            sums.append(count)

        threads = [threading.Thread(target=submit) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(200):
            assert all(future.result() == 0 for future in executor.run_on_all(int))
        is_over.set()
        for thread in threads:
            thread.join()

        assert all(sums)
        assert executor.stats().done == sum(sums) + 1


def _ask(executor: CrewExecutor) -> int:
    return executor.submit(int, 7).result()


def test_a_task_that_nobody_has_noted_may_submit_another(executor: CrewExecutor) -> None:
    for _ in range(20):
        future = executor.submit(_ask, executor)
        until = time.monotonic() + 0.012
        while time.monotonic() < until:
            pass  # this thread keeps the others from noting it
        assert 7 == future.result()


@pytest.mark.parametrize("first", ["a long call", "a map"])
def test_nothing_overtakes_what_was_submitted_before(first: str, executor: CrewExecutor, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for number in range(50):
        if first == "a map":
            executor.map(write_line, [str(path)], [2 * number])
        else:
            executor.submit(_write_line_of, str(path), 2 * number, bytes(20_000))
        executor.submit(write_line, str(path), 2 * number + 1).result()

    assert list(range(100)) == list(map(int, path.read_text().split()))


def _write_line_of(path: str, line: int, _ballast: bytes) -> None:
    write_line(path, line)


def test_what_comes_in_the_turn_in_which_the_dispatcher_fails_ends_with_the_pool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    executor = CrewExecutor(1)
    executor.submit(int).result()
    # While its only worker is busy no reader comes along and takes what is submitted.
    futures: list[CrewFuture[Any]] = [
        executor.submit(touch_and_wait, str(tmp_path / "started"), str(tmp_path / "never"))
    ]
    wait_until((tmp_path / "started").exists, "the task runs")
    dispatcher = executor._dispatcher

    def fail(_wake_at: float | None) -> float | None:
        futures.extend(executor.submit(int) for _ in range(3))
        raise OSError("the dispatcher's last turn")

    monkeypatch.setattr(dispatcher, "_turn", fail)
    dispatcher.mailbox.put(lambda: None)
    wait_until(lambda: len(futures) == 4, "the turn has come")

    assert [BrokenCrewError] * 4 == [type(future.exception(20)) for future in futures]
    executor.shutdown()


def use_tickets(executor: CrewExecutor) -> None:
    """Have the dispatcher glance at the inbox by itself."""
    inbox, until = executor._dispatcher._inbox, time.monotonic() + 10
    while not inbox.is_glanced_at and time.monotonic() < until:
        executor.submit(int).result()
    assert inbox.is_glanced_at


def test_who_glances_at_the_inbox_soon_sleeps_again(executor: CrewExecutor) -> None:
    use_tickets(executor)
    wait_until(lambda: not executor._dispatcher._inbox.is_glanced_at, "the dispatcher waits for somebody to wake it")
    assert executor.submit(int, 7).result() == 7


def test_a_task_that_woke_nobody_is_noticed_all_the_same(
    executor: CrewExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    monkeypatch.setattr(dispatcher, "GLANCE_SECONDS", 0.5)
    use_tickets(executor)
    mailbox, rung = executor._dispatcher.mailbox, []
    monkeypatch.setattr(executor._dispatcher._inbox, "_bell", Bell(mailbox.bell, rung))
    future = executor.submit(touch_and_wait, str(started), str(release))
    assert rung == []

    wait_until(future.running, "it is noticed that it runs")
    assert executor.stats().running == 1
    second = executor.submit(int, 7)
    assert rung == [None], "there is no ticket now"
    release.touch()
    assert second.result() == 7


class Bell:
    """Note who rings."""

    def __init__(self, bell: threading.Lock, rung: list[None]) -> None:
        self._bell = bell
        self._rung = rung

    def release(self) -> None:
        self._rung.append(None)
        self._bell.release()
