"""The pools that behaviour.py compares, each behind the same few verbs.

A verb that a pool has under another name is used under that name; one that it does not have raises NotOffered. An
adapter must not soften what its pool does: no retries, no time limits, no clean-up of its own.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import multiprocessing
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

Submit = Callable[..., "Future[Any]"]


class NotOffered(Exception):
    """The pool has no such capability."""


class Contender:
    """A pool behind the verbs of concurrent.futures.Executor, and a few that only some pools have."""

    key = ""
    name = ""
    module = ""

    @property
    def title(self) -> str:
        """The pool's name and version."""
        return f"{self.name} {importlib.metadata.version(self.key)}"

    @property
    def is_installed(self) -> bool:
        """Whether the pool can be imported."""
        return importlib.util.find_spec(self.module) is not None

    def make(self, workers: int = 2, **arguments: Any) -> Any:
        """Make a pool. The arguments are initializer and initargs of ProcessPoolExecutor."""
        raise NotImplementedError

    def make_recycling(self, tasks: int) -> Any:
        """Make a pool that replaces each worker after so many tasks."""
        raise NotOffered(tasks)

    def submit(self, pool: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call as the pool's documentation says."""
        future: Future[Any] = pool.submit(fn, *args, **kwargs)
        return future

    def map(self, pool: Any, fn: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        """Map with nothing but the defaults."""
        results: Iterator[Any] = pool.map(fn, items)
        return results

    def map_ahead(self, pool: Any, fn: Callable[..., Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
        """Map reading at most so many items ahead of the consumer."""
        try:
            results: Iterator[Any] = pool.map(fn, items, buffersize=ahead)
        except TypeError:  # ProcessPoolExecutor has it from Python 3.14 on
            raise NotOffered(pool) from None
        return results

    def submit_with(self, pool: Any, **option: Any) -> Submit:
        """Return a submit() with one option: timeout=seconds, cancel_running=True (cancel() stops what runs), or
        crash_retries=times.
        """
        raise NotOffered(pool, option)

    def in_loop(self, pool: Any, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run a call from a coroutine, so that cancelling stops it if the pool offers that."""
        return asyncio.get_running_loop().run_in_executor(pool, fn, *args)

    def cancel_waiting(self, pool: Any) -> None:
        """Shut down: what waits is cancelled, what runs is finished. Does not wait."""
        try:
            pool.shutdown(wait=False, cancel_futures=True)
        except TypeError:
            raise NotOffered(pool) from None

    def shutdown(self, pool: Any) -> None:
        """Shut down and wait."""
        pool.shutdown(wait=True)


class Crew(Contender):
    """CrewExecutor. An options() without one of the keywords raises TypeError: then it is not offered."""

    key, name, module = "crew", "CrewExecutor", "crew_executor"

    @property
    def title(self) -> str:
        """The pool's name and version."""
        return f"{self.name} {importlib.metadata.version('crew-executor')}"

    def make(self, workers: int = 2, **arguments: Any) -> Any:
        """Make a pool."""
        from crew_executor import CrewExecutor

        return CrewExecutor(workers, **arguments)

    def make_recycling(self, tasks: int) -> Any:
        """Make a pool with max_tasks_per_child."""
        return self.make(max_tasks_per_child=tasks)

    def _view(self, pool: Any, **option: Any) -> Any:
        try:
            return pool.options(**option)
        except TypeError:
            raise NotOffered(option) from None

    def submit_with(self, pool: Any, **option: Any) -> Submit:
        """Submit to a view."""
        submit: Submit = self._view(pool, **option).submit
        return submit

    def in_loop(self, pool: Any, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run through a view that stops what is cancelled, if there is such a view."""
        try:
            view = self._view(pool, cancel_running=True)
        except NotOffered:
            view = pool
        return super().in_loop(view, fn, *args)


class Standard(Contender):
    """ProcessPoolExecutor with the start method that is this Python's default."""

    key, name, module = "pool", "ProcessPoolExecutor", "concurrent.futures"

    @property
    def title(self) -> str:
        """The pool's name, the version of Python, and the start method."""
        return f"{self.name} {platform.python_version()} ({multiprocessing.get_context().get_start_method()})"

    def make(self, workers: int = 2, **arguments: Any) -> Any:
        """Make a pool."""
        return ProcessPoolExecutor(workers, **arguments)

    def make_recycling(self, tasks: int) -> Any:
        """Make a pool with max_tasks_per_child, which it has from Python 3.11 on and refuses with fork: so, spawn."""
        arguments: dict[str, Any] = {"max_tasks_per_child": tasks}
        try:
            return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), **arguments)
        except TypeError:
            raise NotOffered(tasks) from None


class Loky(Contender):
    """loky.ProcessPoolExecutor, not the reusable one, which is made anew by the caller after it broke."""

    key, name, module = "loky", "loky", "loky"

    def make(self, workers: int = 2, **arguments: Any) -> Any:
        """Make a pool."""
        from loky import ProcessPoolExecutor as LokyExecutor

        return LokyExecutor(workers, **arguments)

    def map_ahead(self, pool: Any, fn: Callable[..., Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
        """Not there: its map() takes any keyword, and does nothing with those that it does not know."""
        raise NotOffered(pool, fn, items, ahead)


class Pebble(Contender):
    """pebble.ProcessPool: schedule() instead of submit(); time limits and stopping are always there."""

    key, name, module = "pebble", "pebble", "pebble"

    def make(self, workers: int = 2, **arguments: Any) -> Any:
        """Make a pool."""
        from pebble import ProcessPool

        return ProcessPool(max_workers=workers, **arguments)

    def make_recycling(self, tasks: int) -> Any:
        """Make a pool with max_tasks."""
        return self.make(max_tasks=tasks)

    def submit(self, pool: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call schedule()."""
        future: Future[Any] = pool.schedule(fn, args=args, kwargs=kwargs)
        return future

    def map(self, pool: Any, fn: Callable[..., Any], items: Iterable[Any]) -> Iterator[Any]:
        """Map; pebble gives a future of the iterator."""
        results: Iterator[Any] = pool.map(fn, items).result()
        return results

    def submit_with(self, pool: Any, **option: Any) -> Submit:
        """Call schedule(timeout=...); that cancel() stops what runs is always so."""
        if option == {"cancel_running": True}:
            return lambda fn, *args: pool.schedule(fn, args=args)
        if list(option) == ["timeout"]:
            return lambda fn, *args: pool.schedule(fn, args=args, **option)
        raise NotOffered(option)

    def in_loop(self, pool: Any, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run with the time limit that pebble's submit() wants as first argument."""
        return asyncio.get_running_loop().run_in_executor(pool, fn, None, *args)

    def cancel_waiting(self, pool: Any) -> None:
        """Stop the pool "without performing any pending task"; join() has to follow, and ends what runs, too."""
        pool.stop()
        pool.join()

    def shutdown(self, pool: Any) -> None:
        """Close the pool and wait."""
        pool.close()
        pool.join()


CONTENDERS: dict[str, Contender] = {contender.key: contender for contender in (Crew(), Standard(), Loky(), Pebble())}
