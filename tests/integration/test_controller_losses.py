"""A controller loses no record and waits for nothing that does not come, whatever happens around it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crew_executor.controller import Controller, ControllerGroup, MapError

from .helpers import be_big, die, die_unless, identity, is_alive, touch_and_wait, wait_until


@pytest.fixture
def controller() -> Iterator[Controller]:
    with Controller(workers=2) as controller:
        yield controller


def test_what_map_returns_is_counted_as_popped_and_is_no_matter_of_wait(controller: Controller, tmp_path: Path) -> None:
    release = str(tmp_path / "release")
    mapping = threading.Thread(target=controller.map, args=(touch_and_wait, [str(tmp_path / "begun")], [release]))
    mapping.start()
    wait_until((tmp_path / "begun").exists, "the item runs")

    assert controller.wait("all", 0)
    assert (controller.pushed, controller.unresolved()) == (1, 1)
    Path(release).touch()
    mapping.join()
    assert (controller.pushed, controller.popped, controller.size()) == (1, 1, 0)
    assert sum(controller.summary()["popped_tasks"]) == 1


def test_who_has_a_result_can_pop_its_record(controller: Controller) -> None:
    for number in range(200):
        assert controller.push(identity, number).result() == number
        result = controller.pop()
        assert result is not None
        assert result.result == number


def test_names_of_numbers_are_never_given_twice(controller: Controller) -> None:
    controller.push(identity, 0, name="1")
    controller.wait()
    controller.walk(identity, range(3), names=[2, 3, 4])
    controller.push(identity, 5)
    controller.wait()

    assert sorted(result.name for result in controller.collect()) == ["1", "2", "3", "4", "5"]


def test_a_walk_with_a_name_that_is_taken_pushes_nothing(controller: Controller) -> None:
    controller.push(identity, 0, name="b")
    with pytest.raises(ValueError, match="has a task named 'b' already"):
        controller.walk(identity, [1, 2], names=["a", "b"])
    assert controller.pushed == 1
    with pytest.raises(ValueError, match="has a task named 'b' already"):
        controller.map(identity, [1, 2], names=["a", "b"])
    wait_until(lambda: controller.unresolved() == 0, "what map() had pushed is over")


def test_a_callback_may_use_the_controller(controller: Controller) -> None:
    results: list[Any] = []
    future = controller.push(identity, 1)
    future.add_done_callback(lambda _future: results.extend(controller.map(identity, [2, 3])))
    wait_until(lambda: len(results) == 2, "the callback has got its results")
    assert controller.wait()


def test_a_callback_that_takes_its_time_holds_no_record_back(controller: Controller) -> None:
    is_over = threading.Event()
    controller.push(identity, 1).add_done_callback(lambda _future: is_over.wait(30))
    controller.push(identity, 2)
    try:
        assert controller.wait(seconds_timeout=20)
    finally:
        is_over.set()


def test_the_future_of_a_task_that_a_backup_runs_is_done_when_that_is(tmp_path: Path) -> None:
    big = Controller("big", initializer=be_big, initargs=("here",))
    with Controller("small", crashes_max=1, backup=big) as small, big:
        future = small.push(die_unless, "here", name="hungry")
        called: list[Any] = []
        future.add_done_callback(lambda done: called.append((done.result(), len(small.map(identity, [1])))))
        assert future.result(30) == "done"
        wait_until(lambda: called == [("done", 1)], "the callback has run, and could use the controller")
        result = small.pop()
        assert result is not None
        assert (result.attempts, result.controller, small.crashes("hungry")) == (2, "big", 1)
        with pytest.raises(AttributeError):
            small.backup = small  # type: ignore[misc]

        long = small.push(touch_and_wait, str(tmp_path / "begun"), "never", name="hungry")
        wait_until((tmp_path / "begun").exists, "it runs at the backup")
        assert (big.saturated(), big.unresolved(), small.unresolved()) == (True, 0, 1)
        assert long.kill()
        assert small.wait()
        assert small.collect()[0].status == "cancel"


def test_the_end_of_a_backup_is_no_crash_of_what_it_runs_for_others(tmp_path: Path) -> None:
    big = Controller("big", auto_scale="none")
    with Controller("small", crashes_max=1, backup=big) as small, big:
        small.push(die, name="x")
        wait_until(big.saturated, "it is the backup's")
        small.cancel(all=True)
        assert small.wait()
        small.collect()
        small.push(touch_and_wait, str(tmp_path / "begun"), "never", name="x")
        assert big.scale() == 1
        wait_until((tmp_path / "begun").exists, "it runs at the backup")
        big.terminate()
        assert small.wait()
        result = small.pop()

        assert result is not None
        assert (result.status, big.crashes("x")) == ("cancel", 0)


def test_a_look_at_a_controller_that_is_not_started_starts_nothing() -> None:
    controller = Controller(workers_min=1)
    assert controller.stats().workers == ()
    assert controller.scale() == 0
    assert not controller.started


def test_pushing_while_another_thread_terminates_loses_nothing() -> None:
    controller = Controller(workers=2)
    is_over = threading.Event()

    def terminate() -> None:
        while not is_over.is_set():
            controller.terminate()

    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        for number in range(300):
            controller.push(identity, number)
    finally:
        is_over.set()
        thread.join()
    assert controller.wait(seconds_timeout=30)
    statuses = {result.status for result in controller.collect()}
    assert controller.pushed == 300
    assert statuses <= {"success", "cancel"}
    controller.terminate()


def test_a_cancelled_task_that_had_not_started_has_no_times(controller: Controller, tmp_path: Path) -> None:
    controller.map(time.sleep, [0.001] * 20)  # so that more than one is sent ahead
    with Controller(workers=1) as one:
        one.map(identity, range(10))
        one.push(touch_and_wait, str(tmp_path / "begun"), "never")
        wait_until((tmp_path / "begun").exists, "it runs")
        one.walk(identity, range(5))
        one.cancel(all=True)
        assert one.wait()
        assert [result.seconds is None or result.seconds < 60 for result in one.collect()] == [True] * 6


def test_an_error_that_cannot_be_told_in_words_costs_no_record(controller: Controller) -> None:
    with pytest.raises(MapError, match="which cannot be told in words") as caught:
        controller.map(fail_without_words, [1, 2])
    assert len(caught.value.results) == 2
    controller.push(identity, 10**5000, name="huge")
    controller.push(len, b"x" * 1000, name="long")
    controller.wait()
    commands = {result.name: result.command for result in controller.collect()}
    assert commands["long"] == f"len({b'x' * 30!r}...)"
    assert commands["huge"].endswith("identity(<a large int>)")


def test_a_forgotten_controller_ends_its_workers_though_a_future_is_kept() -> None:
    controller = Controller(workers=1)
    future = controller.push(os.getpid)
    pid = future.result()
    del controller
    gc.collect()
    wait_until(lambda: not is_alive(pid), "its worker has left")
    assert future.result() == pid


def fail_without_words(_item: int) -> None:
    raise Wordless


class Wordless(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError


def test_several_threads_may_push_first() -> None:
    for _ in range(10):
        controller = Controller(workers=2)
        threads = [threading.Thread(target=controller.push, args=(identity, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert controller.wait(seconds_timeout=30)
        assert sorted(result.result for result in controller.collect()) == list(range(8))
        assert controller.stats().done == 8, "there is one executor"
        controller.terminate()


def test_a_callback_may_wait_for_the_controller_though_others_have_callbacks(controller: Controller) -> None:
    called: list[Any] = []
    controller.push(time.sleep, 0.05).add_done_callback(lambda _future: called.append(controller.wait()))
    controller.push(time.sleep, 0.2).add_done_callback(lambda _future: called.append("second"))
    assert controller.wait(seconds_timeout=30)
    wait_until(lambda: called == [True, "second"], "both callbacks have run")


def test_the_future_of_a_forgotten_controller_with_a_backup_is_done() -> None:
    backup = Controller("b")

    def push() -> Any:
        return Controller("a", backup=backup).push(identity, 7)

    future = push()
    gc.collect()
    assert future.result(30) == 7


def test_terminate_reaches_what_a_backup_runs(tmp_path: Path) -> None:
    with Controller("b") as backup, Controller("a", crashes_max=1, backup=backup) as controller:
        future = controller.push(die_once, str(tmp_path / "died"), str(tmp_path / "begun"))
        wait_until((tmp_path / "begun").exists, "it runs at the backup")
        controller.terminate()
        assert controller.wait(seconds_timeout=30)
        assert future.cancelled()
        assert [result.status for result in controller.collect()] == ["cancel"]


def test_a_group_that_ends_starts_no_backup_again(tmp_path: Path) -> None:
    for number in range(5):
        backup = Controller("b")
        controller = Controller("c", crashes_max=1, backup=backup)
        with ControllerGroup(backup, controller) as group:
            begun = tmp_path / f"begun{number}"
            group.push(touch_and_wait, str(begun), "never", controller="c")
            wait_until(lambda begun=begun: begun.exists() and bool(begun.read_text()), "it runs")  # type: ignore[misc]
            os.kill(int(begun.read_text()), signal.SIGKILL)
        assert not backup.started
        assert controller.wait(seconds_timeout=30)


def test_what_waits_for_workers_that_nobody_launches_is_done_at_the_end_of_the_script() -> None:
    script = "from crew_executor.controller import Controller as C; C(auto_scale='none').push(print, 'done')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_result_that_cannot_be_had_is_an_error_like_any_other(controller: Controller) -> None:
    controller.push(make_hostile, name="hostile")
    controller.push(identity, 1, name="other")
    assert controller.wait(seconds_timeout=30)
    results = {result.name: result for result in controller.collect()}
    assert results["other"].result == 1
    assert results["hostile"].status == "error"
    assert isinstance(results["hostile"].error, KeyboardInterrupt)
    assert results["hostile"].command.endswith("make_hostile()")


def test_an_exception_whose_text_is_an_interrupt_costs_no_worker(controller: Controller) -> None:
    controller.push(raise_odd, name="odd")
    controller.wait()
    assert [result.status for result in controller.collect()] == ["error"]
    assert controller.crashes("odd") == 0


def test_a_forked_child_is_told_that_nothing_arrives_there(controller: Controller, tmp_path: Path) -> None:
    controller.push(touch_and_wait, str(tmp_path / "begun"), str(tmp_path / "release"))
    wait_until((tmp_path / "begun").exists, "it runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert controller.cancel(all=True) == 0
            controller.terminate()
            with pytest.raises(RuntimeError, match="is a forked child"):
                controller.wait()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    Path(tmp_path / "release").touch()
    assert controller.wait()


def test_a_group_pops_what_is_known_from_the_future() -> None:
    with ControllerGroup(Controller("a"), Controller("b")) as group:
        for number in range(100):
            group.push(identity, number).result()
            assert group.pop() is not None
            group.push(identity, number, controller="b").result()
            assert len(group.collect()) == 1


def test_a_wait_of_a_group_is_no_matter_of_map(tmp_path: Path) -> None:
    controller = Controller("a")
    with ControllerGroup(controller) as group:
        begun, release = str(tmp_path / "begun"), str(tmp_path / "release")
        mapping = threading.Thread(target=controller.map, args=(touch_and_wait, [begun], [release]))
        mapping.start()
        wait_until(Path(begun).exists, "the item runs")
        assert group.wait("one", 0)
        Path(release).touch()
        mapping.join()


def test_a_group_counts_the_crashes_of_a_backup_once() -> None:
    second = Controller("second", crashes_max=1)
    first = Controller("first", crashes_max=1, backup=second)
    with ControllerGroup(first, second) as group:
        group.push(die, name="x")
        assert group.wait()
        assert (first.crashes("x"), second.crashes("x"), group.crashes("x")) == (2, 1, 2)


def test_a_controller_of_a_module_is_refused_in_its_tasks_by_name(tmp_path: Path) -> None:
    (tmp_path / "uses_crew.py").write_text(
        "from crew_executor.controller import Controller\n"
        "controller = Controller('global')\ncontroller.start()\n"
        "def task():\n    return controller.push(abs, -1).result()\n"
    )
    script = "import uses_crew as m; f = m.controller.push(m.task); print(f.exception()); m.controller.terminate()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "controller global is a global of a module that this worker has imported" in done.stdout


def test_a_backup_has_a_name_of_its_own() -> None:
    with pytest.raises(ValueError, match="a backup must have another name"):
        Controller("x", backup=Controller("x"))


def die_once(died: str, begun: str) -> int:
    """Die the first time, then wait for ever."""
    if not os.path.exists(died):
        Path(died).touch()
        die()
    return touch_and_wait(begun, "never")


def make_hostile() -> object:
    return Hostile()


class Hostile:
    """Raises what nobody catches, where it is unpickled."""

    def __reduce__(self) -> Any:
        return interrupt, ()


def interrupt() -> None:
    raise KeyboardInterrupt


def raise_odd() -> None:
    raise Odd


class Odd(Exception):
    """Its text is an interrupt."""

    def __str__(self) -> str:
        raise KeyboardInterrupt
