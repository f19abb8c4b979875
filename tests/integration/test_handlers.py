"""What a signal handler raises in a call of the user's: it comes out of that call, and the pool stays usable."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crew_executor import CrewExecutor

from .helpers import identity


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(1) as made:
        yield made


class Struck:
    """Its pickling is struck by a signal."""

    def __reduce__(self) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return int, ()


class StruckByValue(Struck):
    """The same, where plain pickle does not do."""

    def __init__(self) -> None:
        self.function = lambda: 1


def _strike(_number: int, _frame: object) -> None:
    raise TimeoutError("struck")


CALLS: dict[str, Callable[[CrewExecutor], object]] = {
    "submit": lambda executor: executor.submit(identity, Struck()),
    "submit of a lambda": lambda executor: executor.submit(lambda _: 1, Struck()),
    "submit by value": lambda executor: executor.submit(identity, StruckByValue()),
    "map": lambda executor: executor.map(identity, [1, Struck()]),
    "map of a lambda": lambda executor: executor.map(lambda _: 1, [1, Struck()]),
    "map in tasks": lambda executor: executor.map(identity, [1, Struck()], chunksize=1),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_a_signal_handler_raises_in_a_call_comes_out_of_that_call(call: str, executor: CrewExecutor) -> None:
    """A user's time limit must neither become the task's error nor get lost."""
    before = signal.signal(signal.SIGUSR1, _strike)
    try:
        with pytest.raises(TimeoutError, match="struck"):
            CALLS[call](executor)
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert executor.submit(identity, 2).result(30) == 2
