"""The benchmark runs: it measures in fresh processes, checks results, and writes JSON, tables, a page, a picture."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
ROWS = ["submit", "trap", "cold", "shutdown"]


def run(*arguments: str | Path, script: str = "benchmark.py") -> str:
    # The parts of the script stand beside it, which a safe path would hide.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, FOLDER / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("benchmark") / "measured.json"
    table = run("run", *ROWS, "--quick", "--rounds", "1", "--contenders", "crew,fork", "--json", file)
    assert table == run("render", file)
    return file


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_quick_run_measures_every_row_with_both_contenders(measured: Path) -> None:
    rows = json.loads(measured.read_text())["rows"]

    assert ROWS == list(rows)
    for row in rows.values():
        for contender in ("crew", "fork"):
            (cell,) = row["cells"][contender]
            assert "" == cell["problem"]
            assert cell["figure"] > 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_page_has_its_picture_beside_it(measured: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.md"
    run("render", measured, "--page", page)

    assert "](page.svg)" in page.read_text()
    assert "<svg" in page.with_suffix(".svg").read_text()


def test_the_list_names_rows_and_contenders() -> None:
    listed = run("list")

    assert "no-op submits" in listed
    assert "CrewExecutor" in listed


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(AssertionError, match="there is no nonsense; there are submit"):
        run("run", "nonsense")


def test_a_small_crowd_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "crowd.json"
    run("--real", "2", "--light", "5", "--tasks", "300", "--json", file, script="crowd.py")
    figures = json.loads(file.read_text())

    assert [2, 5] == [figures[crowd]["workers"] for crowd in ("real", "light")]
    assert all(figure > 0 for crowd in ("real", "light") for figure in figures[crowd].values())
