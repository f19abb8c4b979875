"""Checks worker/call.py: what a call becomes, whom an interrupt hits, and which errors are to be retried.

No signal is sent: a task that is to be interrupted calls the handler itself, where the signal would strike.
"""

from __future__ import annotations

import json
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from crew_executor import serialize
from crew_executor.core.messages import Outcome, OutcomeFlag, TaskFlag, TaskItem
from crew_executor.errors import RemoteTaskError, TaskTimeoutError
from crew_executor.tracebacks import loads_error
from crew_executor.worker import call
from crew_executor.worker.call import (
    UNPICKLE_SECONDS,
    WARNINGS_MAX,
    CallRunner,
    TaskInterrupted,
    dump_initializer_error,
)
from crew_executor.worker.children import START_SECONDS, Children
from crew_executor.worker.memory import MemoryLimits


@pytest.fixture(autouse=True)
def _handler_of_the_tests() -> Iterator[None]:
    """A CallRunner takes SIGINT: what it leaves would swallow each Ctrl-C of the tests after it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


class Bell:
    """Where tasks find the handler that a signal would call."""

    def __init__(self) -> None:
        self.ordered: set[int] = set()
        self.runner = CallRunner("w1", lambda ordinal: ordinal in self.ordered, self.set_deadline)
        self.heard: list[str] = []
        self.deadlines: list[tuple[int, float]] = []

    def set_deadline(self, ordinal: int, seconds: float) -> None:
        self.deadlines.append((ordinal, seconds))

    def strike(self, ordinal: int) -> None:
        """Do what the supervisor does: name the task, then signal."""
        self.ordered.add(ordinal)
        self.runner.interrupt(2, None)


bell: Bell


@pytest.fixture(autouse=True)
def _bell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    global bell
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # a runner puts its own in place
    bell = Bell()
    yield
    del bell


def run(
    fn: Callable[..., Any], *args: Any, ordinal: int = 1, timeout: float = 0.0, retry_on: bytes | None = None
) -> Outcome:
    parts = [memoryview(serialize.dumps((fn, args, {})))]
    if retry_on is not None:
        parts.append(memoryview(retry_on))
    flags = 0 if retry_on is None else TaskFlag.RETRY_ON
    return bell.runner.run(TaskItem(ordinal, 10 + ordinal, 1, flags, tuple(parts), timeout))


def value_of(outcome: Outcome) -> Any:
    assert not outcome.is_error
    return serialize.loads(outcome.parts[0])


def error_of(outcome: Outcome) -> BaseException:
    assert outcome.is_error
    return loads_error(outcome.parts[0], json.loads(outcome.parts[-1]))


def frames_of(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def notes_of(error: BaseException) -> str:
    return " ".join(getattr(error, "__notes__", []))


# ---------------------------------------------------------------------- what tasks do


def add(left: int, right: int) -> int:
    return left + right


def fail(error: BaseException) -> NoReturn:
    raise error


def fail_stubbornly() -> NoReturn:
    raise Stubborn


def be_struck(ordinal: int = 1) -> str:
    bell.strike(ordinal)
    return "went on"


def ring() -> str:
    bell.runner.interrupt(2, None)
    return "rang"


def be_struck_and_tidy_up() -> str:
    try:
        bell.strike(1)
    except Exception:
        bell.heard.append("an ordinary handler")
    finally:
        bell.heard.append("finally")
    return "went on"


def swallow(times: int) -> str:
    for _ in range(times):
        try:
            bell.strike(1)
        except KeyboardInterrupt:
            bell.heard.append("swallowed")
    return "went on"


def turn_into_another_error() -> str:
    try:
        bell.strike(1)
    except KeyboardInterrupt:
        raise ValueError("half done") from None
    return "went on"


def warn(count: int) -> None:
    for number in range(count):
        warnings.warn(f"number {number}", UserWarning, stacklevel=1)


class StruckOnTheWay:
    """Is struck while it is pickled or unpickled."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __getstate__(self) -> str:
        if self.when == "pickled":
            bell.strike(1)
        return self.when

    def __setstate__(self, when: str) -> None:
        self.when = when
        if when == "unpickled":
            bell.strike(1)


def generate() -> Iterator[int]:
    yield 1


class Stubborn(Exception):
    def __reduce__(self) -> NoReturn:
        raise TypeError("I stay here")


class Proud(Exception):
    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError("no attributes, please")


class Noteless(Exception):
    def add_note(self, note: str) -> None:
        raise TypeError("no notes, please")


# ---------------------------------------------------------------------- calls


def test_a_call_becomes_its_value() -> None:
    outcome = run(add, 2, 3)

    assert 5 == value_of(outcome)
    assert (11, 1, 0) == (outcome.task_id, outcome.attempt, outcome.flags)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_a_call_raises_is_an_outcome(error: BaseException) -> None:
    raised = error_of(run(fail, error))

    assert (type(error), error.args) == (type(raised), raised.args)
    assert ["fail"] == frames_of(raised)


