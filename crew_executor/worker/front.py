"""What an executor is in its own workers: tasks submit tasks to the pool that runs them.

Imported when the first of them does so: until then a worker needs none of this. Calls go through exchange.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .. import errors, pools
from ..calls import command_of, pickling_error
from ..framing import LinkClosed
from ..futures import CrewFuture
from ..mapping import called
from ..options import TaskOptions
from ..seeding import Seeded
from ..submitter import TaskSubmitter
from .exchange import Exchange

if TYPE_CHECKING:
    from ..stats import Stats

T = TypeVar("T")


class WorkerFront(TaskSubmitter):
    """Stands for an executor in a worker of its own: submit() and map() with options(), nothing that ends the pool.

    Args:
        exchange: the worker's.
        name: the executor's.
        max_workers: the executor's.
    """

    def __init__(self, exchange: Exchange, name: str, max_workers: int) -> None:
        self._exchange = exchange
        self._name = name
        self._max_workers = max_workers
        self._options = TaskOptions()

    def _submit_call(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> CrewFuture[T]:
        return self._submit(self._options, fn, args, kwargs)

    def _make_map(self, *_arguments: Any) -> None:
        """Each item is a subtask of its own."""

    def _map_chunks(self, *_arguments: Any) -> None:
        """As above."""

    def _submit(
        self, options: TaskOptions, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> CrewFuture[T]:
        call = called(fn, args)
        exchange = self._exchange
        exchange.check()
        pools.check_not_importing()
        future: CrewFuture[T] = CrewFuture(call, time.time(), exchange.cancel)
        future._name = options.name or ""
        future._cancels_running = bool(options.cancel_running)
        try:
            sent: Callable[..., Any] = fn
            if options.seed_stream is not None:
                future._seed = options.seed_stream.next()
                sent = Seeded(future._seed, fn)
            parts: tuple[bytes, ...] = (exchange.pickle((sent, args, kwargs)),)
            if options.retries:
                parts = (*parts, exchange.pickle(options.retried_classes))
        except BaseException as error:
            if not isinstance(error, (Exception, SystemExit)):
                raise
            future._finish_lost(pickling_error(error, fn, args, kwargs))
            return future
        try:
            exchange.submit(future, parts, self._describe(options, call))
        except LinkClosed as error:
            raise errors.BrokenCrewError(f"the client of executor {self._name} is gone: {error}") from None
        return future

    @staticmethod
    def _describe(options: TaskOptions, call: Callable[..., Any]) -> dict[str, Any]:
        budget, command = options.make_budget(), command_of(call)
        limits = budget and (budget.timeout, budget.retries, budget.crash_retries, budget.is_timeout_retried)
        return {
            "name": options.name or command, "command": command, "priority": options.priority, "budget": limits,
            "flags": int(options.task_flags), "needs": options.resources or None,
        }  # fmt: skip

    def _pool(self) -> WorkerFront:
        return self

    def _is_a_parents(self) -> bool:
        return self._exchange.is_a_parents()

    def stats(self) -> Stats:
        """Refuse: what the pool does is known in the client only."""
        raise RuntimeError(f"stats() of executor {self._name} can be asked in its client only, not in a task")

    def run_on_all(self, fn: Callable[..., Any], /, *args: Any) -> NoReturn:  # noqa: ARG002  the executor's
        """Refuse: which workers there are is known in the client only."""
        raise RuntimeError(f"run_on_all() of executor {self._name} can be called in its client only, not in a task")

    def share(self, obj: Any) -> NoReturn:  # noqa: ARG002  the executor's
        """Refuse: constants are the client's."""
        raise RuntimeError(f"share() of executor {self._name} can be called in its client only, not in a task")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> NoReturn:  # noqa: ARG002  an Executor's
        """Refuse: the pool belongs to its client."""
        raise RuntimeError(f"executor {self._name} belongs to its client: a task of its own cannot shut it down")

    def __enter__(self) -> NoReturn:
        raise RuntimeError(f"executor {self._name} belongs to its client: use it in a task without `with`")

    def __reduce__(self) -> Any:
        return pools.find, (self._exchange.run, self._name, self._max_workers)

    def __repr__(self) -> str:
        return f"<executor {self._name} in one of its workers>"
