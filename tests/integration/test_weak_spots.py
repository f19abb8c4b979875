"""What R's crew and mirai are known to stumble over, one test each: it must not happen here, with the same words.

Other tests look closer at most of this. These are for a reader who knows crew and asks: does this one do it, too?
"""

from __future__ import annotations

import itertools
import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from crew_executor import BrokenCrewError, CrewExecutor, TaskTimeoutError, WorkerCrashError, workforce
from crew_executor.controller import Controller
from crew_executor.launchers import Invitation, LocalLauncher

from .helpers import append_line, die, identity, touch_and_wait, wait_until


@pytest.fixture
def controller() -> Iterator[Controller]:
    """Return a controller with two workers."""
    with Controller(workers=2) as made:
        yield made


def started_in(folder: Path) -> list[int]:
    """Return the pids of the tasks that have told of themselves by touch_and_wait()."""
    wait_until(lambda: len([file for file in folder.glob("start?") if file.read_text()]) == 2, "two tasks run")
    return [int(file.read_text()) for file in folder.glob("start?")]


def keep_two_busy(controller: Controller, folder: Path) -> list[int]:
    """Push two tasks that run until the file "release" is there; return their workers' pids."""
    for number in range(2):
        controller.push(touch_and_wait, str(folder / f"start{number}"), str(folder / "release"), name=f"long{number}")
    return started_in(folder)


def warn_twice_and_print() -> None:
    for text in ("one", "two"):
        warnings.warn(text, UserWarning, stacklevel=1)
    print("printed")


def count_for_ever() -> int:
    return sum(itertools.repeat(1))  # C code that looks for no signal


class Nobody(LocalLauncher):
    """Launches, as it says, and nobody comes."""

    def launch(self, invitation: Invitation, on_exit: object) -> None:
        """Do nothing."""

    def kill(self, invitation: Invitation, signal_number: int) -> None:
        """There is nobody."""


def test_1_the_timeout_of_a_task_is_a_record_like_any_other(controller: Controller) -> None:
    controller.push(time.sleep, 60, name="slow", timeout=0.2)
    controller.wait()
    result = controller.pop()

    assert result is not None
    assert (result.name, result.status) == ("slow", "timeout")
    assert isinstance(result.error, TaskTimeoutError)


@pytest.mark.parametrize("idle_timeout", [0.005, 0.02])
def test_2_a_task_pushed_when_an_idle_worker_leaves_is_no_crash(idle_timeout: float) -> None:
    with Controller(workers=8, seconds_idle=idle_timeout) as controller:
        for pause in range(40):
            time.sleep(idle_timeout * (0.5 + pause / 40))  # around the moment at which they leave
            for _ in range(8):
                controller.push(identity, 1)
        controller.wait()

        assert {result.status for result in controller.collect()} == {"success"}


def test_2_a_thousand_quick_tasks_with_a_worker_each_and_no_time_to_idle() -> None:
    with Controller(workers=4, tasks_max=1, seconds_idle=0.01) as controller:
        results = controller.map(abs, range(1000))  # nothing that each worker would have to import
        summary = controller.summary()

        assert [result.result for result in results] == list(range(1000))
        assert sum(summary["tasks_complete"]) == 1000
        assert sum(summary["worker_instances"]) == 1000  # no worker was launched in vain, none did two


def test_3_a_killed_worker_costs_the_task_it_ran_and_none_that_waited(controller: Controller, tmp_path: Path) -> None:
    first, _second = keep_two_busy(controller, tmp_path)
    controller.walk(identity, range(6))
    os.kill(first, signal.SIGKILL)
    (tmp_path / "release").touch()
    controller.wait()

    assert sorted(result.status for result in controller.collect()) == ["crash", *["success"] * 7]


def test_4_queued_tasks_run_although_all_workers_were_killed(controller: Controller, tmp_path: Path) -> None:
    for pid in keep_two_busy(controller, tmp_path):
        controller.walk(identity, range(2))
        os.kill(pid, signal.SIGKILL)
    controller.wait()

    assert sorted(result.status for result in controller.collect()) == ["crash"] * 2 + ["success"] * 4


