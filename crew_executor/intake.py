"""What stands between an executor and its dispatcher: calls are pickled here, and become tasks with futures.

In the client. Apart from executor.py because it is not needed before the supervisor runs: a first executor imports it,
and all that it needs, beside the supervisor's own imports. Must not refer to the executor; see packer.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar, cast

from . import seeding, table
from .buffers import Buffers
from .calls import pickling_error
from .chunks import MapRun
from .dispatcher import Dispatcher
from .futures import CrewFuture
from .handlers import is_from_handler
from .mapping import called
from .options import TaskOptions
from .packer import Packer
from .seeding import Seeded
from .segments import Segment
from .surroundings import Surroundings

REPLAY_BYTES_MAX = 1_000_000
"""Calls up to this are kept while they may fail, for CrewFuture.replay(); the task has the same bytes until then."""
SHARED_BYTES_MIN = 4096
"""Buffers of constants from this size on cannot be written to, and are the same memory for all workers."""

T = TypeVar("T")


class Intake:
    """Take the calls of one executor."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._cancel = dispatcher.canceller.cancel
        self._packer = Packer(dispatcher.shares, dispatcher.segments)
        self._surroundings = Surroundings(logging.root)

    def submit(
        self,
        options: TaskOptions,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call: Callable[..., Any] | None = None,
        reduce: Callable[[Any], Any] | None = None,
    ) -> CrewFuture[T]:
        """Submit a call. `call` is the user's function where fn is one of ours that calls it; `reduce` as pickle's.

        Raises:
            ValueError: no worker can have what the options say that it needs.
        """
        call = called(fn, args) if call is None else call
        dispatcher = self._dispatcher
        future: CrewFuture[T] = CrewFuture(call, time.time(), self._cancel)
        is_plain = options.are_plain
        sent = fn if is_plain else self._apply(options, future, fn)
        try:
            head, data, beside = self._packer.pack_call(sent, args, kwargs, reduce)
            if beside is None and len(head) + len(data) <= REPLAY_BYTES_MAX:
                future._head, future._call = head, data
            if self._surroundings.have_changed():
                head, data = b"", self._surroundings.attach(table.join(head, data))
            payload = data if is_plain or options.retry_part is None else (data, options.retry_part)
        except BaseException as error:
            if not isinstance(error, (Exception, SystemExit)) or is_from_handler(error):
                raise
            dispatcher.check_open()
            future._finish_lost(pickling_error(error, fn, args, kwargs))
            return future
        dispatcher.submit(future, self._packer.command_of(call), head, payload, options, beside)
        return future

    def _apply(self, options: TaskOptions, future: CrewFuture[T], fn: Callable[..., T]) -> Callable[..., T]:
        """Let a future have what is said of its task; return what is to be called."""
        if options.resources:
            self._dispatcher.recruiter.check_needs(options.resources)
        if options.name is not None:
            future._name = options.name
        if options.cancel_running:
            future._cancels_running = True
        if options.seed_stream is None:
            return fn
        future._seed = options.seed_stream.next()
        return Seeded(future._seed, fn)

    def make_map(
        self, options: TaskOptions, fn: Callable[..., Any], items: Iterator[tuple[Any, ...]], deadline: float | None,
        buffersize: int | None,
    ) -> MapRun | None:  # fmt: skip
        """Return a map() whose items travel together; None if its function brings a seeded view along.

        All items would share one copy of that, and a worker that has unpickled it begins anew: the same numbers twice.
        """
        if seeding.is_used and seeding.travels_in(partial(table.dumps_call, fn)):
            return None
        dispatcher = self._dispatcher
        return MapRun(
            dispatcher.submit_chunk, dispatcher.canceller.drop_map, fn, items, attach=self._surroundings.attach,
            packer=self._packer,
            name=options.name, priority=options.priority or 0, deadline=deadline, buffersize=buffersize,
            is_ordered=options.is_ordered,
        )  # fmt: skip

    def run_on_all(self, fn: Callable[..., T], args: tuple[Any, ...]) -> list[CrewFuture[T]]:
        """Have every worker run a call; see CrewExecutor.run_on_all()."""
        data = table.dumps_call((fn, args, {}))
        return self._dispatcher.broadcasts.run(fn, self._surroundings.attach(data))

    def share(self, obj: T) -> T:
        """Return a handle that stands for a constant; see CrewExecutor.share()."""
        self._dispatcher.check_open()
        buffers = Buffers(SHARED_BYTES_MIN, beside_bytes_min=0)
        data = table.dumps_call(obj, None, buffers)
        content: Segment | bytes | None = None
        if buffers.views:
            content = segment = self._dispatcher.segments.fill(buffers.views)
            if segment is None:
                content = buffers.join()
            else:
                segment.borrowers += 1  # for good: tasks may keep the object, and nobody hears of it
        return cast("T", self._dispatcher.shares.add(obj, data, content))
