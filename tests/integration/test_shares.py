"""executor.share(): once per worker, the same object for all tasks, and forgotten when nobody needs it."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from crew_executor import CrewExecutor, shares

from .helpers import wait_until
from .test_large_buffers import SIZE, Block, block

_transfers: list[int] = []


class Counted:
    """Counts how often it is unpickled in this process."""

    def __init__(self) -> None:
        _transfers.append(1)

    def __reduce__(self) -> Any:
        return Counted, ()


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(2, min_workers=2) as made:
        yield made


def look(one: Block) -> tuple[int, int, bool, int]:
    """Return its byte, what it is here, whether it is constant, and where."""
    return one.value(), id(one), one.memory.readonly, os.getpid()


def count(_counted: Counted) -> tuple[int, int]:
    """Return how often one has come to this process, and which that is."""
    return len(_transfers), os.getpid()


def known() -> list[int]:
    """Return the numbers of what this worker has."""
    return sorted({*shares._received, *shares._objects})


def test_a_constant_comes_once_to_each_worker(executor: CrewExecutor) -> None:
    handle = executor.share(Counted())
    found = [executor.submit(count, handle) for _ in range(50)]

    assert {future.result()[0] for future in found} == {1}


def test_all_tasks_of_a_worker_have_the_same_object_which_they_cannot_change(executor: CrewExecutor) -> None:
    handle = executor.share(block(7))
    found = [executor.submit(look, handle).result() for _ in range(50)]

    assert {(value, is_constant) for value, _id, is_constant, _pid in found} == {(7, True)}
    assert len({(pid, number) for _value, number, _constant, pid in found}) == len({pid for *_, pid in found})


def test_it_is_pickled_when_it_is_shared(executor: CrewExecutor) -> None:
    one = block(1)
    handle = executor.share(one)
    one.memory[:] = bytes(SIZE)

    assert executor.submit(look, handle).result()[0] == 1


def test_inside_arguments_keywords_partials_and_maps(executor: CrewExecutor) -> None:
    handle, other = executor.share([1, 2]), executor.share({"a": 3})

    assert executor.submit(sum, handle).result() == 3
    assert executor.submit(_lengths, {"x": [handle]}, other=other).result() == [2, 1]
    assert executor.submit(functools.partial(_lengths, {"x": [handle]}), other=other).result() == [2, 1]
    assert list(executor.map(sum, [handle] * 300)) == [3] * 300
    assert list(executor.map(functools.partial(_add, handle), range(300))) == [3 + number for number in range(300)]
    assert list(executor.map(_add, [handle] * 3, [0, 1, 2], chunksize=2)) == [3, 4, 5]
    assert list(executor.options(retries=1).map(_add, [handle] * 3, [0, 1, 2])) == [3, 4, 5]
    assert executor.submit(lambda: sum(handle)).result() == 3


def _lengths(nested: dict[str, list[list[int]]], other: dict[str, int]) -> list[int]:
    return [len(nested["x"][0]), len(other)]


def _add(numbers: list[int], number: int) -> int:
    return sum(numbers) + number


def test_with_large_arguments_of_its_own(executor: CrewExecutor) -> None:
    handle = executor.share(block(1))

    assert executor.submit(_both, handle, block(2)).result() == (1, True, 2, False)
    assert list(executor.map(_both, [handle] * 5, map(block, range(5)))) == [(1, True, n, False) for n in range(5)]


def _both(one: Block, other: Block) -> tuple[int, bool, int, bool]:
    return one.value(), one.memory.readonly, other.value(), other.memory.readonly


def test_beside_tasks_with_large_arguments_in_the_same_frame() -> None:
    """The constant goes to the worker first: what takes it gives up whatever was lent before."""
    with CrewExecutor(1, min_workers=1) as executor:
        executor.submit(Block.value, block(0)).result()  # known and short: the following travel together
        constant = executor.share(block(7))
        values = [
            future.result()
            for _ in range(5)
            for future in (executor.submit(Block.value, block(1)), executor.submit(Block.value, constant))
        ]
        first = [executor.submit(Block.value, block(value)) for value in range(20)]
        others = [executor.submit(Block.value, executor.share(block(value))) for value in range(20, 30)]
        assert [future.result() for future in first + others] == list(range(30))
    assert values == [1, 7] * 5


def test_workers_that_come_later_get_it_too(executor: CrewExecutor) -> None:
    handle = executor.share(block(3))
    assert executor.submit(look, handle).result()[0] == 3
    for worker in executor.stats().workers:
        assert worker.pid
        os.kill(worker.pid, signal.SIGKILL)

    assert {executor.submit(look, handle).result()[0] for _ in range(10)} == {3}


def test_workers_forget_it_when_nobody_refers_to_it() -> None:
    with CrewExecutor(1) as executor:
        handle = executor.share(block(3))
        executor.submit(look, handle).result()
        assert executor.submit(known).result() == [1]
        del handle
        wait_until(lambda: not executor.submit(known).result(), "the worker has forgotten")
        wait_until(lambda: len(executor._dispatcher.segments._all) == 0, "its memory is given up")


def test_tasks_that_were_given_it_have_it_though_the_handle_is_gone() -> None:
    with CrewExecutor(1) as executor:
        handle = executor.share(block(3))
        futures = [executor.submit(look, handle) for _ in range(20)]
        results = executor.map(look, [handle] * 100)
        del handle

        assert {future.result()[0] for future in futures} == {3}
        assert {found[0] for found in results} == {3}


def test_where_there_is_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREW_EXECUTOR_NO_MEMFD", "1")
    with CrewExecutor(2) as executor:
        handle = executor.share(block(3))

        assert {executor.submit(look, handle).result()[::2] for _ in range(10)} == {(3, True)}


def test_what_cannot_be_pickled_is_refused_at_once(executor: CrewExecutor) -> None:
    with pytest.raises(TypeError, match="pickle"):
        executor.share(number for number in range(3))


def test_a_handle_of_another_executor_is_refused(executor: CrewExecutor) -> None:
    with CrewExecutor(1) as other:
        handle = other.share([1])
        with pytest.raises(TypeError, match=f"executor {other._name}"):
            executor.submit(sum, handle).result()
        with pytest.raises(TypeError, match=f"executor {other._name}"):
            list(executor.map(sum, [handle]))


def test_after_shutdown_nothing_is_shared() -> None:
    executor = CrewExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.share(1)
