"""What counts as left behind by earlier tasks, and what a stopped task has started."""

from __future__ import annotations

import os

import pytest

from crew_executor import processes
from crew_executor.worker import children
from crew_executor.worker.children import Children


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    pids: set[int] = set()
    monkeypatch.setattr(children, "child_pids", lambda: frozenset(pids))
    return pids


@pytest.fixture
def killed(living: set[int], monkeypatch: pytest.MonkeyPatch) -> set[int]:
    pids: set[int] = set()
    monkeypatch.setattr(processes, "kill_children_except", lambda earlier: pids.update(living - earlier))
    return pids


def test_those_of_the_initializer_are_earlier(living: set[int], killed: set[int]) -> None:
    living.add(1)
    known = Children()
    living.add(2)

    known.kill_new()

    assert killed == {2}


def test_those_of_a_task_that_ended_are_earlier(living: set[int], killed: set[int]) -> None:
    known = Children()
    living.add(1)
    known.task_ended()
    living.add(2)

    known.kill_new()

    assert killed == {2}


def test_none_cost_one_call_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def waitid(*_: int) -> None:
        raise ChildProcessError

    monkeypatch.setattr(os, "waitid", waitid)
    monkeypatch.setattr(os, "listdir", lambda _: pytest.fail("it looked further"))

    assert children.child_pids() == set()


def test_they_are_those_of_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "waitid", lambda *_: None)
    monkeypatch.setattr(os, "listdir", lambda _: ["10", "11"])
    monkeypatch.setattr(children, "_children_of", {"10": ["1", "2"], "11": ["3"]}.__getitem__)

    assert children.child_pids() == {1, 2, 3}


def test_without_the_kernels_list_psutil_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def listdir(_: str) -> list[str]:
        raise FileNotFoundError

    monkeypatch.setattr(os, "waitid", lambda *_: None)
    monkeypatch.setattr(os, "listdir", listdir)
    monkeypatch.setattr(processes, "child_pids", lambda: frozenset({7}))

    assert children.child_pids() == {7}
