"""How what the scheduler sends becomes frames."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest

from crew_executor.connection import Connection
from crew_executor.core import messages
from crew_executor.core.horizon import FRAME_BYTES, FRAME_TASKS
from crew_executor.core.messages import HEADS_MAX, Buffer, Frame, Kind, OutcomeFlag, decode_tasks
from crew_executor.core.task import Task
from crew_executor.core.worker import Worker
from crew_executor.ends import Ends
from crew_executor.pump import INLINE_BYTES


class FakeEnds:
    """Keep the frames."""

    is_far = True  # whatever is written blocks nobody
    cell = port = None
    bytes_sent = 0

    def __init__(self) -> None:
        self.send_lock = threading.Lock()
        self.writer = self
        self.frames: list[Frame] = []

    def send_locked(self, kind: Kind, pieces: Sequence[Buffer], count: int = 0) -> None:
        assert self.send_lock.locked()
        self.frames.append(Frame(kind, 0, 0, 0, count, memoryview(b"".join(pieces))))

    def has_room(self) -> bool:
        return True

    def ordinals(self) -> list[list[int]]:
        return [[item.ordinal for item in decode_tasks(frame)] for frame in self.frames]


@pytest.fixture
def ends() -> FakeEnds:
    return FakeEnds()


def send(ends: FakeEnds, *sizes: int) -> list[int]:
    """Have tasks of so many bytes sent to a worker; return their ordinals."""
    return send_tasks(ends, [Task(number, "f", bytes(size)) for number, size in enumerate(sizes)])


def send_tasks(ends: FakeEnds, tasks: list[Task]) -> list[int]:
    worker = Worker("w1")
    worker.ordinal = 7
    for task in tasks:
        worker.hold(task, 0.0)
    connection = Connection(worker, 1, 0.0, cast(Ends, cast(Any, ends)))
    connection.put_tasks(tasks)
    connection.pump()
    return [task.ordinal for task in tasks]


def test_what_fits_goes_in_one_frame(ends: FakeEnds) -> None:
    assert [send(ends, *FRAME_TASKS * [10])] == ends.ordinals()


def test_many_tasks_go_in_equal_frames_one_after_the_other(ends: FakeEnds) -> None:
    """So that the worker, which reports after each, has more to do meanwhile."""
    ordinals = send(ends, *(FRAME_TASKS + 2) * [10])
    half = FRAME_TASKS // 2 + 1

    assert [ordinals[:half], ordinals[half:]] == ends.ordinals()


def test_many_bytes_go_in_several_frames(ends: FakeEnds) -> None:
    """Each of which can be written by whoever comes along."""
    ordinals = send(ends, *8 * [FRAME_BYTES // 4])

    assert [ordinals[:4], ordinals[4:]] == ends.ordinals()


@pytest.mark.parametrize("sizes", [(1,), (10, 5 * FRAME_BYTES), (5 * FRAME_BYTES, 10, 10)])
def test_every_task_goes_once_however_large(ends: FakeEnds, sizes: tuple[int, ...]) -> None:
    assert send(ends, *sizes) == list(itertools.chain(*ends.ordinals()))


def test_tasks_with_a_head_in_common_bring_it_once_in_a_frame(ends: FakeEnds) -> None:
    one, two = b"1" * 100, b"2" * 100
    heads = [one, one, b"", one, two, two, one, bytes(bytearray(one))]
    send_tasks(ends, [Task(number, "f", b"x", head=head) for number, head in enumerate(heads)])

    (frame,) = ends.frames
    assert [item.head for item in decode_tasks(frame)] == heads
    assert bytes(frame.body).count(one) == 1
    assert bytes(frame.body).count(two) == 1


def test_of_very_many_heads_some_are_brought_again(ends: FakeEnds) -> None:
    heads = [b"head %d" % (number % (HEADS_MAX + 1)) for number in range(3 * HEADS_MAX)]
    send_tasks(ends, [Task(number, "f", b"x", head=head) for number, head in enumerate(heads)])

    (frame,) = ends.frames
    assert [item.head for item in decode_tasks(frame)] == heads


def test_a_head_goes_with_other_parts(ends: FakeEnds) -> None:
    tasks = [Task(number, "f", (b"call", b"classes"), head=b"head") for number in range(2)]
    send_tasks(ends, tasks)

    (frame,) = ends.frames
    assert [(item.head, *map(bytes, item.parts)) for item in decode_tasks(frame)] == 2 * [
        (b"head", b"call", b"classes")
    ]


@pytest.mark.parametrize(
    "heads", [[b"h" * (INLINE_BYTES + 1)], 2 * [bytes(INLINE_BYTES // 2), bytes([1]) * (INLINE_BYTES // 2)]]
)
def test_heads_count_for_what_could_make_its_writer_wait(heads: list[bytes]) -> None:
    """Whoever comes along writes what fits into the socket; a longer frame waits for a thread that may."""
    connection = Connection(Worker("w1"), 1, 0.0, cast(Ends, cast(Any, FakeEnds())))
    entries: list[Any] = []
    connection._put = entries.append  # type: ignore[method-assign]
    connection.put_tasks([Task(1, "f", b"x", head=heads[number % len(heads)]) for number in range(4)])

    assert [entry.may_block for entry in entries] == [True]


class FakePort:
    """Hand each segment over once, as the socket does; a kept one stays."""

    def __init__(self, *numbers: int) -> None:
        self.waiting = set(numbers)

    def find(self, number: int, *, is_kept: bool = False) -> str | None:
        if number not in self.waiting:
            return None
        if not is_kept:
            self.waiting.remove(number)
        return f"segment {number}"


class FakeCell:
    """A cell with outcomes that were not sent."""

    def __init__(self, outbox: bytes) -> None:
        self.outbox = outbox

    def read_outbox(self) -> bytes:
        return self.outbox


def test_buffers_of_what_is_read_from_the_cell_are_there_when_it_comes_in_a_frame(ends: FakeEnds) -> None:
    """What the scheduler drops the first time, for the item before is missing, it takes the second time."""
    item = messages.encode_items_head(1, 1, 0, OutcomeFlag.BESIDE, (5).to_bytes(8, "little"))
    item += messages.encode_item(b"pickle") + messages.encode_items_end(1.0, 2.0, 3.0, 4)
    fakes: Any = ends
    fakes.cell, fakes.port = FakeCell(item), FakePort(5)
    connection = Connection(Worker("w1"), 1, 0.0, cast(Ends, fakes))

    for _ in range(2):
        assert [outcome.beside for outcome in connection.unsent_outcomes()] == ["segment 5"]
    sent = connection.with_buffers(messages.decode_outcome_items(item))
    assert [outcome.beside for outcome in sent] == ["segment 5"]
    assert not fakes.port.waiting
