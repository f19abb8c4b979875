"""The benchmark's pure parts: ratios within a round, what counts as reached, tables; its lists fit together."""

import json

import pytest
from benchmark_contenders import CONTENDERS
from benchmark_results import Cell, Results, RowResults, Spread, Who, spread_of
from benchmark_row import BASELINE, Bar, Settings
from benchmark_rows import ROWS
from benchmark_schedule import first_come_first_served
from benchmark_start import PROGRAM
from benchmark_table import bar_text, losses, number, page, row_table, spread, summary

MISSING = Cell(problem="not installed")


def cells(*figures: float) -> list[Cell]:
    return [Cell(figure) for figure in figures]


def rates(better: str = "higher", bars: tuple[Bar, ...] = (), **by_contender: list[Cell]) -> RowResults:
    names = {name.replace("_", "-"): several for name, several in by_contender.items()}
    return RowResults("no-op", "tasks/s", better, "What is done.", BASELINE, list(bars), names)


def results_of(row: RowResults, rounds: int = 3) -> Results:
    machine = {
        "cpus": 2, "processor": "a processor", "memory_gb": 8, "system": "Linux", "architecture": "x86_64",
        "python": "3.12.1", "load": [0.1, 2.0],
    }  # fmt: skip
    settings = {"workers": 2, "rounds": rounds, "is_quick": False, "is_large": False}
    contenders = {name: Who(CONTENDERS[name].title, None if name == "ray" else "1.0") for name in row.cells}
    return Results("2026-01-02", machine, settings, contenders, {"submit": row})


@pytest.fixture
def row() -> RowResults:
    """Ours is 4, 6 and 5 times as fast as fork, and half as fast as pebble."""
    return rates(
        bars=(Bar(4.5), Bar(3, "pebble")), crew=cells(400, 300, 500), fork=cells(100, 50, 100),
        pebble=cells(800, 600, 1000), ray=[MISSING] * 3,
    )  # fmt: skip


def test_a_spread_is_least_median_and_greatest() -> None:
    assert Spread(1, 2, 7) == spread_of([7, 1, 2])
    assert spread_of([]) is None


def test_a_ratio_is_taken_within_a_round(row: RowResults) -> None:
    assert [4, 6, 5] == row.ratios("crew", "fork")


def test_a_round_without_one_of_both_has_no_ratio() -> None:
    row = rates(crew=[Cell(4), Cell(problem="failed: it was"), Cell(6)], fork=[Cell(2), Cell(2), Cell(0)])

    assert [2] == row.ratios("crew", "fork")
    assert [] == row.ratios("crew", "dask")
    assert ["failed: it was"] == row.problems("crew")


def test_better_is_above_one_whatever_is_counted() -> None:
    assert [4] == rates("higher", crew=cells(8), fork=cells(2)).times_better("crew", "fork")
    assert [4] == rates("lower", crew=cells(2), fork=cells(8)).times_better("crew", "fork")


def test_a_bar_is_held_against_the_median_ratio(row: RowResults) -> None:
    assert (5, True) == row.reached(Bar(5))
    assert (5, False) == row.reached(Bar(5.1))
    assert row.reached(Bar(5, "dask")) is None


def test_a_bar_without_a_contender_is_held_against_the_figure() -> None:
    row = rates("lower", crew=cells(30, 20, 50))

    assert (30, True) == row.reached(Bar(30, None))
    assert (30, False) == row.reached(Bar(29, None))


def test_who_is_ahead_was_better_in_every_round_with_processes(row: RowResults) -> None:
    row.cells |= {"dask": cells(401, 301, 499), "threads": cells(900, 900, 900)}

    assert ["pebble"] == row.ahead_of_us()


def test_parts_are_shown_by_their_medians() -> None:
    row = rates(crew=[Cell(1, {"import ms": 10}), Cell(1, {"import ms": 30}), Cell(1, {"import ms": 12, "end ms": 3})])

    assert {"import ms": 12, "end ms": 3} == row.parts("crew")


