"""Handles of constants: where they may be pickled, and when they are forgotten."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator

import pytest

from crew_executor import shares
from crew_executor.shares import Shares


@pytest.fixture(autouse=True)
def _nothing_received() -> Iterator[None]:
    yield
    shares._received.clear()
    shares._objects.clear()


def ignore(_number: int) -> None: ...


def test_a_handle_is_pickled_as_the_object_and_its_share_is_collected() -> None:
    mine = Shares("crew", ignore)
    handle = mine.add([1], pickle.dumps([1]), None)
    with mine.collecting() as collected:
        data = pickle.dumps({"a": handle, "b": handle})
    for number, share in collected.items():
        shares.receive(number, share.data, share.content)
    found = pickle.loads(data)

    assert found == {"a": [1], "b": [1]}
    assert found["a"] is found["b"] is pickle.loads(data)["a"], "it is made once"


def test_elsewhere_it_is_refused_by_name() -> None:
    handle = Shares("mine", ignore).add({}, b"", None)
    with pytest.raises(TypeError, match="shared dict 1 of mine> can only be an argument of tasks of executor mine"):
        pickle.dumps(handle)
    with Shares("yours", ignore).collecting(), pytest.raises(TypeError, match="executor mine"):
        pickle.dumps(handle)
    with pytest.raises(TypeError, match="connections"):
        pickle.dumps(handle._share)  # type: ignore[attr-defined]


def test_it_is_forgotten_when_neither_handle_nor_task_refers_to_it() -> None:
    forgotten: list[int] = []
    mine = Shares("crew", forgotten.append)
    handle = mine.add(1, b"", None)
    with mine.collecting() as collected:
        pickle.dumps(handle)
    of_task = tuple(collected.values())
    collected.clear()
    del handle
    gc.collect()
    assert not forgotten
    del of_task
    gc.collect()
    assert forgotten == [1]


def test_what_a_worker_has_not_been_sent_it_names() -> None:
    with pytest.raises(RuntimeError, match="shared object 5 has not been sent to this worker"):
        shares._resolve(5)


def test_a_worker_forgets_what_it_is_told_to() -> None:
    shares.receive(1, pickle.dumps([1]), None)
    kept = shares._resolve(1)
    shares.forget(1)
    shares.forget(1)

    assert kept == [1]
    with pytest.raises(RuntimeError):
        shares._resolve(1)


def test_there_may_be_none_as_long_as_none_was_made() -> None:
    mine = Shares("crew", ignore)
    assert mine.is_empty
    mine.add(1, b"", None)
    assert not mine.is_empty
