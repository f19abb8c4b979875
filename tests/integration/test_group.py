"""ControllerGroup: several controllers as one."""

from __future__ import annotations

import gc
import math
import os
import threading
from collections.abc import Iterator

import pytest

from crew_executor.controller import Controller, ControllerGroup

from .helpers import identity


@pytest.fixture
def group() -> Iterator[ControllerGroup]:
    with ControllerGroup(Controller("cpu", workers=2), Controller("gpu")) as group:
        yield group


def test_tasks_go_where_they_are_told_and_results_come_from_all_in_their_order(group: ControllerGroup) -> None:
    for number in range(20):
        group.push(identity, number, controller="gpu" if number % 2 else None, name=f"task {number}")
        assert group.wait()
    results = []
    while (result := group.pop()) is not None:
        results.append(result)

    assert [result.result for result in results] == list(range(20))
    assert [result.controller for result in results[:3]] == ["cpu", "gpu", "cpu"]
    assert group.empty()


def test_some_can_be_asked_for(group: ControllerGroup) -> None:
    group.push(os.getpid, controller="cpu")
    group.push(math.sqrt, -1, controller="gpu")
    assert group.wait(controllers="gpu")
    assert group.wait(controllers=["cpu"])
    assert group.size("gpu") == 1

    assert [result.status for result in group.collect(controllers="gpu")] == ["error"]
    assert group.pop(controllers="gpu") is None
    assert group.pop(controllers="cpu") is not None
    assert [row["controller"] for row in group.summary()] == ["cpu", "cpu", "gpu"]
    assert len(group.summary("tasks_*", controllers="gpu")) == 1
    with pytest.raises(KeyError, match=r"tpu.*there are cpu, gpu"):
        group.push(identity, 1, controller="tpu")


def test_a_wait_for_one_ends_with_the_first_of_any(group: ControllerGroup) -> None:
    go = threading.Event()
    waiter = threading.Thread(target=lambda: (group.wait("one"), go.set()))
    held = group.push(identity, 0, controller="cpu")
    held.result()
    group.wait()
    group.collect()
    group.push(identity, 1, controller="gpu")
    waiter.start()

    assert go.wait(30)
    waiter.join()
    result = group.pop()
    assert result is not None
    assert result.result == 1


def test_errors_are_raised_before_anything_is_collected(group: ControllerGroup) -> None:
    group.push(math.sqrt, -1, controller="gpu")
    group.push(identity, 1, controller="cpu")
    group.wait()
    with pytest.raises(ValueError, match="math domain error"):
        group.collect(error="stop")
    assert len(group.collect()) == 2


def test_cancel_and_terminate_reach_all(group: ControllerGroup) -> None:
    import time

    for name in ("cpu", "gpu"):
        group.push(time.sleep, 60, controller=name)
    assert group.cancel(all=True) == 2
    assert {result.status for result in group.collect()} == {"cancel"}


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="no two controllers"):
        ControllerGroup(Controller("a"), Controller("a"))
    with pytest.raises(ValueError, match="at least one"):
        ControllerGroup()


def test_it_has_the_verbs_of_its_controllers(group: ControllerGroup) -> None:
    assert not group.started
    assert [result.result for result in group.map(identity, [1, 2], controller="gpu")] == [1, 2]
    group.walk(identity, range(3))
    assert group.nonempty()
    assert group.wait()

    assert (group.pushed, group.popped, group.unresolved(), group.resolved(), group.unpopped()) == (5, 2, 0, 5, 3)
    assert not group.saturated()
    assert group.crashes("0") == 0
    assert group.scale() == 0
    group.start()
    assert group.started
    group.launch(1, controllers="gpu")
    assert len(group["gpu"].stats().workers) == 1


def test_only_controllers_are_grouped() -> None:
    with pytest.raises(TypeError, match=r"ControllerGroup\(first, second\)"):
        ControllerGroup([Controller()])  # type: ignore[arg-type]


def test_nothing_that_comes_while_errors_are_looked_for_is_lost(group: ControllerGroup) -> None:
    collected = 0
    for _ in range(100):
        group.push(abs, -1, controller="gpu")
        group.push(int, "x", controller="gpu")
        while group.unresolved() or group.nonempty():
            try:
                collected += len(group.collect(error="stop"))
            except ValueError:
                collected += len(group.collect())
    assert (collected, group.popped) == (200, 200)


def test_a_group_that_is_forgotten_is_told_no_more() -> None:
    controller = Controller("a")
    for _ in range(10):
        ControllerGroup(controller)
    gc.collect()
    assert not list(controller._listeners)
