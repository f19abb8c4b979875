"""Checks handlers.py: what is known to come out of a signal handler, and what is not."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from crew_executor.handlers import is_from_handler


def alarm(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("too late")


class Alarm:
    def __call__(self, number: int, frame: FrameType | None) -> None:
        alarm(number, frame)

    def ring(self, number: int, frame: FrameType | None) -> None:
        alarm(number, frame)


@contextlib.contextmanager
def installed(handler: Any) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


HANDLERS: dict[str, Callable[[], Any]] = {
    "a function": lambda: alarm,
    "a method": lambda: Alarm().ring,
    "an object": Alarm,
    "a partial": lambda: functools.partial(Alarm().ring),
}


@pytest.mark.parametrize("kind", HANDLERS)
def test_what_a_handler_raises_is_known(kind: str) -> None:
    with installed(HANDLERS[kind]()), pytest.raises(TimeoutError) as caught:
        signal.raise_signal(signal.SIGUSR1)

    with installed(HANDLERS[kind]()):
        assert is_from_handler(caught.value)


def test_what_others_raise_is_not_a_handlers() -> None:
    with installed(print), pytest.raises(TimeoutError) as caught:
        alarm(0, None)

    assert not is_from_handler(caught.value)


def test_what_an_enum_raises_is_not_that_of_a_signal_that_is_ignored() -> None:
    with installed(signal.SIG_IGN), pytest.raises(ValueError, match="99 is not a valid Handlers") as caught:
        signal.Handlers(99)

    assert not is_from_handler(caught.value)


def test_no_handler_runs_in_another_thread() -> None:
    answers: list[bool] = []

    def fail() -> None:
        try:
            alarm(0, None)
        except TimeoutError as error:
            answers.append(is_from_handler(error))

    with installed(alarm):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    assert [False] == answers


def test_what_c_code_raises_that_was_called_here_is_no_handlers() -> None:
    with installed(alarm), pytest.raises(TypeError) as caught:
        len(5)  # type: ignore[arg-type]

    assert not is_from_handler(caught.value)
