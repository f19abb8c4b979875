"""Checks the table of intended differences against this interpreter's standard library and against our own tests."""

from __future__ import annotations

import fnmatch
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from . import conftest, evidence, stdlib, test_counterparts
from .differences import CLASSES_NOT_RUN, CLASSES_RUN_APART, DIFFERENCES, PREPARATIONS, Difference, Preparation

pytestmark = pytest.mark.conformance


def test_each_row_is_listed_once() -> None:
    tests = [row.test for row in (*DIFFERENCES, *PREPARATIONS)]

    assert sorted(set(tests)) == sorted(tests)


def test_each_row_names_its_counterpart() -> None:
    assert [] == [row.instead for row in DIFFERENCES if not hasattr(test_counterparts, row.instead)]


def test_each_counterpart_stands_for_a_row() -> None:
    counterparts = {name for name in vars(test_counterparts) if name.startswith("test_")}

    assert counterparts == {row.instead for row in DIFFERENCES}


@pytest.fixture(scope="module")
def behaviours() -> dict[str, type]:
    try:
        return stdlib.behaviours()
    except stdlib.StdlibTestsMissingError as error:
        if evidence.is_required():
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("row", [*DIFFERENCES, *PREPARATIONS], ids=lambda row: row.test)
def test_listed_test_exists_where_the_table_says(row: Difference | Preparation, behaviours: dict[str, type]) -> None:
    behaviour, test = row.test.split(".")
    if sys.version_info[:2] >= getattr(row, "since", (3, 10)):
        assert hasattr(behaviours.get(behaviour), test), f"{row.test} has gone from this Python"


def test_every_class_of_the_stdlib_is_accounted_for(behaviours: dict[str, type]) -> None:
    def is_accounted_for(name: str, case: type) -> bool:
        # 1. A behaviour joined with a process pool: run against CrewExecutor by test_stdlib.py.
        # 2. Run by a class of its own there. 3. Listed as being about something else.
        is_on_processes = issubclass(case, stdlib.process_pools()) and case.__bases__[0] in behaviours.values()
        is_listed = any(fnmatch.fnmatchcase(name, row.pattern) for row in CLASSES_NOT_RUN)
        return is_on_processes or name in CLASSES_RUN_APART or is_listed

    assert [] == [name for name, case in stdlib.concrete_cases().items() if not is_accounted_for(name, case)]


def test_unlisted_skip_of_a_stdlib_test_is_a_failure() -> None:
    item = SimpleNamespace(cls=SimpleNamespace(is_conformance_case=True), obj=None, nodeid="")
    report = SimpleNamespace(outcome="skipped", skipped=True, passed=False, when="call", longrepr="no time")
    hook = conftest.pytest_runtest_makereport(item)  # type: ignore[arg-type]  # as much of an Item as it looks at
    next(hook)
    with pytest.raises(StopIteration):
        hook.send(report)  # type: ignore[arg-type]  # the same

    assert report.outcome == "failed"
    assert "no time" in report.longrepr


def test_evidence_names_environment_python_and_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(evidence.LOG, str(tmp_path / "log"))
    monkeypatch.setenv("TOX_ENV_NAME", "py399")
    evidence.write(passed=140)
    evidence.write(passed=0)

    version = platform.python_version()
    assert f"py399 {version} 140 ran\npy399 {version} missing\n" == (tmp_path / "log").read_text()
