"""sys.path and the levels of loggers travel with a call once they have changed, and are taken over once."""

from __future__ import annotations

import logging
import pickle
import sys

import pytest

from crew_executor import log_records, serialize, surroundings
from crew_executor.surroundings import Surroundings

CALL = serialize.dumps((len, ("abc",), {}))


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["a", "b"])
    monkeypatch.setattr(surroundings, "_adopted", None)
    monkeypatch.setattr(log_records, "_adopted", log_records.current_levels())


def test_nothing_travels_while_nothing_has_changed() -> None:
    here = Surroundings(logging.root)
    assert here.attach(CALL) is CALL
    sys.path.append("c")
    assert here.attach(CALL) is not CALL
    sys.path.remove("c")
    assert here.attach(CALL) is not CALL, "a worker may have the other path"


def test_the_call_is_unharmed_and_the_path_is_taken_over() -> None:
    here, there = Surroundings(logging.root), sys.path
    sys.path.insert(0, "c")
    data = here.attach(CALL)
    sys.path[:] = []

    assert pickle.loads(data) == (len, ("abc",), {})
    assert sys.path is there
    assert there == ["c", "a", "b"]


def test_what_a_task_did_to_the_path_stays_until_the_client_changes_it() -> None:
    here = Surroundings(logging.root)
    sys.path.append("c")
    first = here.attach(CALL)
    sys.path.append("d")
    second = here.attach(CALL)

    pickle.loads(first)
    sys.path.append("of a task")
    pickle.loads(first)
    assert sys.path == ["a", "b", "c", "of a task"]
    pickle.loads(second)
    assert sys.path == ["a", "b", "c", "d"]


def test_a_level_of_the_root_logger_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Surroundings(logging.root)
    monkeypatch.setattr(logging.root, "level", logging.DEBUG)
    data = here.attach(CALL)
    monkeypatch.setattr(logging.root, "level", logging.ERROR)
    pickle.loads(data)

    assert logging.root.level == logging.DEBUG
