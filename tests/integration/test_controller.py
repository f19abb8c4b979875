"""Controller with real workers: push, wait, pop; every end of a task is a record; crashes and backups; counters."""

from __future__ import annotations

import math
import os
import random
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_executor import BrokenCrewError, CrewError
from crew_executor.controller import Controller, MapError
from crew_executor.launchers import LocalLauncher

from .helpers import be_big, die, die_unless, identity, touch_and_wait, wait_until


def warn() -> None:
    warnings.warn("careful", UserWarning, stacklevel=1)


@pytest.fixture
def controller() -> Iterator[Controller]:
    with Controller(workers=2) as controller:
        yield controller


def test_the_life_of_a_task_as_in_the_seed_readme() -> None:
    controller = Controller("seed", workers=2, tasks_max=3, auto_scale="demand")
    assert not controller.started
    controller.start()
    assert controller.summary()["worker_connected"] == [False, False]
    assert controller.summary()["worker_launches"] == [0, 0]

    controller.push(os.getpid, name="get worker process ID")
    assert controller.wait(mode="all")
    out = controller.pop()

    assert out is not None
    assert (out.name, out.status, out.error, out.traceback) == ("get worker process ID", "success", None, None)
    assert out.command.endswith("getpid()")
    assert out.result not in (None, os.getpid())
    assert out.controller == "seed"
    assert controller.pop() is None
    assert controller.summary()["tasks_assigned"] == controller.summary()["tasks_complete"] == [1, 0]
    assert controller.summary()["popped_tasks"] == [1, 0]
    controller.terminate()
    assert not controller.started
    assert controller.summary()["worker_connected"] == [False, False]
    assert controller.summary()["worker_launches"] == [1, 0]


def test_every_end_of_a_task_is_a_record(controller: Controller, tmp_path: Path) -> None:
    controller.push(math.sqrt, 4, name="success")
    controller.push(math.sqrt, -1, name="error")
    controller.push(die, name="crash")
    controller.push(time.sleep, 60, name="timeout", timeout=0.2)
    controller.push(warn, name="warned")
    controller.wait()
    controller.push(touch_and_wait, str(tmp_path / "begun"), "never", name="cancel")
    wait_until((tmp_path / "begun").exists, "it runs")
    assert controller.cancel("cancel") == 1
    controller.wait()
    results = {result.name: result for result in controller.collect()}

    assert {name: result.status for name, result in results.items()} == {
        "success": "success", "error": "error", "crash": "crash", "timeout": "timeout", "warned": "success",
        "cancel": "cancel",
    }  # fmt: skip
    assert "math domain error" in (results["error"].traceback or "")
    assert results["warned"].warnings[0].message == "careful"
    assert controller.popped == 6
    assert sum(controller.summary()["popped_warnings"]) == 1
    assert controller.empty()


def test_results_come_in_the_order_of_their_end(controller: Controller, tmp_path: Path) -> None:
    controller.push(touch_and_wait, str(tmp_path / "begun"), "never", name="slow")
    wait_until((tmp_path / "begun").exists, "it runs")
    controller.push(identity, 1, name="quick")

    assert controller.wait("one")
    first = controller.pop()
    assert first is not None
    assert first.name == "quick"
    assert controller.pop() is None
    assert not controller.wait("one", seconds_timeout=0.01)
    assert controller.unresolved() == 1


def test_a_wait_for_nothing_is_over_and_one_that_returns_true_means_that_pop_has_something() -> None:
    with Controller(workers=2) as controller:
        assert controller.wait()
        assert controller.wait("one")
        assert not controller.started or controller.stats().launched == 0
        for number in range(200):
            controller.push(identity, number)
            assert controller.wait("one")
            assert controller.pop() is not None
        with pytest.raises(ValueError, match="mode must be"):
            controller.wait("some")


def test_a_name_is_taken_until_its_task_is_popped(controller: Controller) -> None:
    future = controller.push(identity, 1, name="mine")
    with pytest.raises(ValueError, match="a task named 'mine' already"):
        controller.push(identity, 2, name="mine")
    future.result()
    controller.wait()
    with pytest.raises(ValueError, match="done and not popped"):
        controller.push(identity, 2, name="mine")
    controller.pop()
    controller.push(identity, 3, name="mine")
    controller.wait()

    assert [result.result for result in controller.collect()] == [3]


def test_counters_are_never_behind(controller: Controller) -> None:
    for number in range(300):
        future = controller.push(identity, number)
        assert controller.pushed == number + 1
        if number % 3 == 0:
            future.result()
            assert controller.resolved() + controller.unresolved() == number + 1
        assert controller.size() == controller.unresolved() + controller.unpopped() or controller.unresolved() >= 0
    controller.wait()

    assert (controller.unresolved(), controller.unpopped(), controller.size()) == (0, 300, 300)
    assert controller.nonempty()
    assert len(controller.collect()) == 300
    summary = controller.summary()
    assert sum(summary["tasks_complete"]) == sum(summary["tasks_assigned"]) == sum(summary["popped_tasks"]) == 300
    assert controller.empty()


