"""Large buffers beside a pickle: what is left out, and that it is not copied when it is put in again."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from crew_executor import buffers
from crew_executor.buffers import ALIGNMENT, APART_BYTES_MIN, NEVER, Buffers, apart, apart_each, incoming, offsets_of

LEAST = 1000


class Block:
    """An object with a buffer, as numpy's arrays are pickled."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.memory),)


def split(value: object) -> tuple[bytes, bytearray]:
    """Return the pickle, and the content of a segment for its buffers."""
    taken = Buffers(LEAST, beside_bytes_min=0)
    data = taken.wrap(pickle.dumps(value, 5, buffer_callback=taken.take))
    offsets = offsets_of([view.nbytes for view in taken.views])
    content = bytearray(offsets[-1])
    for offset, view in zip(offsets, taken.views, strict=False):
        content[offset : offset + view.nbytes] = view
    return data, content


def test_a_large_buffer_is_left_out_and_put_in_again_without_a_copy() -> None:
    data, content = split(Block(bytearray(b"x" * LEAST)))
    with incoming(content):
        block = pickle.loads(data)
    content[0] = ord("y")

    assert len(data) < LEAST
    assert bytes(block.memory)[:LEAST] == b"y" + b"x" * (LEAST - 1)


def test_a_small_one_stays_in() -> None:
    data, content = split(Block(bytearray(b"x" * (LEAST - 1))))

    assert not content
    assert bytes(pickle.loads(data).memory) == b"x" * (LEAST - 1)


def test_what_has_none_is_not_wrapped() -> None:
    data, _content = split([1, 2])

    assert data == pickle.dumps([1, 2], 5)


def test_several_come_back_in_their_places() -> None:
    blocks = [Block(bytearray([number]) * (LEAST + number)) for number in range(5)]
    data, content = split(blocks)
    with incoming(content):
        found = pickle.loads(data)

    assert [bytes(block.memory) for block in found] == [bytes(block.memory) for block in blocks]


def test_memory_that_was_constant_stays_so() -> None:
    data, content = split(Block(b"x" * LEAST))
    with incoming(content):
        assert memoryview(pickle.loads(data).memory).readonly


def test_memory_in_pieces_stays_in() -> None:
    assert Buffers(1).take(pickle.PickleBuffer(memoryview(bytearray(10))[::2]))


def test_buffers_begin_at_aligned_places_and_do_not_overlap() -> None:
    lengths = [1, ALIGNMENT, ALIGNMENT + 1, 0, 3]
    offsets = offsets_of(lengths)

    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    assert all(offsets[place] + length <= offsets[place + 1] for place, length in enumerate(lengths))


def test_without_its_buffers_it_is_refused() -> None:
    data, _content = split(Block(bytearray(LEAST)))
    with pytest.raises(pickle.UnpicklingError, match="not at hand"):
        pickle.loads(data)


def test_what_comes_in_is_forgotten_afterwards_even_if_one_is_inside_another() -> None:
    with incoming(b"outer"):
        with incoming(b"inner"):
            assert buffers._here.content == b"inner"
        assert buffers._here.content == b"outer"
    assert buffers._here.content is None


def whole(value: object, beside_bytes_min: int = NEVER) -> bytes:
    """Return the pickle with its buffers behind it."""
    taken = Buffers(LEAST, beside_bytes_min)
    data = taken.wrap(pickle.dumps(value, 5, buffer_callback=taken.take))
    assert not taken.views
    return data


def test_buffers_that_are_small_together_stand_behind_their_pickle() -> None:
    blocks = [Block(bytearray([number]) * (LEAST + number)) for number in range(5)]
    found = pickle.loads(whole([*blocks, Block(b"small")]))

    assert [bytes(block.memory) for block in found] == [*(bytes(block.memory) for block in blocks), b"small"]


def test_memory_behind_a_pickle_can_be_written_to_if_it_could_be_before() -> None:
    writable, constant = pickle.loads(whole([Block(bytearray(LEAST)), Block(bytes(LEAST))]))

    assert [memoryview(block.memory).readonly for block in (writable, constant)] == [False, True]


def test_what_stands_behind_a_pickle_is_a_copy() -> None:
    memory = bytearray(LEAST)
    data = whole(Block(memory))
    memory[0] = 1

    assert bytes(pickle.loads(data).memory) == bytes(LEAST)


@pytest.mark.parametrize(("sizes", "is_beside"), [((LEAST, LEAST - 1), False), ((LEAST, LEAST), True)])
def test_they_travel_beside_it_from_a_size_in_all_on(sizes: tuple[int, ...], is_beside: bool) -> None:
    taken = Buffers(1, beside_bytes_min=2 * LEAST)
    taken.wrap(pickle.dumps([Block(bytearray(size)) for size in sizes], 5, buffer_callback=taken.take))

    assert is_beside is bool(taken.views)


@pytest.mark.parametrize("size", [0, APART_BYTES_MIN - 1, APART_BYTES_MIN, 10 * APART_BYTES_MIN])
def test_bytes_leave_their_pickle_and_are_bytes_again(size: int) -> None:
    value = bytes(range(256)) * (size // 256 + 1)
    taken = Buffers(beside_bytes_min=0)
    data = taken.wrap(pickle.dumps(apart(value), 5, buffer_callback=taken.take))
    assert bool(taken.views) is (len(value) >= APART_BYTES_MIN)
    content = taken.join() if taken.views else None
    with incoming(content):
        found = pickle.loads(data)

    assert (type(found), found) == (bytes, value)
    assert pickle.loads(whole(apart(value))) == value


def test_bytes_that_are_the_same_twice_are_so_again_and_travel_once() -> None:
    value = bytes(APART_BYTES_MIN)
    taken = Buffers(beside_bytes_min=0)
    data = taken.wrap(pickle.dumps(apart_each((value, 1, value)), 5, buffer_callback=taken.take))
    assert len(taken.views) == 1
    with incoming(taken.join()):
        first, number, second = pickle.loads(data)

    assert first == value
    assert (first is second, number) == (True, 1)


@pytest.mark.parametrize("value", [bytearray(APART_BYTES_MIN), "x" * APART_BYTES_MIN, type("Own", (bytes,), {})(10**5)])
def test_nothing_else_has_a_stand_in(value: Any) -> None:
    assert apart(value) is value


def test_who_begins_again_forgets_what_was_left_out() -> None:
    taken = Buffers(LEAST)
    pickle.dumps(Block(bytearray(LEAST)), 5, buffer_callback=taken.take)
    taken.begin()

    assert taken.wrap(b"data") == b"data"