def test_a_call_that_cannot_be_unpickled_is_told_as_such() -> None:
    outcome = bell.runner.run(TaskItem(1, 1, 1, 0, (memoryview(b"no pickle"),)))

    assert "raised while unpickling the call in worker w1" in notes_of(error_of(outcome))


def test_a_result_that_cannot_be_pickled_is_told_as_such() -> None:
    assert "raised while pickling the result in worker w1" in notes_of(error_of(run(generate)))


def test_an_error_that_cannot_be_pickled_is_told_as_text() -> None:
    error = error_of(run(fail_stubbornly))

    assert isinstance(error, RemoteTaskError)
    assert "I stay here" in str(error)


@pytest.mark.filterwarnings("always")
def test_warnings_travel_with_the_outcome_and_only_so_many() -> None:
    outcome = run(warn, WARNINGS_MAX + 5)
    caught = json.loads(outcome.parts[1])

    assert OutcomeFlag.WARNINGS == outcome.flags
    assert WARNINGS_MAX == len(caught)
    assert ("number 0", "UserWarning") == (caught[0]["message"], caught[0]["category"])
    assert 0 == run(add, 1, 1).flags


def test_the_error_of_an_initializer_says_where_it_was_raised() -> None:
    part, report = dump_initializer_error(ValueError("no"), "w7", "initializer")

    assert "raised while running the initializer in worker w7" in notes_of(loads_error(part, json.loads(report)))


def test_a_task_that_ran_out_of_memory_learns_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = MemoryLimits(task_max=50)
    calls = []
    for name in ("impose", "lift"):
        monkeypatch.setattr(limits, name, lambda name=name: calls.append(name))
    bell.runner = CallRunner("w1", limits=limits)

    assert "max_task_memory" in notes_of(error_of(run(fail, MemoryError())))
    assert ["impose", "lift"] == calls[:2]
    assert limits.is_spent
    assert limits.is_exceeded()


# ---------------------------------------------------------------------- whom an interrupt hits


def test_an_interrupt_ends_the_task_that_it_is_meant_for() -> None:
    error = error_of(run(be_struck))

    assert isinstance(error, TaskInterrupted)
    assert frames_of(error)[:2] == ["be_struck", "strike"]


def test_an_interrupt_is_like_a_ctrl_c_and_passes_ordinary_handlers() -> None:
    error = error_of(run(be_struck_and_tidy_up))

    assert isinstance(error, KeyboardInterrupt)
    assert ["finally"] == bell.heard


def test_an_interrupt_for_another_task_does_nothing() -> None:
    assert "went on" == value_of(run(be_struck, 2, ordinal=3))
    assert "went on" == value_of(run(be_struck, 2, ordinal=1))


def test_a_signal_that_nobody_has_ordered_does_nothing() -> None:
    bell.runner.interrupt(2, None)

    assert "rang" == value_of(run(ring))


def test_an_interrupt_between_two_tasks_does_nothing() -> None:
    run(add, 1, 1, ordinal=1)
    bell.strike(1)

    assert 5 == value_of(run(add, 2, 3, ordinal=2))


def test_an_interrupt_after_a_failed_task_does_nothing() -> None:
    run(fail, ValueError(), ordinal=1)
    bell.strike(1)

    assert 5 == value_of(run(add, 2, 3, ordinal=2))


def test_an_interrupt_that_came_before_its_task_had_begun_keeps_it_from_running() -> None:
    """The worker has claimed the task, and the signal strikes before the runner knows of it."""
    bell.strike(1)
    outcome = run(swallow, 1)

    assert isinstance(error_of(outcome), TaskInterrupted)
    assert [] == bell.heard


def test_a_task_is_interrupted_at_most_once() -> None:
    run(swallow, 3)

    assert ["swallowed"] == bell.heard


def test_a_task_that_swallows_its_interrupt_is_interrupted_all_the_same() -> None:
    assert isinstance(error_of(run(swallow, 1)), TaskInterrupted)


@pytest.mark.parametrize(
    ("fn", "argument"),
    [(be_struck, 1), (swallow, 1), (str, StruckOnTheWay("unpickled")), (StruckOnTheWay, "pickled")],
    ids=["running", "swallowing", "unpickling", "pickling"],
)
def test_the_task_after_an_interrupted_one_is_left_alone(fn: Callable[..., Any], argument: Any) -> None:
    interrupted = run(fn, argument, ordinal=1)
    bell.runner.interrupt(2, None)

    assert isinstance(error_of(interrupted), TaskInterrupted)
    assert 5 == value_of(run(add, 2, 3, ordinal=2))


# ---------------------------------------------------------------------- timeouts


def test_an_interrupted_task_with_a_timeout_has_timed_out_where_it_was() -> None:
    error = error_of(run(be_struck, timeout=0.25))

    assert isinstance(error, TaskTimeoutError)
    assert f"{be_struck.__module__}.be_struck took longer than timeout=0.25 s in worker w1" in str(error)
    assert ["be_struck", "strike"] == frames_of(error), "the handler is no part of the task"


