"""Tasks that their submitters send themselves: they start at once, run once, and can be cancelled like any other."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FuturesTimeoutError  # another class than the built-in before 3.11
from pathlib import Path
from typing import Any

import pytest

from crew_executor import BrokenCrewError, CrewExecutor, CrewFuture, WorkerCrashError, dispatcher
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


# ---------------------------------------------------------------------- who waits for each task before the next


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each future that somebody waited for at a hatch was finished there."""
    early: list[bool] = []
    finish = CrewFuture._finish_early

    def note(future: CrewFuture[Any], *arguments: Any) -> bool:
        early.append(finish(future, *arguments))
        return early[-1]

    monkeypatch.setattr(CrewFuture, "_finish_early", note)
    return early


def test_who_sends_one_task_after_the_other_reads_their_outcomes_itself(
    executor: CrewExecutor, early: list[bool]
) -> None:
    assert list(range(300)) == [executor.submit(int, number).result() for number in range(300)]

    assert early.count(True) > 150, "all but the first, and those after the ticket was renewed"
    assert executor.stats().done == 301


def test_whoever_has_a_result_finds_it_counted(executor: CrewExecutor) -> None:
    for number in range(100):
        executor.submit(int).result()
        stats = executor.stats()
        assert (number + 2, 0, 0) == (stats.done, stats.queued, stats.running)
        assert number + 2 == sum(worker.tasks for worker in stats.workers)


def test_answers_that_get_lost_are_made_up_for_by_the_report(
    executor: CrewExecutor, early: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    recv = Hatch.recv

    def lose(hatch: Hatch, timeout: float | None) -> bytes | None:
        return None if recv(hatch, timeout) is None else b""

    monkeypatch.setattr(Hatch, "recv", lose)

    assert list(range(100)) == [executor.submit(int, number).result() for number in range(100)]
    assert early == []


def test_who_was_answered_and_waits_no_more_leaves_nothing_behind(executor: CrewExecutor) -> None:
    for _ in range(30):
        executor.submit(int).result()
        done: list[object] = []
        executor.submit(int, 7).add_done_callback(done.append)  # it was asked to answer, and nobody reads that
        wait_until(lambda done=done: bool(done), "the callback has run")
        with pytest.raises(FuturesTimeoutError):
            executor.submit(time.sleep, 0.01).result(0.001)
        executor.submit(int).result()

    assert list(range(50)) == [executor.submit(int, number).result() for number in range(50)]


def _log(number: int) -> int:
    logging.getLogger("tests.tickets").warning("number %d", number)
    return number


def test_what_a_task_has_logged_is_there_before_its_result(
    executor: CrewExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(100):
        executor.submit(int).result()
        assert number == executor.submit(_log, number).result()
        assert f"number {number}" in caplog.messages


@pytest.fixture
def alarms() -> Iterator[Any]:
    """Have a function called again and again by signals to the main thread."""
    before = signal.getsignal(signal.SIGALRM)

    def begin(handler: Any, seconds: float) -> None:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)

    yield begin
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_handler_that_raises_anywhere_loses_no_task(executor: CrewExecutor, alarms: Any, tmp_path: Path) -> None:
    path, futures = tmp_path / "lines", []
    armed: list[None] = []

    def handle(*_: object) -> None:
        if armed:  # once in each round, and nowhere else
            armed.clear()
            raise KeyboardInterrupt

    interrupts = 0
    alarms(handle, 0.0013)
    for line in range(400):
        try:
            armed.append(None)
            future = executor.submit(write_line, str(path), line)
            futures.append((line, future))
            assert line == future.result()
            armed.clear()
        except KeyboardInterrupt:
            interrupts += 1
    signal.setitimer(signal.ITIMER_REAL, 0)

    assert interrupts
    assert all(line == future.result(20) for line, future in futures)
    assert 7 == executor.submit(int, 7).result(20)
    executor.shutdown()
    lines = list(map(int, path.read_text().split()))
    assert len(lines) == len(set(lines)), "none has run twice"
    assert {line for line, _future in futures} <= set(lines)


def test_a_handler_may_send_a_task_and_wait_while_the_main_thread_waits(executor: CrewExecutor, alarms: Any) -> None:
    handled: list[bool] = []
    numbers = itertools.count()

    def handle(*_: object) -> None:
        number = next(numbers)
        handled.append(executor.submit(int, number).result() == number)  # the next one may come in here

    alarms(handle, 0.002)
    assert list(range(400)) == [executor.submit(int, number).result() for number in range(400)]
    executor.submit(time.sleep, 0.2).result()
    signal.setitimer(signal.ITIMER_REAL, 0)

    assert handled
    assert all(handled)


def test_workers_that_die_while_they_are_talked_to_cost_the_running_task_alone(tmp_path: Path) -> None:
    path, lost = tmp_path / "lines", 0
    with CrewExecutor(1) as executor:
        executor.submit(int).result()
        is_over = threading.Event()

        def kill() -> None:
            while not is_over.wait(0.05):
                for worker in executor.stats().workers:
                    if worker.pid is not None and worker.tasks > 5:
                        os.kill(worker.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        for line in range(1500):
            try:
                assert line == executor.submit(write_line, str(path), line).result(50)
            except WorkerCrashError:
                lost += 1
        is_over.set()
        killer.join()

    lines = list(map(int, path.read_text().split()))
    assert len(lines) == len(set(lines))
    assert 1500 - lost <= len(lines) <= 1500


def test_what_another_thread_ends_wakes_who_waits_at_the_hatch(executor: CrewExecutor, tmp_path: Path) -> None:
    for number in range(3):
        use_tickets(executor)
        started = tmp_path / f"started-{number}"
        future = executor.submit(touch_and_wait, str(started), str(tmp_path / "never"))

        def kill(started: Path = started, future: CrewFuture[Any] = future) -> None:
            wait_until(started.exists, "the task runs")
            assert future.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(CancelledError):
            future.result(20)
        killer.join()
        assert 7 == executor.submit(int, 7).result(20)


def test_tasks_of_any_length_follow_each_other(executor: CrewExecutor, early: list[bool]) -> None:
    for milliseconds in (0, 0.5, 1, 2, 5, 20):
        for _ in range(5):
            executor.submit(time.sleep, milliseconds / 1000).result(20)

    assert executor.stats().done == 31
    assert any(early)


def test_a_call_for_all_workers_keeps_no_outcome_back(executor: CrewExecutor, tmp_path: Path) -> None:
    for number in range(20):
        started, release = tmp_path / f"started-{number}", tmp_path / f"release-{number}"
        for _ in range(3):
            executor.submit(int).result()
        future = executor.submit(int, 7)  # is answered, and nobody waits
        calls = executor.run_on_all(touch_and_wait, str(started), str(release))
        wait_until(future.done, "its outcome was reported before the call began", 5)
        release.touch()
        assert len([call.result() for call in calls]) == 1