def test_cancelling_20_000_queued_tasks_is_no_matter(controller: Controller, tmp_path: Path) -> None:
    for number in range(2):
        controller.push(touch_and_wait, str(tmp_path / str(number)), "never")
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "both workers are busy")
    futures = controller.walk(identity, range(20_000))

    assert controller.cancel(all=True) >= 20_000
    assert controller.wait()
    assert sum(future.cancelled() for future in futures) == 20_000
    controller.push(identity, 1, name="next")
    controller.wait()
    assert controller.collect()[-1].result == 1


def test_pop_and_collect_raise_or_warn_if_asked(controller: Controller) -> None:
    for name in "abc":
        controller.push(math.sqrt, -1, name=name)
    controller.wait()

    with pytest.raises(ValueError, match="math domain error"):
        controller.collect(error="stop")
    with pytest.raises(ValueError, match="math domain error"):
        controller.pop(error="stop")
    with pytest.warns(RuntimeWarning, match="status error: ValueError"):
        controller.pop(error="warn")
    with pytest.raises(ValueError, match="error must be one of"):
        controller.pop(error="ignore")
    assert len(controller.collect()) == 1


# ---------------------------------------------------------------------- map and walk


def test_map_keeps_the_order_and_is_apart_from_pop(controller: Controller) -> None:
    controller.push(identity, "pushed")
    results = controller.map(math.sqrt, range(100), names=[f"root {number}" for number in range(100)])
    controller.wait()

    assert [result.result for result in results] == [math.sqrt(number) for number in range(100)]
    assert results[7].name == "root 7"
    assert [result.result for result in controller.collect()] == ["pushed"]
    assert controller.map(identity, []) == []


def test_map_keeps_what_was_done_when_a_task_fails(controller: Controller) -> None:
    with pytest.raises(MapError, match="1 of 3 tasks") as caught:
        controller.map(math.sqrt, [1, -1, 4])
    assert [result.status for result in caught.value.results] == ["success", "error", "success"]
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.warns(RuntimeWarning, match="1 of 3 tasks"):
        assert len(controller.map(math.sqrt, [1, -1, 4], error="warn")) == 3
    assert len(controller.map(math.sqrt, [1, -1, 4], error="silent")) == 3
    with pytest.raises(ValueError, match="no two the same"):
        controller.map(math.sqrt, [1, 2], names=["a", "a"])


def test_seeds_make_tasks_repeatable(controller: Controller) -> None:
    def draws() -> list[float]:
        controller.push(random.random, seed=1)
        controller.wait()
        return [one.result for one in controller.collect()]

    assert draws() == draws()
    first = [result.result for result in controller.map(random.gauss, [0] * 8, [1] * 8, seed=5)]
    assert first == [result.result for result in controller.map(random.gauss, [0] * 8, [1] * 8, seed=5)]
    assert len(set(first)) == 8
    controller.push(random.random, seed=9, name="seeded")
    controller.wait()
    result = controller.pop()
    assert result is not None
    assert result.seed == 9


def test_walk_launches_all_workers_in_one_decision() -> None:
    with Controller(workers=4) as controller:
        controller.walk(identity, range(1000))
        controller.wait()
        decisions = [words for words in controller.stats().decisions if words.startswith("launch")]

        assert decisions[0].startswith("launch 4:")
        assert controller.stats().launched == 4
        assert [result.result for result in controller.collect()] != []


# ---------------------------------------------------------------------- crashes and backups


def test_crashes_in_a_row_are_counted_and_at_the_most_the_next_push_is_refused() -> None:
    with Controller(workers=1, crashes_max=2) as controller:
        for number in range(2):
            controller.push(die, name="dying")
            controller.wait()
            result = controller.pop()
            assert result is not None
            assert result.status == "crash"
            assert controller.crashes("dying") == number + 1
        with pytest.raises(CrewError, match="has died 2 times in a row"):
            controller.push(die, name="dying")
        assert controller.pushed == 2
        controller.push(identity, 1, name="other")
        assert controller.wait()


def test_a_success_ends_a_row_of_crashes(controller: Controller) -> None:
    controller.push(die, name="task")
    controller.wait()
    controller.pop()
    assert controller.crashes("task") == 1
    controller.push(identity, 1, name="task")
    controller.wait()
    assert controller.crashes("task") == 0


