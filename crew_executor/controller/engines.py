"""The executors that a controller has, one after the other, each with its clerk. Decides nothing about tasks."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

from .. import pools
from ..executor import CrewExecutor
from ..stats import SeatStats
from .clerk import Clerk
from .inline import InlineExecutor
from .tally import Tally

END_SECONDS = 5.0
"""How long the end of a controller waits for the clerk, which may be unpickling something."""


class Engine(NamedTuple):
    """An executor and its clerk; inline needs none."""

    executor: CrewExecutor | InlineExecutor
    clerk: Clerk | None

    def catch_up(self, seconds: float) -> None:
        """Let the clerk take what has come, for so long."""
        if self.clerk is not None:
            self.clerk.flush(seconds)

    def end(self) -> None:
        """End the workers and the clerk, and wait for that."""
        self.executor.kill_workers()
        self.executor.shutdown(wait=True)
        if self.clerk is not None:
            self.clerk.flush(END_SECONDS)
            self.clerk.close(END_SECONDS)


class Engines:
    """Make an engine when one is needed, and end those that are not any more.

    Args:
        name: the controller's.
        owner: the controller; not kept.
        make: makes an executor.

    Attributes:
        now: the engine that runs, or None.
    """

    def __init__(self, name: str, owner: object, make: Callable[[], CrewExecutor | InlineExecutor]) -> None:
        self._name = name
        self._make = make
        self._lock = threading.RLock()  # held while an executor is made, which takes a while
        self._pid = os.getpid()
        self._is_copy = pools.is_imported_by_worker()
        self._past: list[Engine] = []  # that are being ended
        self._owner = weakref.ref(owner)
        self.now: Engine | None = None

    @property
    def is_a_parents(self) -> bool:
        """Whether this process is a forked child of the controller's."""
        return os.getpid() != self._pid

    def check_process(self) -> None:
        """Raise RuntimeError in a forked child."""
        if self.is_a_parents:
            raise RuntimeError(
                f"controller {self._name} belongs to process {self._pid}, of which this one, {os.getpid()}, is a "
                "forked child: its results do not arrive here"
            )

    def get(self) -> Engine:
        """Return the engine that runs, made if need be.

        Raises:
            RuntimeError: this is not the process of the controller.
        """
        now = self.now
        if now is not None:
            return now
        if self._is_copy:
            raise RuntimeError(
                f"controller {self._name} is a global of a module that this worker has imported: its tasks cannot use "
                "it, for that would be another one; give a task that submits tasks the controller's executor"
            )
        with self._lock:
            if self.now is None:
                executor = self._make()
                self.now = Engine(
                    executor, None if isinstance(executor, InlineExecutor) else Clerk(self._owner(), self._name)
                )
            return self.now

    def start(self) -> None:
        """Make an engine, if there is none; nothing in a module that a worker imports, which must not fail of it."""
        if not self._is_copy:
            self.get()

    def retire(self) -> list[Engine]:
        """Let no more tasks go to the engine that runs; return all that are to be ended."""
        with self._lock:
            if self.now is not None and self.now not in self._past:  # there already, if this was interrupted before
                self._past.append(self.now)
            self.now = None  # from here on there will be another
            for engine in self._past:
                engine.executor.shutdown(wait=False)
            return list(self._past)

    def end(self, engines: list[Engine], tally: Tally) -> None:
        """End engines, and have what their seats did remembered."""
        for engine in engines:
            engine.end()
        with self._lock:
            for engine in engines:
                if engine in self._past:
                    tally.keep(engine.executor.stats().seats)
                    self._past.remove(engine)

    def seats(self) -> list[tuple[SeatStats, ...]]:
        """Return the seats of those that are not ended."""
        with self._lock:
            engines = [*self._past, *([] if self.now is None else [self.now])]
            return [engine.executor.stats().seats for engine in engines]
