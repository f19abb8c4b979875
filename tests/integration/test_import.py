"""Importing the package is cheap: what is slow or heavy is imported when it is first needed."""

import subprocess
import sys

import pytest


def modules_after(statement: str) -> set[str]:
    """Return the names of the top-level modules that a fresh interpreter has imported after the statement."""
    program = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    # -W error: a warning at import time would meet every user.
    run = subprocess.run(
        [sys.executable, "-s", "-W", "error", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )

    assert (0, "") == (run.returncode, run.stderr)
    return set(run.stdout.split())


def test_import_brings_in_none_of_the_dependencies() -> None:
    imported = modules_after("import crew_executor")

    assert "crew_executor" in imported
    assert set() == imported & {"pynng", "cffi", "_cffi_backend", "cloudpickle", "psutil", "tblib"}


@pytest.mark.parametrize("module", ["asyncio", "ssl", "multiprocessing", "subprocess", "email", "zipfile"])
def test_import_brings_in_no_heavy_part_of_the_standard_library(module: str) -> None:
    """Whatever `concurrent.futures` brings anyway does not count."""
    baseline = modules_after("from concurrent.futures import Executor")

    assert module not in modules_after("import crew_executor") - baseline


@pytest.mark.parametrize("name", ["BrokenCrewError", "WorkerCrashError"])
def test_errors_that_processpoolexecutor_has_are_there_when_asked_for(name: str) -> None:
    program = f"from crew_executor import {name} as error; from crew_executor.errors import {name} as same; "
    program += "from concurrent.futures.process import BrokenProcessPool; import pickle; assert error is same; "
    program += "assert issubclass(error, BrokenProcessPool) and type(pickle.loads(pickle.dumps(error('x')))) is error"

    assert "multiprocessing" in modules_after(program)


def test_star_import_works() -> None:
    assert "crew_executor" in modules_after("from crew_executor import *")
