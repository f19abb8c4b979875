"""numpy's arrays go to tasks and come back, large ones in shared memory, whatever their layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from crew_executor import CrewExecutor

LARGE = 200_000

ARRAYS: dict[str, Any] = {
    "plain": np.arange(LARGE, dtype=float),
    "of rows": np.arange(LARGE, dtype=np.int64).reshape(400, 500),
    "of columns": np.asfortranarray(np.arange(LARGE, dtype=float).reshape(400, 500)),
    "a slice": np.arange(2 * LARGE, dtype=float)[::2],
    "backwards": np.arange(LARGE, dtype=float)[::-1],
    "masked": np.ma.masked_less(np.arange(LARGE, dtype=float), 10),
    "records": np.zeros(LARGE, dtype=[("a", "f8"), ("b", "i4")]),
    "objects": np.array([[1], "b", None] * 1000, dtype=object),
    "strings": np.array(["abc", "d"] * LARGE),
    "nothing": np.empty((0, LARGE)),
    "constant": np.broadcast_to(np.arange(10.0), (LARGE, 10)),
}


def echo(array: Any) -> Any:
    """Return it."""
    return array


def negative_in_place(array: Any) -> Any:
    """Change the array, and return it."""
    np.negative(array, out=array)
    return array


def describe(array: Any, place: int) -> tuple[float, bool]:
    """Return an element, and whether the array can be written to."""
    return float(array[place]), bool(array.flags.writeable)


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(2) as made:
        yield made


@pytest.mark.parametrize("name", ARRAYS)
def test_there_and_back(name: str, executor: CrewExecutor) -> None:
    array = ARRAYS[name]
    for found in [executor.submit(echo, array).result(), *executor.map(echo, [array] * 3)]:
        assert type(found) is type(array)
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes() if name != "objects" else list(found) == list(array)


def test_both_sides_may_write(executor: CrewExecutor) -> None:
    array = np.arange(LARGE, dtype=float)
    first = executor.submit(negative_in_place, array).result()
    first += 1
    second = executor.submit(negative_in_place, first).result()

    assert (array == np.arange(LARGE)).all()
    assert (first == 1 - np.arange(LARGE)).all()
    assert (second == np.arange(LARGE) - 1).all()


def test_many_results_stay_what_they_were(executor: CrewExecutor) -> None:
    kept = list(executor.map(negative_in_place, [np.full(LARGE, number) for number in range(100)]))

    assert [float(array[0]) for array in kept] == [-number for number in range(100)]
    assert all((array == array[0]).all() for array in kept)


def test_a_shared_array_cannot_be_written_to(executor: CrewExecutor) -> None:
    shared = executor.share(np.arange(LARGE, dtype=float))

    assert list(executor.map(describe, [shared] * 100, range(100))) == [(float(place), False) for place in range(100)]
    with pytest.raises(ValueError, match="read-only"):
        executor.submit(negative_in_place, shared).result()