def test_a_task_that_has_crashed_too_often_is_run_by_the_backup_of_the_backup() -> None:
    path = "here"
    big = Controller("big", workers=1, initializer=be_big, initargs=(path,))
    middle = Controller("middle", workers=1, crashes_max=1, backup=big)
    with Controller("small", workers=1, crashes_max=1, backup=middle) as small, middle, big:
        small.push(die_unless, path, name="hungry")
        assert small.wait()
        result = small.pop()

        assert result is not None
        assert (result.status, result.result, result.controller) == ("success", "done", "big")
        assert small.crashes("hungry") == 2
        assert (small.pushed, small.popped, big.pushed) == (1, 1, 0)
        small.push(die_unless, path, name="hungry")
        small.wait()
        assert sum(small.summary()["tasks_assigned"]) == 1, "at once where it can run"


def test_terminate_is_no_crash_and_the_controller_can_go_on(tmp_path: Path) -> None:
    controller = Controller(workers=1)
    controller.push(touch_and_wait, str(tmp_path / "begun"), "never", name="long")
    controller.push(identity, 1, name="queued")
    wait_until((tmp_path / "begun").exists, "it runs")
    controller.terminate()
    controller.terminate()

    assert {result.name: result.status for result in controller.collect()} == {"long": "cancel", "queued": "cancel"}
    assert controller.crashes("long") == 0
    controller.push(identity, 2)
    controller.wait()
    result = controller.pop()
    assert result is not None
    assert result.result == 2
    assert controller.summary()["worker_launches"] == [2]
    controller.terminate()


# ---------------------------------------------------------------------- workers


def test_without_auto_scaling_workers_come_when_they_are_called() -> None:
    with Controller(workers=2, auto_scale="none") as controller:
        controller.push(identity, 1)
        with pytest.warns(RuntimeWarning, match=r"call launch\(\) or scale\(\)"):
            assert not controller.wait(seconds_timeout=0.1)
        assert [controller.scale() for _ in range(3)] == [1, 0, 0], "one that is on its way is not missing"
        assert controller.wait()
        controller.launch(5)
        wait_until(lambda: controller.summary()["worker_connected"] == [True, True], "both have come, and no more")
        assert controller.scale() == 0


def test_one_at_a_time_and_transient_workers(controller: Controller) -> None:
    with Controller(workers=3, auto_scale="one", tasks_max=1) as transient:
        pids = [result.result for result in transient.map(_pid, range(20))]

        assert len(set(pids)) == 20
        assert sum(transient.summary()["worker_launches"]) == 20


def test_workers_that_never_come_up_end_in_an_error() -> None:
    launcher = LocalLauncher(python="/nonexistent/python", max_failed_launches=2)
    with Controller(workers=1, launcher=launcher) as controller:
        future = controller.push(identity, 1)
        assert controller.wait()
        result = controller.pop()

        assert result is not None
        assert isinstance(result.error, BrokenCrewError)
        assert isinstance(future.exception(), BrokenCrewError)


def test_infinity_is_no_limit() -> None:
    with Controller(tasks_max=math.inf, seconds_idle=math.inf, seconds_wall=math.inf) as controller:  # type: ignore[arg-type]
        controller.push(identity, 1, timeout=math.inf)
        assert controller.wait(seconds_timeout=math.inf)
        assert controller.collect()[0].result == 1


def test_what_is_no_call_is_refused_at_once(controller: Controller) -> None:
    with pytest.raises(TypeError, match="a task is a function and what it is called with"):
        controller.push(abs(-1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"argument 3 of map\(\) or walk\(\) must be an iterable"):
        controller.map(pow, [1, 2], 10)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="at least one iterable"):
        controller.map(abs)
    with pytest.raises(TypeError, match=r"cancel\(all=True\)"):
        controller.cancel(True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a whole number"):
        controller.launch(1.5)  # type: ignore[arg-type]
    future = controller.push(identity, controller)
    with pytest.raises(TypeError, match="cannot be pickled or sent to a worker"):
        future.result()
    assert controller.wait()
    assert (controller.pushed, controller.collect()[0].status) == (1, "error")


def test_inline_has_the_same_records_without_processes() -> None:
    with Controller(launcher="inline", workers=9) as controller:
        controller.push(os.getpid, name="here")
        controller.push(math.sqrt, -1, name="fails")
        assert controller.wait()
        here, fails = controller.collect()

        assert (here.result, here.status, here.command) == (os.getpid(), "success", "posix.getpid()")
        assert fails.status == "error"
        assert controller.summary()["tasks_complete"] == [2]
        with pytest.raises(TypeError, match="timeout must be"):
            controller.push(identity, 1, timeout="x")  # type: ignore[arg-type]
        assert [result.result for result in controller.map(identity, range(3))] == [0, 1, 2]


def test_threads_may_push_and_pop_together(controller: Controller) -> None:
    popped: list[int] = []

    def work(start: int) -> None:
        for number in range(start, start + 100):
            controller.push(identity, number)
        while (result := controller.pop()) is not None or (controller.wait("one", 1) and controller.nonempty()):
            if result is not None:
                popped.append(result.result)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    popped += [result.result for result in controller.collect()]

    assert sorted(popped) == list(range(400))


def _pid(_item: int) -> int:
    return os.getpid()
