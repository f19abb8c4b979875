"""How what the scheduler sends becomes frames."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest

from crew_executor.connection import Connection
from crew_executor.core.horizon import FRAME_BYTES, FRAME_TASKS
from crew_executor.core.messages import Buffer, Frame, Kind, decode_tasks
from crew_executor.core.task import Task
from crew_executor.core.worker import Worker
from crew_executor.ends import Ends


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
    worker = Worker("w1")
    worker.ordinal = 7
    tasks = [Task(number, "f", bytes(size)) for number, size in enumerate(sizes)]
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
