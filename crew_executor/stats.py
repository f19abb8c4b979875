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


class Stats(NamedTuple):
    """An executor now, taken under one lock.

    Attributes:
        queued: tasks that wait in the client.
        running: tasks at workers, started or sent ahead.
        done: tasks finished, failed, crashed or cancelled so far.
        workers: those that are there or on their way.
        launched: workers launched so far.
        decisions: the scaler's last decisions in words, the latest last.
    """

    queued: int
    running: int
    done: int
    workers: tuple[WorkerStats, ...]
    launched: int
    decisions: tuple[str, ...]
