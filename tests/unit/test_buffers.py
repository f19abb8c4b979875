"""Large buffers beside a pickle: what is left out, and that it is not copied when it is put in again."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from crew_executor import buffers
from crew_executor.buffers import ALIGNMENT, Buffers, incoming, offsets_of

LEAST = 1000


class Block:
    """An object with a buffer, as numpy's arrays are pickled."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.memory),)


def split(value: object) -> tuple[bytes, bytearray]:
    """Return the pickle, and the content of a segment for its buffers."""
    taken = Buffers(LEAST)
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


def test_who_begins_again_forgets_what_was_left_out() -> None:
    taken = Buffers(LEAST)
    pickle.dumps(Block(bytearray(LEAST)), 5, buffer_callback=taken.take)
    taken.begin()

    assert taken.wrap(b"data") == b"data"