def test_a_task_with_a_timeout_that_is_not_interrupted_has_not_timed_out() -> None:
    assert 5 == value_of(run(add, 2, 3, timeout=1e-9))
    assert isinstance(error_of(run(fail, KeyboardInterrupt(), timeout=1e-9)), KeyboardInterrupt)


def test_the_time_of_a_task_begins_with_its_call_and_unpickling_has_its_own() -> None:
    run(add, 2, 3, ordinal=4, timeout=2.0)
    run(add, 2, 3, ordinal=5)

    assert [(4, 2.0 + UNPICKLE_SECONDS), (4, 2.0)] == bell.deadlines


def test_a_task_that_swallows_its_interrupt_and_returns_has_timed_out() -> None:
    error = error_of(run(swallow, 1, timeout=1.0))

    assert isinstance(error, TaskTimeoutError)
    assert [] == frames_of(error)


def test_what_a_task_made_of_its_interrupt_is_the_cause_of_its_timeout() -> None:
    error = error_of(run(turn_into_another_error, timeout=1.0))

    assert isinstance(error, TaskTimeoutError)
    assert ("half done",) == (error.__cause__ or error).args


@pytest.mark.parametrize(
    ("fn", "argument", "words"),
    [
        (str, StruckOnTheWay("unpickled"), "the unpickling of its call took longer than timeout=1 s"),
        (StruckOnTheWay, "pickled", "StruckOnTheWay took longer than timeout=1 s"),
    ],
)
def test_the_time_of_a_task_includes_its_pickling(fn: Callable[..., Any], argument: Any, words: str) -> None:
    error = error_of(run(fn, argument, timeout=1.0))

    assert isinstance(error, TaskTimeoutError)
    assert words in str(error)


# ---------------------------------------------------------------------- which errors are to be retried


def is_retryable(outcome: Outcome) -> bool:
    assert outcome.is_error
    return bool(outcome.flags & OutcomeFlag.RETRYABLE)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (OSError, True),
        (FileNotFoundError, True),
        (Exception, True),
        ((KeyError, OSError), True),
        (ValueError, False),
        ((KeyError, ValueError), False),
        ((), False),
        (PermissionError, False),
    ],
)
def test_an_error_is_retryable_if_it_is_one_of_those_that_the_user_named(classes: Any, expected: bool) -> None:
    assert expected is is_retryable(run(fail, FileNotFoundError("gone"), retry_on=serialize.dumps(classes)))


def test_no_error_is_retryable_if_the_user_named_none() -> None:
    outcome = run(fail, ValueError())

    assert not is_retryable(outcome)
    assert "" == notes_of(error_of(outcome)), "the call is not taken for classes"


def test_a_result_is_not_retryable() -> None:
    assert 0 == run(add, 1, 1, retry_on=serialize.dumps(BaseException)).flags


def test_a_call_that_cannot_be_unpickled_may_be_retried() -> None:
    parts = (memoryview(b"no pickle"), memoryview(serialize.dumps(Exception)))

    assert is_retryable(bell.runner.run(TaskItem(1, 1, 1, TaskFlag.RETRY_ON, parts)))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (Exception, True),
        (TimeoutError, True),
        (TaskTimeoutError, True),
        (KeyboardInterrupt, False),
        (ValueError, False),
    ],
)
@pytest.mark.parametrize("fn", [be_struck, turn_into_another_error])
def test_a_timeout_is_retryable_by_its_own_class_whatever_the_task_made_of_it(
    fn: Callable[..., Any], classes: Any, expected: bool
) -> None:
    assert expected is is_retryable(run(fn, timeout=1.0, retry_on=serialize.dumps(classes)))


@pytest.mark.parametrize("classes", [b"no pickle", b"", serialize.dumps("ValueError"), b"cmissing_module\nMissing\n."])
def test_what_cannot_be_compared_is_not_retried_and_says_so(classes: bytes) -> None:
    outcome = run(fail, ValueError("no"), retry_on=classes)
    error = error_of(outcome)

    assert not is_retryable(outcome)
    assert isinstance(error, ValueError)
    assert "not retried: retry_on cannot be used in worker w1" in notes_of(error)


@pytest.mark.parametrize("cls", [Proud, Noteless])
def test_an_error_that_refuses_notes_does_not_end_the_worker(cls: type[Exception]) -> None:
    outcome = run(fail, cls("here I am"), retry_on=b"no pickle")

    assert not is_retryable(outcome)
    assert 5 == value_of(run(add, 2, 3, ordinal=2))


@pytest.mark.parametrize(("seconds", "looks"), [(START_SECONDS / 2, 0), (2 * START_SECONDS, 1)])
def test_nobody_looks_for_children_of_a_task_too_short_to_start_one(
    seconds: float, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[None] = []
    monkeypatch.setattr(Children, "task_ended", lambda _self: seen.append(None))
    clock = iter((0.0, seconds))
    monkeypatch.setattr(call.time, "perf_counter", lambda: next(clock))  # type: ignore[attr-defined]
    run(len, "abc")

    assert len(seen) == looks
