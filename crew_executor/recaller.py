"""Takes back what workers have not started. Decides nothing: the scheduler says from whom, and what becomes of it.

A worker on this machine is not asked: its cell tells at once what it keeps. One on another host has an agent that does
the same there; until it answers, the worker is given nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .cell import Cell
from .connection import Connection
from .core.scheduler import Scheduler


class Home(Protocol):
    """What is asked of the dispatcher."""

    def decide(self, decision: Callable[..., Any], *arguments: Any) -> Any:
        """Have the scheduler decide something, and carry it out."""


class Recaller:
    """Take back from workers.

    Args:
        home: the dispatcher.
        scheduler: decides; called under the dispatcher's lock.
        connections: the workers that are there.
    """

    def __init__(self, home: Home, scheduler: Scheduler, connections: Mapping[str, Connection]) -> None:
        self._home = home
        self._scheduler = scheduler
        self._connections = connections

    def recall(self, connection: Connection) -> None:
        """Take back what the worker has not started, and deliver what it has finished; or ask for it, if it is far."""
        self._home.decide(self._recall, connection)
        if connection.is_far:
            connection.pump()

    def _recall(self, connection: Connection) -> None:
        if connection.worker.name not in self._connections:
            return  # buried meanwhile, its tasks judged
        if not isinstance(connection.cell, Cell):
            if not connection.is_recall_asked:
                connection.is_recall_asked = True
                self._scheduler.await_recall(connection.worker)
                connection.put_recall(connection.worker.ordinal)
            return
        # In this order: what had finished before the withdrawal is certainly in the outbox that is read after it. All
        # that was ever sent is withdrawn: another recall may have come between, and more been sent after it.
        self._take(connection, connection.cell.withdraw(connection.worker.ordinal))

    def answered(self, connection: Connection, kept: int) -> None:
        """Go on with a worker on another host, which keeps so much; its outbox is in its ends."""
        self._home.decide(self._answered, connection, kept)

    def _answered(self, connection: Connection, kept: int) -> None:
        if connection.worker.name in self._connections:
            connection.is_recall_asked = False
            self._take(connection, kept)

    def _take(self, connection: Connection, kept: int) -> None:
        now = time.monotonic()
        self._scheduler.recalled(connection.worker, kept, now)
        outcomes = connection.unsent_outcomes()
        connection.take_back_segments(outcomes)
        self._scheduler.outcomes(connection.worker, outcomes, now)
