"""Exceptions to bytes and back: every kind keeps what it knows, or is told as text."""

from __future__ import annotations

import pickle
import re
import threading
import traceback

import pytest

from crew_executor import serialize, tracebacks
from crew_executor.errors import LaunchError, RemoteTaskError


class TwoArguments(Exception):
    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")
        self.left = left
        self.right = right


class Exit(SystemExit):
    def __init__(self, left: int, right: int) -> None:
        super().__init__(left + right)


class Missing(FileNotFoundError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "no such thing", path)


class Stubborn(Exception):
    def __reduce__(self) -> tuple[object, ...]:
        raise ValueError("no")


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def _round_trip(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:
        return tracebacks.loads_error(tracebacks.dumps_error(raised), tracebacks.describe(raised))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text"),
        KeyError("key"),
        SystemExit(4),
        StopIteration(5),
        OSError(2, "no such file", "name"),
        ImportError("text", name="module", path="path"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        SyntaxError("text", ("file", 3, 4, "line")),
        TwoArguments("one", "two"),
        Exit(1, 2),
        Missing("name"),
    ],
)
def test_an_exception_keeps_what_it_knows(error: BaseException) -> None:
    loaded = _round_trip(error)

    assert type(loaded) is type(error)
    assert (str(loaded), loaded.args, loaded.__dict__) == (str(error), error.args, error.__dict__)
    for name in ("code", "value", "errno", "filename", "name", "path", "encoding", "reason", "lineno", "text"):
        assert getattr(loaded, name, None) == getattr(error, name, None)
    assert [frame.name for frame in traceback.extract_tb(loaded.__traceback__)] == ["_round_trip"]


@pytest.mark.parametrize("source", ["from __future__ import nothing", "x = = 1", "unknown_name", "int.unknown"])
def test_errors_of_the_compiler_and_the_interpreter_keep_their_place(source: str) -> None:
    with pytest.raises((SyntaxError, NameError, AttributeError)) as caught:
        exec(compile(source, "a_file", "exec"), {"__builtins__": {"int": int}})
    loaded = _round_trip(caught.value)

    assert str(loaded) == str(caught.value)
    for name in ("lineno", "offset", "text", "filename", "name"):
        assert getattr(loaded, name, None) == getattr(caught.value, name, None)


def test_a_recursion_error_keeps_its_type_and_both_ends_of_its_frames() -> None:
    def dive() -> None:
        dive()

    with pytest.raises(RecursionError) as caught:
        dive()
    loaded = _round_trip(caught.value)
    names = [frame.name for frame in traceback.extract_tb(loaded.__traceback__)]

    assert type(loaded) is RecursionError
    assert len(names) == tracebacks.FRAMES_FIRST + tracebacks.FRAMES_LAST
    assert names[-1] == "dive"


def test_cause_context_and_notes_travel() -> None:
    error = ValueError("outer")
    error.__cause__ = TwoArguments("a", "b")
    error.__context__ = KeyError("c")
    error.__notes__ = ["a note"]  # type: ignore[attr-defined]
    loaded = _round_trip(error)

    assert isinstance(loaded.__cause__, TwoArguments)
    assert loaded.__cause__.left == "a"
    assert isinstance(loaded.__context__, KeyError)
    assert loaded.__notes__ == ["a note"]  # type: ignore[attr-defined]


def test_an_exception_of_main_travels_by_value() -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    exec("class Local(Exception):\n    pass", namespace)
    loaded = _round_trip(namespace["Local"]("text"))  # type: ignore[operator]

    assert type(loaded).__name__ == "Local"


def test_an_exception_that_refuses_to_be_pickled_raises_here() -> None:
    with pytest.raises(ValueError, match="no"):
        tracebacks.dumps_error(Stubborn())


def test_bytes_that_cannot_be_loaded_become_a_remote_error() -> None:
    loaded = tracebacks.loads_error(b"garbage", {"type_name": "a.B", "text": "t", "traceback_text": "lines"})

    assert isinstance(loaded, RemoteTaskError)
    assert (loaded.type_name, loaded.text, loaded.traceback_text) == ("a.B", "t", "lines")


def test_a_pickle_that_is_no_exception_becomes_a_remote_error() -> None:
    report = {"type_name": "a.B", "text": "t", "traceback_text": "lines"}

    assert isinstance(tracebacks.loads_error(pickle.dumps(3), report), RemoteTaskError)


def test_an_exception_without_words_can_be_described() -> None:
    report = tracebacks.describe(Mute())

    assert "ValueError" in report["text"]
    assert report["type_name"].endswith("Mute")


class Locked(Exception):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()


def raised(error: BaseException, cause: BaseException | None, *, suppress: bool = False) -> BaseException:
    try:
        try:
            raise cause or KeyError("context")
        except BaseException as inner:
            if suppress:
                raise error from None
            if cause is not None:
                raise error from inner
            raise error  # noqa: B904  with this context
    except BaseException as caught:
        return caught


def test_a_cause_that_cannot_travel_is_told_as_text_and_nothing_else_is_lost() -> None:
    middle = raised(KeyError("middle"), Locked("deepest"))
    loaded = _round_trip(raised(ValueError("main"), middle))

    assert (type(loaded), loaded.args) == (ValueError, ("main",))
    assert type(loaded.__cause__) is KeyError
    deepest = loaded.__cause__.__cause__
    assert isinstance(deepest, RemoteTaskError)
    assert deepest.text == "deepest"
    assert "Locked" in deepest.type_name
    assert "cannot pickle" in str(deepest)
    assert "in raised" in deepest.traceback_text


