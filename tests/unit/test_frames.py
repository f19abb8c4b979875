"""Checks frames.py: the same lines of the same code are known again, and nothing else is taken for them."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

from crew_executor import tracebacks
from crew_executor.frames import FRAMES_MAX, Remembered


def frames_of(function: Callable[..., Any], *arguments: Any) -> TracebackType:
    error = error_of(function, *arguments)
    assert error.__traceback__ is not None
    return error.__traceback__


def error_of(function: Callable[..., Any], *arguments: Any) -> BaseException:
    try:
        function(*arguments)
    except Exception as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        return error
    raise AssertionError("nothing was raised")


def fail(is_first: bool = True) -> None:
    if is_first:
        raise ValueError("first")
    raise ValueError("second")


def fail_deep(depth: int) -> None:
    if depth == 1:
        raise ValueError("deep")
    fail_deep(depth - 1)


def made_by(source: str, **names: Any) -> Callable[[], None]:
    names |= {"__name__": names.get("__name__", "made")}
    exec(compile(source, "made.py", "exec"), names)
    return names["fail"]  # type: ignore[no-any-return]


class Maker:
    def __init__(self) -> None:
        self.times = 0
        self.texts: Remembered[str] = Remembered()

    def of(self, frames: TracebackType) -> str | None:
        return self.texts.of(frames, self._make)

    def _make(self) -> str:
        self.times += 1
        return str(self.times)


def test_the_same_lines_are_known_again() -> None:
    maker = Maker()

    assert ["1", "1"] == [maker.of(frames_of(fail)) for _ in range(2)]


SOURCE = "def fail():\n    1 / 0\n"
OTHERS: dict[str, tuple[Callable[[], TracebackType], Callable[[], TracebackType]]] = {
    "another line": (lambda: frames_of(fail), lambda: frames_of(fail, False)),
    "another function of the same code": (lambda: frames_of(made_by(SOURCE)), lambda: frames_of(made_by(SOURCE))),
    "more frames": (lambda: frames_of(fail_deep, 2), lambda: frames_of(fail_deep, 3)),
    "another caller": (lambda: frames_of(fail), lambda: frames_of(lambda: fail())),  # noqa: PLW0108  its frame
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_frames_are_not_taken_for_them(what: str) -> None:
    maker = Maker()

    assert ["1", "2"] == [maker.of(make()) for make in OTHERS[what]]


def test_the_same_code_in_another_module_is_another_place() -> None:
    maker = Maker()
    function = made_by(SOURCE)

    assert "1" == maker.of(frames_of(function))
    function.__globals__["__name__"] = "other"
    assert "2" == maker.of(frames_of(function))


def test_code_that_is_made_anew_each_time_is_never_taken_for_what_is_gone() -> None:
    maker = Maker()

    assert 50 == len({maker.of(frames_of(made_by(SOURCE))) for _ in range(50)})


def test_a_module_whose_name_is_no_text_is_not_remembered() -> None:
    maker = Maker()
    function = made_by(SOURCE, __name__=["odd"])

    assert ["1", "2"] == [maker.of(frames_of(function)) for _ in range(2)]


def test_many_frames_are_not_remembered() -> None:
    maker = Maker()

    assert ["1", "1"] == [maker.of(frames_of(fail_deep, FRAMES_MAX)) for _ in range(2)]
    assert ["2", "3"] == [maker.of(frames_of(fail_deep, FRAMES_MAX + 1)) for _ in range(2)]


def raise_noted() -> None:
    error = KeyError("noted")
    if hasattr(error, "add_note"):
        error.add_note("a note")
    raise error


def raise_from_none() -> None:
    try:
        fail()
    except ValueError:
        raise KeyError("replaced") from None


def raise_within() -> None:
    try:
        fail()
    except ValueError:
        raise KeyError("within")  # noqa: B904


def raise_caused() -> None:
    raise KeyError("caused") from ValueError("why")


def raise_misspelt() -> None:
    wrld = 1
    print(wrld, wrlds)  # type: ignore[name-defined]  # noqa: F821


def raise_missing() -> None:
    "".uper()  # type: ignore[attr-defined]


def raise_at_import() -> None:
    import collectoins  # type: ignore[import-not-found]  # noqa: F401


def raise_syntax() -> None:
    compile("1 +", "there.py", "exec")


def raise_recursive() -> None:
    fail_deep(20)


RAISERS = [
    fail, raise_noted, raise_from_none, raise_within, raise_caused, raise_misspelt, raise_missing, raise_at_import,
    raise_syntax, raise_recursive,
]  # fmt: skip


@pytest.mark.parametrize("raiser", RAISERS)
def test_an_error_is_described_as_the_standard_library_does_however_often(raiser: Callable[[], None]) -> None:
    for _ in range(3):
        error = error_of(raiser)

        assert "".join(traceback.format_exception(error)) == tracebacks.describe(error)["traceback_text"]


def test_another_error_of_the_same_lines_has_its_own_words() -> None:
    def refuse(what: Any) -> None:
        raise type(what)(*what.args)

    for what in (ValueError(1), KeyError(2), ValueError(3)):
        error = error_of(refuse, what)

        assert "".join(traceback.format_exception(error)) == tracebacks.describe(error)["traceback_text"]


def test_frames_arrive_as_they_were_however_often() -> None:
    for _ in range(3):
        error = error_of(fail_deep, 3)
        loaded = tracebacks.loads_error(tracebacks.dumps_error(error), tracebacks.describe(error))

        there = traceback.extract_tb(loaded.__traceback__)
        assert [(frame.filename, frame.lineno, frame.name) for frame in traceback.extract_tb(error.__traceback__)] == [
            (frame.filename, frame.lineno, frame.name) for frame in there
        ]
        assert loaded.__traceback__ is not None
        assert __name__ == loaded.__traceback__.tb_frame.f_globals["__name__"]


class Guarded(Exception):
    @property
    def exceptions(self) -> object:
        raise RuntimeError("not to be asked")


def test_an_attribute_of_the_users_is_not_asked_for() -> None:
    def refuse() -> None:
        raise Guarded("no group")

    assert tracebacks.describe(error_of(refuse))["traceback_text"].endswith("Guarded: no group\n")
