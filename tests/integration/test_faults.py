"""The whole matrix of faults: at every moment of a task's life, everything that can go wrong.

In each cell every future is done in time, with an error that says what happened and where, and the next submit works.
Where a fault strikes in the client's own process and ends it, nothing of it may be left.
"""

from __future__ import annotations

import importlib
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from crew_executor import BrokenCrewError, CrewExecutor, CrewFuture, RemoteTaskError, WorkerCrashError

from . import fault_tasks
from .fault_tasks import DEADLY, RAISED, STRIKES
from .helpers import TwoArguments, add, fail_with_cause, identity, is_alive, wait_until

SECONDS = 10
"""Within which every future must be done."""


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(2) as executor:
        yield executor


def _check_that_the_pool_goes_on(executor: CrewExecutor) -> None:
    assert [executor.submit(add, number, 1).result(timeout=SECONDS) for number in range(4)] == [1, 2, 3, 4]


def _told(error: BaseException | None) -> str:
    """Return what an error says, with its notes: 3.10 keeps them and does not print them."""
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def _check_error(future: CrewFuture[Any], strike: str, where: str) -> None:
    """Check that the future failed by the strike, and that the error says where."""
    error = future.exception(timeout=SECONDS)
    if strike in DEADLY:
        assert isinstance(error, WorkerCrashError)
        assert DEADLY[strike] in str(error)
        assert error.task in str(error)
        assert str(error.pid) in str(error)
    else:
        assert isinstance(error, (RAISED[strike], RemoteTaskError)) or _is_about_recursion(error)
        assert where in _told(error)


def _is_about_recursion(error: BaseException | None) -> bool:
    """Answer whether it is what cloudpickle makes of a RecursionError."""
    return isinstance(error, pickle.PicklingError) and "recursion" in str(error)


# ---------------------------------------------------------------------- in the worker


@pytest.mark.parametrize("strike", STRIKES)
def test_while_the_call_is_unpickled(executor: CrewExecutor, strike: str) -> None:
    future = executor.submit(identity, fault_tasks.StrikesWhenUnpickled(strike, 0))

    _check_error(future, strike, "raised while unpickling the call in worker crew-")
    _check_that_the_pool_goes_on(executor)


