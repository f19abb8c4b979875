"""Why a scheduler ends a job: asked before the loss of a worker is told, so that its task's error says it.

When a job's time is over its processes are killed, and only the scheduler knows that it was for that. It is asked at
once, and not waited for longer than WHY_SECONDS: it may be slow, or out of order, and a task wants to run again. For
the dispatcher's thread; watch() and next_wake() under its lock. Asks nobody itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Protocol

from .connection import Connection
from .launchers import JobStatus, WorkerExit
from .mailbox import Mailbox

WHY_SECONDS = 3.0


class Askable(Protocol):
    """What is asked of the desk."""

    def ask(self, handles: Sequence[Hashable], then: Callable[..., None]) -> None:
        """Ask how jobs stand; then(statuses) is called, with none if the launcher does not say."""


Tell = Callable[[Connection, WorkerExit], None]


class Inquest:
    """Hold back the ends of workers until the scheduler has said why.

    Args:
        desk: asks it.
        mailbox: the dispatcher's.
    """

    def __init__(self, desk: Askable, mailbox: Mailbox) -> None:
        self._desk = desk
        self._mailbox = mailbox
        self._open: dict[Connection, tuple[float, WorkerExit, Tell]] = {}

    def open(self, handle: Hashable, connection: Connection, end: WorkerExit, tell: Tell, now: float) -> None:
        """Ask why a job is being ended, then tell(connection, end) with the scheduler's words in it."""
        self._open[connection] = (now + WHY_SECONDS, end, tell)
        self._desk.ask([handle], partial(self._heard, connection))

    def _heard(self, connection: Connection, statuses: Mapping[Hashable, JobStatus]) -> None:
        words = next((status.words for status in statuses.values()), "")
        self._close(connection, words)

    def _close(self, connection: Connection, words: str) -> None:
        held = self._open.pop(connection, None)
        if held is not None:
            _until, end, tell = held
            if words and words not in end.describe():
                end = end._replace(reason=f"{end.describe()}: {words}")
            tell(connection, end)

    def watch(self, now: float) -> None:
        """Wait no longer for answers that do not come."""
        for connection, (until, _end, _tell) in list(self._open.items()):
            if now >= until:
                self._mailbox.put(self._close, connection, "")

    def next_wake(self) -> list[float]:
        """Return the times that watch() must not miss."""
        return [until for until, _end, _tell in self._open.values()]
