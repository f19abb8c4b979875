"""Checks controller/summary.py: which columns, and how they look."""

from __future__ import annotations

from typing import Any

import pytest

from crew_executor.controller.summary import COLUMNS, Summary


def row(**values: Any) -> dict[str, Any]:
    return {name: values.get(name, 0) for name in COLUMNS}


def test_columns_are_chosen_by_name_and_pattern_in_that_order() -> None:
    rows = [row(tasks_assigned=1), row(tasks_assigned=2)]

    assert Summary(rows).columns == list(COLUMNS)
    assert Summary(rows, "tasks_*").columns == ["tasks_assigned", "tasks_complete"]
    assert Summary(rows, ["tasks_complete", "tasks_*", "worker_name"]).columns == [
        "tasks_complete", "tasks_assigned", "worker_name",
    ]  # fmt: skip
    assert Summary(rows, "tasks_*")[1] == {"tasks_assigned": 2, "tasks_complete": 0}
    assert Summary(rows, "tasks_*")["tasks_assigned"] == [1, 2]


def test_a_name_that_is_none_is_told_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'worker_socket'.*worker_name"):
        Summary([row()], "worker_socket")


def test_it_is_printed_as_a_table() -> None:
    rows = [row(worker_name="c-1", popped_seconds=1.5), row(worker_name="c-10", popped_seconds=10.25)]
    lines = str(Summary(rows, ["worker_name", "popped_seconds"])).splitlines()

    assert lines == ["worker_name  popped_seconds", "c-1                   1.500", "c-10                 10.250"]
    assert str(Summary([], "tasks_*")) == "tasks_assigned  tasks_complete"