def test_a_suppressed_context_that_cannot_travel_costs_nothing() -> None:
    loaded = _round_trip(raised(ValueError("main"), Locked("context"), suppress=True))

    assert type(loaded) is ValueError
    assert loaded.__suppress_context__
    assert loaded.__cause__ is None


def test_an_exception_that_cannot_travel_is_no_better_for_its_causes() -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        tracebacks.dumps_error(raised(Locked("main"), ValueError("cause")))


def test_a_circular_chain_ends_where_it_leads_back() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first

    loaded = _round_trip(first)

    assert type(loaded) is ValueError
    assert type(loaded.__cause__) is KeyError
    assert loaded.__cause__.__cause__ is None


def test_an_exception_may_be_cause_and_context_in_one() -> None:
    loaded = _round_trip(raised(ValueError("main"), KeyError("cause")))

    assert type(loaded.__cause__) is KeyError
    assert loaded.__context__ is loaded.__cause__


def test_the_end_of_an_endless_chain_is_told_as_text() -> None:
    error = ValueError(0)
    for number in range(1, 3000):
        error.__context__, error = None, raised(ValueError(number), error)  # type: ignore[assignment]

    loaded: BaseException | None = _round_trip(error)
    numbers = []
    while isinstance(loaded, ValueError):
        numbers.append(loaded.args[0])
        loaded = loaded.__cause__
    assert numbers == list(range(2999, 2999 - tracebacks.CHAIN_MAX, -1))
    assert isinstance(loaded, RemoteTaskError)
    assert loaded.text == str(2999 - tracebacks.CHAIN_MAX)


class Quitter(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


def test_an_exception_whose_text_ends_the_interpreter_is_described_without() -> None:
    report = tracebacks.describe(Quitter())

    assert report["text"] == "<no text: str() raised SystemExit>"
    assert report["type_name"].endswith("Quitter")
    assert report["traceback_text"]


class Unwilling:
    def __reduce__(self) -> tuple[object, ...]:
        raise ValueError("not me")


def pickle_unwilling() -> None:
    serialize.dumps_by_value(Unwilling())


def frames_of(text: str) -> list[str]:
    return re.findall(r'^  File ".*", line \d+, in (\w+)$', text, re.MULTILINE)


def test_our_frames_are_left_out_of_the_text_and_stay_with_the_exception() -> None:
    with pytest.raises(ValueError, match="not me") as caught:
        pickle_unwilling()
    text = tracebacks.describe(caught.value)["traceback_text"]

    assert frames_of(text)[-3:] == ["pickle_unwilling", "dump", "__reduce__"]
    assert "dumps_by_value" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert text.endswith("\nValueError: not me\n")


def test_our_frames_are_left_out_of_what_led_to_it_too() -> None:
    def pickle_again() -> None:
        try:
            pickle_unwilling()
        except ValueError as error:
            raise KeyError("again") from error

    with pytest.raises(KeyError) as caught:
        pickle_again()
    text = tracebacks.describe(caught.value)["traceback_text"]

    assert "direct cause" in text
    assert "in dumps_by_value" not in text
    assert "in pickle_unwilling" in text


def test_what_we_raise_ourselves_keeps_all_frames() -> None:
    with pytest.raises(AttributeError) as caught:
        serialize.dumps(1, buffers=1)  # type: ignore[arg-type]
    assert "in dumps" in tracebacks.describe(caught.value)["traceback_text"]

    error = LaunchError("no worker")
    try:
        pickle_unwilling()
    except ValueError as cause:
        error.__cause__ = cause
    assert "in dumps_by_value" in tracebacks.describe(error)["traceback_text"]


CRASH = """\
worker w was lost; the end of its stderr:
Fatal Python error: Segmentation fault

Current thread 0x1 (most recent call first):
  File "/lib/ctypes/__init__.py", line 525 in string_at
  File "<string>", line 3 in <module>
{ours}
Thread 0x2 (most recent call first):
  File "/lib/threading.py", line 5 in wait

Extension modules: a"""


@pytest.mark.parametrize(
    "start",
    [
        ['File "<string>", line 1 in <module>'],
        ['File "/there/crew_executor/__main__.py", line 90 in <module>', 'File "<frozen runpy>", line 88 in _run_code',
         'File "<frozen runpy>", line 198 in _run_module_as_main'],
    ],
    ids=["forked", "agent"],
)  # fmt: skip
def test_the_workers_frames_are_left_out_of_a_report_of_a_crash(start: list[str]) -> None:
    ours = [
        'File "/there/crew_executor/worker/call.py", line 198 in run',
        'File "/a/crew_executor/supervisor.py", line 1 in main',
    ]
    text = CRASH.format(ours="".join(f"  {line}\n" for line in ours + start))

    assert tracebacks.without_worker(text) == CRASH.format(
        ours=f"  ... called by {len(ours + start)} frames of crew_executor's worker\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no frames\n",
        CRASH.format(ours=""),  # of a process that a task has started
        'x:\n  File "/there/crew_executor/worker/call.py", line 198 in run\n  File "<string>", line 1 in <module>',
    ],
)
def test_a_report_stays_as_it_is_where_no_frames_called_the_tasks_or_all_are_ours(text: str) -> None:
    assert tracebacks.without_worker(text) == text
