"""Checks errors.py: one root, the bases that handlers rely on, and that every exception survives pickling whole."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest

from crew_executor import errors
from crew_executor.errors import (
    BrokenCrewError,
    CrewError,
    LaunchError,
    ProtocolError,
    RemoteTaskError,
    TaskTimeoutError,
    WorkerCrashError,
)

CRASH = WorkerCrashError(
    "worker w1 died", task="f", worker="w1", pid=77, host="here", exitcode=-9, signal="SIGKILL", stderr="last\nlines"
)
REMOTE = RemoteTaskError("cannot travel", type_name="mod.Odd", text="odd", traceback_text="Traceback ...")
EXAMPLES = [
    CrewError("root"),
    CRASH,
    WorkerCrashError("nothing known"),
    TaskTimeoutError("f ran longer than its 3 s"),
    REMOTE,
    BrokenCrewError("initializer failed"),
    LaunchError("sbatch: exit code 1"),
    ProtocolError("version"),
]


def test_every_public_exception_has_an_example_here() -> None:
    assert set(errors.__all__) == {type(error).__name__ for error in EXAMPLES}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_exception_survives_pickling_with_its_attributes(error: CrewError, protocol: int) -> None:
    twin = pickle.loads(pickle.dumps(error, protocol))

    assert type(error) is type(twin)
    assert error.args == twin.args
    assert str(error) == str(twin)
    assert vars(error) == vars(twin)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_exception_survives_copying(error: CrewError) -> None:
    twin = copy.copy(error)

    assert twin is not error
    assert (error.args, vars(error)) == (twin.args, vars(twin))


def test_what_was_noted_on_an_exception_survives_pickling() -> None:
    error = CrewError("root")
    error.__notes__ = ["seen on w1"]  # what add_note() writes, where there is add_note()

    assert ["seen on w1"] == pickle.loads(pickle.dumps(error)).__notes__


def test_a_pickled_exception_does_not_share_its_attributes() -> None:
    error = CrewError("root")
    twin = copy.copy(error)
    twin.__dict__["mark"] = 1

    assert {} == vars(error)


class NeedsKeyword(CrewError):
    """What a user may derive: its __init__ cannot be called with the args alone."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


def test_a_derived_exception_with_a_required_keyword_survives_pickling() -> None:
    twin = pickle.loads(pickle.dumps(NeedsKeyword("x", code=3)))

    assert ("x", 3) == (str(twin), twin.code)


def test_a_crash_knows_all_that_was_told() -> None:
    assert ("f", "w1", 77, "here") == (CRASH.task, CRASH.worker, CRASH.pid, CRASH.host)
    assert (-9, "SIGKILL", "last\nlines") == (CRASH.exitcode, CRASH.signal, CRASH.stderr)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_exception_has_the_one_root_and_a_text_that_says_what_it_means(name: str) -> None:
    error = getattr(errors, name)

    assert issubclass(error, CrewError)
    assert error.__doc__


def test_a_crash_and_a_broken_crew_are_caught_as_a_broken_process_pool_but_told_apart() -> None:
    for error in (WorkerCrashError, BrokenCrewError):
        assert issubclass(error, BrokenProcessPool)
        assert issubclass(error, BrokenExecutor)
    assert not issubclass(WorkerCrashError, BrokenCrewError)
    assert not issubclass(BrokenCrewError, WorkerCrashError)


def test_a_task_timeout_is_a_timeout_error() -> None:
    assert issubclass(TaskTimeoutError, TimeoutError)
