"""map(buffersize=...) over inputs without an end: it reads what it says, however slow the consumer is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import pytest

from crew_executor import CrewExecutor

from .helpers import add, append_line, identity, wait_until


class Numbers:
    """0, 1, 2, ... without an end; `read` is how many were asked for."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count():
            self.read += 1
            yield number


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(2) as made:
        yield made


VIEWS: dict[str, Callable[[CrewExecutor], Executor]] = {
    "the executor": lambda executor: executor,
    "a view": lambda executor: executor.options(name="view"),
    "a view with limits": lambda executor: executor.options(timeout=60),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("buffersize", [1, 2, 50])
def test_the_nth_result_is_there_when_so_many_more_were_read(
    buffersize: int, view: str, executor: CrewExecutor
) -> None:
    numbers = Numbers()
    results = VIEWS[view](executor).map(identity, numbers, buffersize=buffersize)

    assert numbers.read == buffersize
    for number in range(100):
        assert next(results) == number
        assert numbers.read == buffersize + number + 1
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("buffersize", "ahead"), [(1, 4), (4, 4), (5, 8)])
def test_with_chunks_it_is_rounded_up_to_whole_ones(buffersize: int, ahead: int, executor: CrewExecutor) -> None:
    numbers = Numbers()
    results = executor.map(identity, numbers, buffersize=buffersize, chunksize=4)

    assert numbers.read == ahead
    assert [next(results) for _ in range(10)] == list(range(10))
    assert numbers.read == ahead + 12
    results.close()  # type: ignore[attr-defined]


def test_the_shortest_input_ends_it(executor: CrewExecutor) -> None:
    assert list(executor.map(add, itertools.count(), [10, 20, 30], buffersize=2)) == [10, 21, 32]


def _wait_unless_first(number: int, release: str, effects: str) -> int:
    if number:
        wait_until(Path(release).exists, f"{release} appears")
        append_line(effects, str(number))
    return number


def test_an_abandoned_iterator_cancels_what_it_has_read(executor: CrewExecutor, tmp_path: Path) -> None:
    release, effects = tmp_path / "release", tmp_path / "effects"
    constants = itertools.repeat(str(release)), itertools.repeat(str(effects))
    results = executor.map(_wait_unless_first, itertools.count(), *constants, buffersize=1000)
    assert next(results) == 0
    del results

    wait_until(lambda: executor.stats().queued == 0, "what no worker has is cancelled")
    release.touch()
    executor.shutdown()
    assert len(effects.read_text().split()) < 100


def test_with_max_pending_a_larger_buffer_waits_for_room() -> None:
    with CrewExecutor(2, max_pending=3) as executor:
        results = executor.map(identity, itertools.count(), buffersize=100)

        assert [next(results) for _ in range(300)] == list(range(300))
        results.close()  # type: ignore[attr-defined]
