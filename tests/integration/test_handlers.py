"""What a signal handler raises in a call of the user's: it comes out of that call, and the pool stays usable."""

from __future__ import annotations

import pickle
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
    """Its pickling fails some times, and then it is struck by a signal."""

    def __init__(self, failures: int) -> None:
        self._left = failures

    def __reduce__(self) -> Any:
        self._left -= 1
        if self._left == -1:
            signal.raise_signal(signal.SIGUSR1)
        if self._left >= 0:
            raise pickle.PicklingError("not this way")
        return int, ()


def _strike(_number: int, _frame: object) -> None:
    raise TimeoutError("struck")


CALLS: dict[str, Callable[[CrewExecutor, Struck], object]] = {
    "submit": lambda executor, struck: executor.submit(identity, struck),
    "submit of a lambda": lambda executor, struck: executor.submit(lambda _: 1, struck),
    "map": lambda executor, struck: executor.map(identity, [1, struck]),
    "map of a lambda": lambda executor, struck: executor.map(lambda _: 1, [1, struck]),
    "map in tasks": lambda executor, struck: executor.map(identity, [1, struck], chunksize=1),
}
TRIES = {"map": 4, "map of a lambda": 4, "submit of a lambda": 1}
"""How often a value is pickled until it is given up, by plain pickle and cloudpickle, in a chunk and alone; else 2.
Plain pickle gives a lambda up before its arguments."""


@pytest.mark.parametrize(
    ("call", "failures"), [(call, failures) for call in CALLS for failures in range(TRIES.get(call, 2))]
)
def test_what_a_signal_handler_raises_in_a_call_comes_out_of_that_call(
    call: str, failures: int, executor: CrewExecutor
) -> None:
    """A user's time limit must neither become the task's error nor get lost."""
    before = signal.signal(signal.SIGUSR1, _strike)
    try:
        with pytest.raises(TimeoutError, match="struck"):
            CALLS[call](executor, Struck(failures))
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert executor.submit(identity, 2).result(30) == 2
