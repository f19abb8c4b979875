"""Checks packer.py: what goes beside a pickled call."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from crew_executor.buffers import incoming
from crew_executor.packer import Packer
from crew_executor.segments import Segment, SegmentPool
from crew_executor.shares import Shares

LARGE = 1 << 20


@pytest.fixture
def packer() -> Packer:
    return Packer(Shares("crew", lambda _number: None), SegmentPool())


def test_a_small_call_has_nothing_beside_it(packer: Packer) -> None:
    data, beside = packer.pack((abs, (1,), {}))

    assert beside is None
    with incoming(None):
        assert pickle.loads(data) == (abs, (1,), {})


def test_a_large_buffer_goes_beside_the_call(packer: Packer) -> None:
    data, beside = packer.pack(pickle.PickleBuffer(bytearray(LARGE)))

    assert len(data) < 1_000
    assert beside is not None
    assert beside.segment is not None


@pytest.mark.parametrize("hold", [lambda large: functools.partial(len, large), lambda large: large.__len__])
def test_a_large_buffer_of_the_function_goes_beside_the_call(packer: Packer, hold: Callable[[Any], Any]) -> None:
    large = Large(LARGE)
    data, beside = packer.pack((hold(large), (), {}))

    assert len(data) < 1_000
    assert beside is not None


@pytest.mark.parametrize("item", [(abs, 5, 0), (1, 2, None), ((), (1,), {}), (Ellipsis, None, {})])
def test_the_arguments_of_an_item_are_no_call(packer: Packer, item: tuple[Any, ...]) -> None:
    data, beside = packer.pack(item)

    assert pickle.loads(data) == item
    assert beside is None


class Large:
    """Something with a large buffer, and a method."""

    def __init__(self, size: int) -> None:
        self.content = bytearray(size)

    def __len__(self) -> int:
        return len(self.content)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return bytearray, (pickle.PickleBuffer(self.content),)


def test_a_large_buffer_without_room_travels_in_the_call(packer: Packer, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_self: SegmentPool, _views: object) -> Segment | None:
        return None

    monkeypatch.setattr(SegmentPool, "fill", no_room)
    data, beside = packer.pack(pickle.PickleBuffer(bytearray(LARGE)))

    assert len(data) > LARGE
    assert beside is None


def test_a_shared_object_goes_beside_the_call_by_number(packer: Packer) -> None:
    shared = packer.shares.add([1, 2], b"pickle", None)
    data, beside = packer.pack((len, (shared,), {}))
    _, beside_another = packer.pack((abs, (1,), {}))

    assert beside is not None
    assert [share.data for share in beside.shares] == [b"pickle"]
    assert beside_another is None
    assert len(data) < 1_000


@pytest.mark.parametrize("value", [1, b"x" * 20_000, "text", [1, 2], {"a": (1,)}, None])
def test_arguments_by_name_travel_as_they_are(packer: Packer, value: Any) -> None:
    _head, data, beside = packer.pack_call(abs, (value,), {"name": value}, None)

    assert pickle.loads(data) == ((value,), {"name": value})
    assert beside is None


def test_a_name_of_a_class_of_the_users_stays_what_it_is(packer: Packer) -> None:
    class Name(str):  # a local class: only cloudpickle can pickle it
        __slots__ = ()

    head, data, _beside = packer.pack_call(abs, (), {Name("name"): 1}, None)

    assert head or data
    ((name, value),) = pickle.loads(data)[-1].items()
    assert (str(name), type(name).__name__, value) == ("name", "Name", 1)
