"""The verbs by which workloads speak to a contender, with what most executors do.

A verb that a contender has under another name is used under that name; one that it does not have raises NotOffered, and
the table says so. An adapter improves nobody's defaults, and makes nobody slower: it calls what the contender's own
documentation shows for the purpose.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import platform
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from benchmark_row import NotOffered

TASKS_AT_A_TIME = 8
"""More than two workers can run, fewer than would fill the memory when each carries 100 MB."""


class Contender:
    """A pool behind the verbs of concurrent.futures.Executor."""

    key = ""
    title = ""
    module = ""
    distribution: str | None = None
    """What pip calls it; None: part of Python."""
    statement = ""
    """The import that a user writes."""
    program = ("", "", "pool.shutdown()")
    """For programs that run nothing else, as a user would write them: make `pool`, ask it for pow(2, 5), end it."""
    share_of_tasks = 1.0
    """The very slow ones get fewer tasks where a rate is measured, so that a run ends; the table says so."""
    only_rows: frozenset[str] | None = None
    """A contender for these rows alone; None: for all."""

    @property
    def is_installed(self) -> bool:
        """Whether the contender can be imported."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str:
        """The version that is measured."""
        return platform.python_version() if self.distribution is None else importlib.metadata.version(self.distribution)

    def version_or_none(self) -> str | None:
        """The version, or None if it cannot be imported."""
        return self.version if self.is_installed else None

    def takes_part_in(self, row: str) -> bool:
        """Whether the contender is one for this row."""
        return self.only_rows is None or row in self.only_rows

    def share(self, number: int) -> int:
        """Return how many of so many tasks this contender gets."""
        return max(1, round(number * self.share_of_tasks))

    def load(self) -> None:
        """Do the imports of a user's program, so that they are not part of what is measured."""
        exec(self.statement, {})

    def make(self, workers: int) -> Any:
        """Make a pool with nothing but the number of its workers."""
        raise NotImplementedError

    def make_recycling(self, workers: int) -> Any:
        """Make a pool that replaces each worker after one task."""
        raise NotOffered("does not replace workers")

    def close(self, pool: Any) -> None:
        """End the pool and wait."""
        pool.shutdown(wait=True)

    # ------------------------------------------------------------------------------------------------------- calls

    def submit(self, pool: Any, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Submit one call and return what its result is asked of."""
        return pool.submit(fn, *args)

    def result(self, future: Any) -> Any:
        """Wait for one result."""
        return future.result()

    def results(self, futures: Sequence[Any]) -> list[Any]:
        """Wait for all results."""
        return [future.result() for future in futures]

    def call_all(self, pool: Any, fn: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Run the calls one task each: submit all, wait for all. The results are in the order of the arguments."""
        return self.results([self.submit(pool, fn, *one) for one in arguments])

    def call_recycling(self, pool: Any, fn: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Run the calls in a pool of make_recycling()."""
        return self.call_all(pool, fn, arguments)

    def call_shared(self, pool: Any, fn: Callable[..., Any], shared: Any, numbers: Sequence[int]) -> list[Any]:
        """Call fn(shared, number) for each number, one task each, the way meant for one big object for many tasks.

        Where there is none, the object is an argument like any other, of few tasks at a time: copies need memory.
        """
        results: list[Any] = []
        waiting: deque[Any] = deque()
        for number in numbers:
            if len(waiting) == TASKS_AT_A_TIME:
                results.append(self.result(waiting.popleft()))
            waiting.append(self.submit(pool, fn, shared, number))
        return results + self.results(list(waiting))

    def map(self, pool: Any, fn: Callable[..., Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """Map a function of one argument, by default with default arguments."""
        return list(pool.map(fn, items) if chunksize is None else pool.map(fn, items, chunksize=chunksize))

    def in_loop(self, pool: Any, fn: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Run one call from a coroutine."""
        return asyncio.get_running_loop().run_in_executor(pool, fn, *args)