@pytest.mark.parametrize("strike", STRIKES)
def test_while_the_function_is_looked_up(
    executor: CrewExecutor, strike: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    name = f"strikes_{strike.replace('.', '_').lower()}"
    text = fault_tasks.MODULE_THAT_STRIKES.format(safe_pid=os.getpid(), strike=strike)
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module(name)
    with CrewExecutor(1) as own:  # its workers know the new directory
        future = own.submit(module.function)

        _check_error(future, strike, "raised while unpickling the call in worker crew-")
        _check_that_the_pool_goes_on(own)


@pytest.mark.parametrize("strike", STRIKES)
def test_while_the_task_runs(executor: CrewExecutor, strike: str) -> None:
    future = executor.submit(fault_tasks.run, strike)

    error = future.exception(timeout=SECONDS)
    if strike in DEADLY:
        _check_error(future, strike, "")
    else:
        assert type(error) is RAISED[strike]
    _check_that_the_pool_goes_on(executor)


@pytest.mark.parametrize("strike", STRIKES)
def test_while_the_result_is_pickled(executor: CrewExecutor, strike: str) -> None:
    future = executor.submit(fault_tasks.return_what_strikes_when_pickled, strike)

    _check_error(future, strike, "raised while pickling the result in worker crew-")
    _check_that_the_pool_goes_on(executor)


@pytest.mark.parametrize("strike", STRIKES)
def test_while_the_exception_is_pickled(executor: CrewExecutor, strike: str) -> None:
    future = executor.submit(fault_tasks.raise_what_strikes_when_pickled, strike)

    _check_error(future, strike, "it cannot be pickled")
    if strike not in DEADLY:
        error = future.exception()
        assert isinstance(error, RemoteTaskError)
        assert error.type_name.endswith("ErrorThatStrikesWhenPickled")
        assert "raise_what_strikes_when_pickled" in error.traceback_text
    _check_that_the_pool_goes_on(executor)


@pytest.mark.parametrize("strike", STRIKES)
def test_while_the_exception_is_tried_out_by_the_worker(executor: CrewExecutor, strike: str) -> None:
    future = executor.submit(fault_tasks.raise_what_strikes_when_unpickled, strike)

    _check_error(future, strike, "it cannot be pickled")
    _check_that_the_pool_goes_on(executor)


@pytest.mark.parametrize("strike", STRIKES)
def test_in_the_initializer(strike: str) -> None:
    with CrewExecutor(1, initializer=fault_tasks.run, initargs=(strike,)) as executor:
        futures = []
        try:
            futures = [executor.submit(add, 1, 1) for _ in range(3)]
        except BrokenCrewError:
            assert strike not in DEADLY  # so soon
        for future in futures:
            error = future.exception(timeout=SECONDS)
            assert isinstance(error, BrokenCrewError)
            if strike in DEADLY:
                assert DEADLY[strike] in str(error)
            else:
                assert "initializer" in str(error)
                assert type(error.__cause__) is RAISED[strike]
        with pytest.raises(BrokenCrewError):
            executor.submit(add, 1, 1)
    with CrewExecutor(1) as executor:
        _check_that_the_pool_goes_on(executor)


# ---------------------------------------------------------------------- in the client, which lives on


@pytest.mark.parametrize("strike", RAISED)
def test_while_the_call_is_pickled(executor: CrewExecutor, strike: str) -> None:
    future = executor.submit(identity, fault_tasks.StrikesWhenPickled(strike))

    error = future.exception(timeout=SECONDS)
    assert type(error) is RAISED[strike] or _is_about_recursion(error)
    assert "raised while pickling the call of identity in the client" in _told(error)
    _check_that_the_pool_goes_on(executor)


@pytest.mark.parametrize("strike", RAISED)
def test_while_the_result_is_unpickled(executor: CrewExecutor, strike: str) -> None:
    future = executor.submit(fault_tasks.return_what_strikes_when_unpickled, strike)

    error = future.exception(timeout=SECONDS)
    assert type(error) is RAISED[strike]
    assert "raised while unpickling the result of" in _told(error)
    _check_that_the_pool_goes_on(executor)


@pytest.mark.parametrize("strike", RAISED)
def test_while_the_exception_is_unpickled(executor: CrewExecutor, strike: str) -> None:
    future = executor.submit(fault_tasks.raise_what_strikes_in_the_client, strike)

    error = future.exception(timeout=SECONDS)
    assert isinstance(error, RemoteTaskError)
    assert "it cannot be unpickled here" in str(error)
    assert type(error.__cause__) is RAISED[strike]
    assert "raise_what_strikes_in_the_client" in error.traceback_text
    _check_that_the_pool_goes_on(executor)


@pytest.mark.parametrize("strike", RAISED)
def test_in_a_callback(executor: CrewExecutor, strike: str, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    with caplog.at_level(logging.CRITICAL + 1):
        future = executor.submit(add, 1, 1)
        future.add_done_callback(lambda _future: STRIKES[strike]())
        future.add_done_callback(lambda _future: done.append("next"))
        wait_until(lambda: bool(done), "the next callback runs as well")

    assert future.result(timeout=SECONDS) == 2
    _check_that_the_pool_goes_on(executor)


# ---------------------------------------------------------------------- in the client, which ends by it

CLIENT = """
import sys
from crew_executor import CrewExecutor
from integration import fault_tasks
from integration.helpers import add, identity
where, strike = sys.argv[1:]
executor = CrewExecutor(2)
print([worker.pid for worker in executor.stats().workers], flush=True)
print(executor.submit(add, 1, 1).result(), [worker.pid for worker in executor.stats().workers], flush=True)
if where == "call":
    executor.submit(identity, fault_tasks.StrikesWhenPickled(strike))
elif where == "result":
    executor.submit(fault_tasks.return_what_strikes_when_unpickled, strike).result()
elif where == "exception":
    executor.submit(fault_tasks.raise_what_strikes_in_the_client, strike).result()
else:
    future = executor.submit(add, 1, 1)
    future.add_done_callback(lambda _future: fault_tasks.STRIKES[strike]())
    executor.shutdown()
print("lives", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("strike", DEADLY)
@pytest.mark.parametrize("where", ["call", "result", "exception", "callback"])
def test_what_ends_the_client_leaves_nothing_behind(where: str, strike: str) -> None:
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, where, strike],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    family: set[int] = set()

    def is_over() -> bool:
        try:
            family.update(child.pid for child in psutil.Process(client.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            pass
        return client.poll() is not None

    wait_until(is_over, "the client ends")
    output, _ = client.communicate()

    assert "lives" not in output
    assert "2 [" in output  # it had come so far
    assert client.returncode == {"os._exit": 7, "SIGKILL": -9, "SIGSEGV": -11}[strike]
    wait_until(lambda: not any(map(is_alive, family)), "no process of the client is left", SECONDS)


# ---------------------------------------------------------------------- ordinary exceptions


def test_an_exception_with_two_arguments_keeps_type_attributes_and_frames(executor: CrewExecutor) -> None:
    error = executor.submit(fail_with_cause).exception(timeout=SECONDS)

    assert type(error) is TwoArguments
    assert (error.left, error.right, str(error)) == ("one", "two", "one and two")
    assert isinstance(error.__cause__, ZeroDivisionError)
    frames = [frame.f_code.co_name for frame in _frames(error)]
    assert frames[-1] == "fail_with_cause"


def _frames(error: BaseException) -> Iterator[Any]:
    entry = error.__traceback__
    while entry is not None:
        yield entry.tb_frame
        entry = entry.tb_next


def test_all_faults_at_once_are_told_apart(executor: CrewExecutor) -> None:
    """Many tasks in flight, most of them bad: each future gets its own fate."""
    makers: list[Callable[[str], tuple[Any, ...]]] = [
        lambda strike: (identity, fault_tasks.StrikesWhenUnpickled(strike, 0)),
        lambda strike: (fault_tasks.run, strike),
        lambda strike: (fault_tasks.return_what_strikes_when_pickled, strike),
        lambda strike: (fault_tasks.raise_what_strikes_when_pickled, strike),
    ]
    bad = [(strike, executor.submit(*make(strike))) for make in makers for strike in STRIKES]
    good = [executor.submit(add, number, 0) for number in range(200)]

    assert [future.result(timeout=60) for future in good] == list(range(200))
    for strike, future in bad:
        assert isinstance(future.exception(timeout=60), WorkerCrashError) == (strike in DEADLY)