def test_results_survive_json(row: RowResults) -> None:
    results = results_of(row)

    assert results == Results.from_json(json.loads(json.dumps(results.as_json())))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (123456.7, "123,457"), (99.94, "99.9"), (9.876, "9.88"), (0.1234, "0.123"), (0.00123, "0.0012")],
)
def test_numbers_have_about_three_digits(value: float, shown: str) -> None:
    assert shown == number(value)


def test_a_spread_of_one_value_is_that_value() -> None:
    assert "5.00x" == spread(Spread(5, 5, 5), "x")
    assert "5.00x (4.00-6.00)" == spread(Spread(4, 5, 6), "x")
    assert "" == spread(None)


def test_the_table_of_a_row(row: RowResults) -> None:
    assert """\
|  | tasks/s (higher is better) | ratio to ProcessPoolExecutor (fork) |
| --- | --: | --: |
| **CrewExecutor** | 400 (300-500) | 5.00x (4.00-6.00) |
| ProcessPoolExecutor (fork) | 100 (50.0-100) |  |
| pebble | 800 (600-1,000) | 10.0x (8.00-12.0) |
| ray | not installed |  |""" == row_table(results_of(row), "submit")


def test_the_summary_names_the_bars_the_noise_and_the_best(row: RowResults) -> None:
    row.cells["fork-again"] = cells(110, 50, 90)

    assert (
        "| [no-op](#submit) | tasks/s ^ | 400 (300-500) | 5.00x (4.00-6.00) | ProcessPoolExecutor (fork) "
        "| ≥ 4.5x: ✓, ≥ 3x pebble: ✗ (0.500) | 0.900-1.10 | pebble: 800 |" == summary(results_of(row)).splitlines()[-1]
    )


def test_a_bar_that_was_not_measured_is_neither_reached_nor_missed(row: RowResults) -> None:
    assert "≥ 2x dask: not measured" == bar_text(results_of(row), row, Bar(2, "dask"))


def test_the_losses_are_told(row: RowResults) -> None:
    text = losses(results_of(row))

    assert "- no-op: ≥ 3x pebble: ✗ (0.500)" in text
    assert "- no-op: pebble 2.00x" in text


def test_the_page_tells_machine_date_and_versions(row: RowResults) -> None:
    text = page(results_of(row), "performance.svg")

    for words in ("2026-01-02", "2 CPUs, a processor", "3.12.1", "ray (not installed)", "CrewExecutor 1.0"):
        assert words in text
    assert "](performance.svg)" in text
    assert '<a id="submit"></a>' in text


def test_a_perfect_queue_gives_the_next_task_to_whoever_is_free() -> None:
    assert [3, 1, 2, 4] == first_come_first_served([3, 1, 1, 2], workers=2)


def test_sizes_follow_the_settings() -> None:
    assert 20 == Settings().number(20, 2, 100)
    assert 2 == Settings(is_quick=True).number(20, 2, 100)
    assert 100 == Settings(is_large=True).number(20, 2, 100)
    assert 20 == Settings(is_large=True).number(20, 2)


def test_bars_and_baselines_name_contenders_that_take_part() -> None:
    for key, row in ROWS.items():
        for name in filter(None, [row.baseline, *[bar.against for bar in row.bars]]):
            assert CONTENDERS[name].takes_part_in(key)


def test_every_row_says_what_it_does() -> None:
    assert [] == [key for key, row in ROWS.items() if not row.definition]


@pytest.mark.parametrize("contender", CONTENDERS.values(), ids=lambda contender: contender.key)
def test_the_cold_program_of_every_contender_is_python(contender: object) -> None:
    make, first, end = (line.format(workers=2) for line in contender.program)

    compile(PROGRAM.format(statement=contender.statement, make=make, first=first, end=end), contender.key, "exec")