def test_5_a_frozen_worker_does_not_keep_what_it_has_not_started(controller: Controller, tmp_path: Path) -> None:
    frozen, _other = keep_two_busy(controller, tmp_path)
    futures = controller.walk(identity, range(100))
    os.kill(frozen, signal.SIGSTOP)
    (tmp_path / "release").touch()

    assert sorted(future.result(30) for future in futures) == list(range(100))


def test_5_a_task_sent_to_a_frozen_worker_runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workforce, "START_SECONDS", 0.5)
    with Controller(workers=1) as controller:
        controller.push(os.getpid)
        controller.wait()
        result = controller.pop()
        assert result is not None
        os.kill(result.result, signal.SIGSTOP)
        controller.push(append_line, str(tmp_path / "runs"), "once")

        assert controller.wait()
    assert (tmp_path / "runs").read_text() == "once\n"


def test_5_a_task_with_a_timeout_ends_although_its_worker_froze(controller: Controller) -> None:
    future = controller.push(_freeze, timeout=0.3)

    assert isinstance(future.exception(30), TaskTimeoutError)
    assert controller.push(identity, 1).result(30) == 1


def _freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def test_6_workers_that_never_come_up_end_in_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workforce, "EXIT_GRACE", 0.1)
    with CrewExecutor(1, launcher=Nobody(max_failed_launches=2)) as executor:
        with pytest.raises(BrokenCrewError, match=r"2 launches in a row failed.*has not said that it is gone"):
            executor.submit(identity, 1).result(30)
    executor = CrewExecutor(1, launcher=Nobody())
    executor.launch_workers(1)
    executor.shutdown()  # it does not wait for who never comes


def test_7_nobody_can_dial_in(controller: Controller) -> None:
    controller.map(identity, range(4))
    client = psutil.Process()
    ports = [
        link.laddr
        for process in [client, *client.children(recursive=True)]
        for link in process.net_connections("inet")
        if link.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
    ]

    assert ports == []


def test_8_twenty_thousand_queued_tasks_are_cancelled_at_once(controller: Controller, tmp_path: Path) -> None:
    keep_two_busy(controller, tmp_path)
    futures = controller.walk(bytes, [10_000] * 20_000)

    assert controller.cancel(all=True) >= 20_000
    assert all(future.cancelled() for future in futures)
    assert controller.push(identity, 1).result(30) == 1


def test_9_after_a_wait_for_all_that_returns_true_pop_has_every_result(controller: Controller) -> None:
    for _ in range(20):
        controller.walk(identity, range(50))
        assert controller.wait(mode="all")
        assert all(controller.pop() is not None for _ in range(50))
        assert controller.pop() is None


def test_10_c_code_that_heeds_no_interrupt_does_not_keep_its_worker(controller: Controller) -> None:
    future = controller.push(count_for_ever, name="endless")
    wait_until(lambda: controller.summary()["worker_busy"].count(True) == 1, "it runs")
    controller.cancel(names=["endless"])

    assert future.cancelled()
    assert [result.result for result in controller.map(identity, range(4))] == list(range(4))
    wait_until(lambda: sum(controller.summary()["worker_instances"]) >= 2, "its worker was replaced")


def test_11_warnings_come_one_by_one_and_output_if_it_is_asked_for() -> None:
    with CrewExecutor(1) as executor:
        future = executor.options(capture_output=True).submit(warn_twice_and_print)
        with pytest.warns(UserWarning, match="one|two"):
            future.result()
        record = future.record()

        assert [warning.message for warning in record.warnings] == ["one", "two"]
        assert record.output == "printed\n"


def test_12_a_crash_is_told_to_its_task_alone(controller: Controller) -> None:
    futures = [controller.push(identity if number != 20 else die, signal.SIGKILL) for number in range(40)]

    assert isinstance(futures[20].exception(30), WorkerCrashError)
    assert all(future.exception(30) is None for future in futures if future is not futures[20])
    assert controller.push(identity, 1).result(30) == 1
