"""What an executor tells about itself: immutable snapshots."""

from __future__ import annotations

from typing import NamedTuple


class WorkerStats(NamedTuple):
    """One worker now.

    Attributes:
        state: "starting", "idle", "busy", "waiting" (its task waits for tasks that it has submitted) or "leaving".
        tasks: how many it has finished.
        seconds: how long their calls ran in all.
    """

    name: str
    host: str
    pid: int | None
    state: str
    tasks: int
    seconds: float


class SeatStats(NamedTuple):
    """One of the pool's max_workers places, which workers take one after the other: for reports.

    Attributes:
        number: from 1.
        worker: the name of who has it, or had it last; empty if nobody ever had.
        is_connected: whether a worker with this seat has joined and is not gone.
        is_busy: whether it has a task.
        launches: how often a worker was launched for it.
        instances: how many of them have joined.
        tasks_assigned: tasks that its workers were given and have kept.
        tasks_complete: those of them that have ended there, however they did. A crash of the worker is no such end.
    """

    number: int
    worker: str
    is_connected: bool
    is_busy: bool
    launches: int
    instances: int
    tasks_assigned: int
    tasks_complete: int


class Stats(NamedTuple):
    """An executor now, taken under one lock.

    Attributes:
        queued: tasks that wait in the client.
        running: tasks at workers, started or sent ahead.
        done: tasks finished, failed, crashed or cancelled so far.
        workers: those that are there or on their way.
        launched: workers launched so far.
        seats: the places that workers have in turn, max_workers of them.
        decisions: the scaler's last decisions in words, the latest last.
    """

    queued: int
    running: int
    done: int
    workers: tuple[WorkerStats, ...]
    launched: int
    seats: tuple[SeatStats, ...]
    decisions: tuple[str, ...]
