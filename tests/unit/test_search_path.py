"""sys.path travels with a call, and is taken over once."""

from __future__ import annotations

import sys

import pytest

from crew_executor import search_path, serialize


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["a", "b"])
    monkeypatch.setattr(search_path, "_adopted", None)


def arrive(path: list[str]) -> object:
    return serialize.loads(search_path.attach(path, serialize.dumps((len, ("abc",), {}))))


def test_the_call_is_unharmed_and_the_path_is_taken_over() -> None:
    there = sys.path

    assert arrive(["c", "a"]) == (len, ("abc",), {})
    assert sys.path is there
    assert there == ["c", "a"]


def test_what_a_task_did_to_the_path_stays_until_the_client_changes_it() -> None:
    arrive(["c"])
    sys.path.append("of a task")
    arrive(["c"])
    assert sys.path == ["c", "of a task"]
    arrive(["c", "d"])
    assert sys.path == ["c", "d"]


def test_the_copy_is_one() -> None:
    path = search_path.current()
    sys.path.append("c")

    assert path == ["a", "b"]
