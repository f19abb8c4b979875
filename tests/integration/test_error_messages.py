"""Every public error, triggered: it says who, in what state, and what to do where something can be done."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable

import pytest

from crew_executor import CrewExecutor, errors
from crew_executor.core.messages import decode_frame
from crew_executor.launchers import LocalLauncher

from .helpers import die


class Stubborn(Exception):
    """Does not travel."""

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("not I")


def fail_stubbornly() -> None:
    raise Stubborn("of the task")


def refuse() -> None:
    raise OSError("no licence left")


def crash() -> BaseException:
    with CrewExecutor(1, name="told") as executor:
        error = executor.submit(die).exception()
    assert error is not None
    return error


def timeout() -> BaseException:
    with CrewExecutor(1, name="told") as executor:
        error = executor.options(timeout=0.2).submit(time.sleep, 30).exception()
    assert error is not None
    return error


def remote() -> BaseException:
    with CrewExecutor(1, name="told") as executor:
        error = executor.submit(fail_stubbornly).exception()
    assert error is not None
    return error


def broken() -> BaseException:
    with CrewExecutor(1, name="told", initializer=refuse) as executor:
        error = executor.submit(len, "abc").exception()
    assert error is not None
    return error


def launch() -> BaseException:
    launcher = LocalLauncher(python="/nosuch/python", max_failed_launches=1)
    with CrewExecutor(1, name="told", launcher=launcher) as executor:
        error = executor.submit(len, "abc").exception()
    assert error is not None
    assert error.__cause__ is not None
    return error.__cause__


def protocol() -> BaseException:
    with pytest.raises(errors.ProtocolError) as caught:
        decode_frame(memoryview(bytes([99]) * 64))
    return caught.value


CASES: dict[str, tuple[Callable[[], BaseException], list[str]]] = {
    "WorkerCrashError": (
        crash, [r"task .*\.die: ", r"worker told-1 \(pid \d+ on HOST\) was lost: ", "killed by SIGKILL"],
    ),
    "TaskTimeoutError": (timeout, [r"time\.sleep took longer than ", r"timeout=0\.2 s", "in worker told-1"]),
    "RemoteTaskError": (remote, ["Stubborn: of the task", "cannot be pickled: TypeError: not I", "traceback_text"]),
    "BrokenCrewError": (broken, ["the initializer failed", "worker told-1", "its exception is the cause"]),
    "LaunchError": (launch, ["worker told-1", "/nosuch/python", "No such file"]),
    "ProtocolError": (protocol, ["version 99", "install the same crew_executor on both"]),
}  # fmt: skip


def test_each_public_error_is_tried() -> None:
    assert set(errors.__all__) == {"CrewError", *CASES}  # the first is what they have in common, and never raised


@pytest.mark.parametrize("name", list(CASES))
def test_an_error_says_who_in_what_state_and_what_to_do(name: str) -> None:
    cause, patterns = CASES[name]
    error = cause()

    assert type(error) is getattr(errors, name)
    assert isinstance(error, errors.CrewError)
    text = str(error)
    for pattern in patterns:
        assert re.search(pattern.replace("HOST", re.escape(socket.gethostname())), text), (pattern, text)


@pytest.mark.parametrize(
    ("misuse", "words"),
    [
        (lambda executor: (executor.shutdown(), executor.submit(len, "")), "cannot schedule new futures after"),
        (lambda executor: executor.submit(len, executor.submit(len, "")).result(), "is a future, which cannot be sent"),
        (lambda executor: executor.options(timeout=-1), "timeout"),
        (lambda executor: executor.options(retries=-1), "retries"),
        (lambda executor: executor.map(len, [], chunksize=0), "chunksize"),
        (lambda executor: executor.run_on_all("f"), "run_on_all.. needs a function to call, not 'f'"),
        (lambda executor: executor.launch_workers(0), "must be at least 1, not 0"),
        (lambda executor: executor.on_event(None), "on_event.. needs a function to call, not None"),
        (lambda executor: executor.timeline().save("x.png"), r"saved as \.html .a page. or \.json"),
        (lambda executor: executor.submit(os.getpid).replay(), "only a failed one is run again"),
    ],
)  # fmt: skip
def test_misuse_is_told_with_the_argument_and_what_it_must_be(
    misuse: Callable[[CrewExecutor], object], words: str
) -> None:
    with CrewExecutor(1) as executor, pytest.raises((RuntimeError, TypeError, ValueError), match=words):
        misuse(executor)
