"""Data frames of a controller's results and of its summary."""

from __future__ import annotations

import operator

import pandas as pd

from crew_executor.controller import Controller


def test_results_are_rows_with_a_column_for_each_word_of_a_record() -> None:
    with Controller(workers=2) as controller:
        controller.push(operator.add, 1, 2, name="sum", seed=7)
        controller.push(operator.truediv, 1, 0, name="error")
        controller.push(list, "ab", name="list")
        controller.wait()
        results = controller.collect()
        frame = results.to_frame().set_index("name")

        assert isinstance(frame, pd.DataFrame)
        assert set(frame.index) == {"sum", "error", "list"}
        assert list(frame.loc[["sum", "error", "list"], "status"]) == ["success", "error", "success"]
        assert frame.loc["sum", "result"] == 3
        assert frame.loc["list", "result"] == ["a", "b"]
        assert frame.loc["sum", "seed"] == 7
        assert isinstance(frame.loc["error", "error"], ZeroDivisionError)
        assert "division by zero" in frame.loc["error", "traceback"]
        assert frame["seconds"].dtype == float
        assert results[0].to_frame().shape == (1, len(frame.columns) + 1)


def test_a_summary_has_a_row_for_each_seat_and_the_columns_asked_for() -> None:
    with Controller("c", workers=3) as controller:
        controller.map(abs, range(5))
        frame = controller.summary("tasks_*").to_frame()

        assert frame.shape == (3, len(frame.columns))
        assert all(name.startswith("tasks_") for name in frame.columns)
        assert frame["tasks_complete"].sum() == 5


def test_no_results_are_an_empty_frame_with_all_columns() -> None:
    with Controller() as controller:
        frame = controller.collect().to_frame()

        assert len(frame) == 0
        assert {"name", "status", "result", "error"} <= set(frame.columns)
