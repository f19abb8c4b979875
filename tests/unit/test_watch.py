"""Checks what `ps --watch` shows of executors."""

from __future__ import annotations

import io
from typing import Any

import pytest

from crew_executor import watch
from crew_executor.callers import Household
from crew_executor.registry import Entry
from crew_executor.watch import Rates, lines_of, rate_in_words, rows_of


def worker(number: int, state: str = "idle", tasks: int = 0) -> dict[str, Any]:
    return {"name": f"w-{number}", "host": "h1", "pid": number, "state": state, "tasks": tasks, "seconds": 1.25}


def household(*workers: dict[str, Any], answers: str = "client", **more: Any) -> Household:
    executor = {
        "run": "abcd", "name": "crew-1", "queued": 3, "running": 2, "done": 10, "max_workers": 4,
        "workers": list(workers), **more,
    }  # fmt: skip
    return Household(Entry("/nowhere", 1, 2), 1, 2, executors=[executor], answers=answers)


def test_a_rate_is_known_from_the_second_look_on() -> None:
    rates = Rates()

    assert rates.look("a", 10, 100.0) is None
    assert rates.look("b", 0, 100.0) is None
    assert rates.look("a", 30, 102.0) == 10
    assert rates.look("a", 30, 103.0) == 0
    assert rates.look("a", 0, 104.0) == 0  # it counts anew: never below nothing
    assert rates.look("a", 5, 104.0) is None


@pytest.mark.parametrize(
    ("rate", "words"), [(None, ""), (0.0, "0/s"), (0.25, "0.2/s"), (9.96, "10.0/s"), (12345.6, "12,346/s")]
)
def test_rates_in_words(rate: float | None, words: str) -> None:
    assert rate_in_words(rate) == words


def test_an_executor_with_its_workers_and_last_errors() -> None:
    errors = [f"12:00:0{number} f: ValueError: {number}" for number in range(5)]
    there = household(worker(1), worker(2, "busy", 7), worker(3, "busy", 9), failed=5, errors=errors)
    rates = Rates()
    rows_of([there], rates, 1.0)
    (row,) = rows_of([there], rates, 2.0)

    tasks = "3 queued, 2 running, 10 done, 5 failed"
    assert lines_of([row], ["others"]) == [
        f"run abcd  crew-1  (client 1)  {tasks}; 0/s; workers: 2 busy, 1 idle of at most 4",
        "    w-3  h1  busy  9 tasks, 1.2 s",
        "    w-2  h1  busy  7 tasks, 1.2 s",
        "    w-1  h1  idle  0 tasks, 1.2 s",
        "    error: 12:00:02 f: ValueError: 2",
        "    error: 12:00:03 f: ValueError: 3",
        "    error: 12:00:04 f: ValueError: 4",
        "others",
    ]


def test_of_many_workers_the_busiest_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "WORKERS_SHOWN", 2)
    (row,) = rows_of([household(*(worker(number, "busy", number) for number in range(5)))], Rates(), 1.0)

    assert [line.split()[0] for line in row.lines] == ["w-4", "w-3", "and"]
    assert row.lines[-1] == "and 3 more"


def test_a_client_of_an_earlier_version_has_no_errors_to_show() -> None:
    (row,) = rows_of([household()], Rates(), 1.0)

    assert (row.failed, row.errors, row.workers) == (0, [], "none of at most 4")


def test_who_does_not_answer_is_left_to_the_others() -> None:
    assert rows_of([household(answers="supervisor")], Rates(), 1.0) == []


def test_a_narrow_terminal_cuts_no_head_and_no_figure() -> None:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=80)
    there = household(worker(1, "busy", 7), worker(2), failed=12345, name="a-rather-long-name", done=1234567)
    rates = Rates()
    rows_of([there], rates, 1.0)

    console.print(watch._RichScreen._table(rows_of([there], rates, 1.5)))
    lines = console.file.getvalue().splitlines()

    assert lines[0].split() == ["executor", "client", "queued", "running", "done", "failed", "rate", "workers"]
    for figure in ("1,234,567", "12345", "0/s"):
        assert figure in lines[1], lines
    assert all(len(line) <= 80 and "\N{HORIZONTAL ELLIPSIS}" not in line for line in lines)


def test_the_table_of_a_terminal_has_one_head_for_all_executors() -> None:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=140)
    first = household(worker(1, "busy", 7), failed=1, errors=["12:00:01 f: ValueError: [red]"])
    second = household(name="crew-[2]", run="bcde")
    rows = rows_of([first, second], Rates(), 1.0)

    for part in watch._RichScreen._parts(rows, ["others"]):
        console.print(part)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]

    assert [line for line in lines if "queued" in line] == [lines[2]]
    assert lines[2].split() == ["executor", "client", "queued", "running", "done", "failed", "rate", "workers"]
    assert lines[3].split()[:7] == ["crew-1", "abcd", "1", "3", "2", "10", "1"]
    assert lines[4].split()[:7] == ["crew-[2]", "bcde", "1", "3", "2", "10", "0"]
    assert lines[5:] == [
        "", "crew-1 abcd", "    w-1  h1  busy  7 tasks, 1.2 s", "    12:00:01 f: ValueError: [red]", "others",
    ]  # fmt: skip
