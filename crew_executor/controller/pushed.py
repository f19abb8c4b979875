"""A task of a controller from push() to its record, and the many tasks of a map()."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, NamedTuple

from ..options import TaskOptions
from ..records import TaskRecord
from ..seeding import SeedStream
from .arguments import callable_task, items, keywords
from .inline import InlineExecutor
from .result import Result, text_of_call

if TYPE_CHECKING:
    from ..executor import CrewExecutor
    from .clerk import Clerk
    from .controller import Controller


class Call(NamedTuple):
    """What a task is made of."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    seed: int | None
    timeout: float | None


class Pushed:
    """A task that has no result yet. After push() only the clerk of the controller that runs it changes anything.

    Attributes:
        owner: a weak reference to whose pop() gives the result.
        name: told apart by it.
        results: where the result of a task of map() goes; None: to the owner's pop().
        call: None when nobody could run it again.
        future: of the run that is under way, or None before the first.
        handle: what push() returns: the future, or, where a backup may run the task again, what stands for all runs.
        runner, executor, clerk: who runs it, where, and whose clerk judges that.
        attempts: how often it was run so far, at this controller and at backups.
        judged: the futures of runs that were judged; `is_judged`: its result is there.
        is_cancelled: it was to be ended: it is not run again.
    """

    __slots__ = (
        "attempts", "call", "clerk", "command", "executor", "future", "handle", "is_cancelled", "is_judged",
        "is_plain", "judged", "name", "owner", "results", "runner", "seed",
    )  # fmt: skip

    def __init__(
        self, name: str, owner: Callable[[], Controller | None], results: MapResults | None, call: Call
    ) -> None:
        self.name = name
        self.owner = owner
        self.results = results
        self.call: Call | None = call
        self.command = text_of_call(call.fn, call.args, call.kwargs)
        self.seed = call.seed
        self.future: Any = None
        self.handle: Any = None
        self.runner = owner
        self.executor: Any = None
        self.clerk: Clerk | None = None
        self.attempts = 0
        self.judged: list[Any] = []
        self.is_judged = self.is_cancelled = False
        self.is_plain = False  # without a name of the user's, a seed, a timeout

    def submit_to(self, executor: CrewExecutor | InlineExecutor) -> Any:
        """Submit the call, with the task's name, seed and timeout; return the future."""
        assert self.call is not None
        fn, args, kwargs, seed, timeout = self.call
        if isinstance(executor, InlineExecutor):
            return executor.run(fn, args, kwargs, TaskOptions(name=self.name, seed=seed, timeout=timeout))
        if self.is_plain:  # views cost more than the submit
            return executor.submit(fn, *args, **kwargs)
        return executor.options(name=self.name, seed=seed, timeout=timeout).submit(fn, *args, **kwargs)

    def judge(self, future: Any) -> None:
        """Have the controller that ran the task judge what has become of it, unless that is forgotten."""
        runner = self.runner()
        if runner is not None:
            runner._judge(self, future)
        elif isinstance(self.handle, Handle):
            self.handle.finish(future.record())


class MapResults:
    """The results of a map(), by the names of its tasks."""

    def __init__(self) -> None:
        self.by_name: dict[str, Result] = {}


class Handle(Future[Any]):
    """The future of a task that a backup may run again: done when the last run is.

    Args:
        pushed: the task.
    """

    def __init__(self, pushed: Pushed) -> None:
        super().__init__()
        self._pushed = pushed
        self._record: TaskRecord | None = None

    def finish(self, record: TaskRecord) -> None:
        """Take what has become of the task; for the clerk. Callbacks may wait for it, and so run elsewhere."""
        self._record = record
        if self._done_callbacks:  # type: ignore[attr-defined]  # an Executor's future has them
            thread = threading.Thread(target=self._finish, args=(record,), name="crew-callbacks")
            with contextlib.suppress(RuntimeError):  # too many threads, or the interpreter is ending
                thread.start()
                return
        self._finish(record)

    def _finish(self, record: TaskRecord) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled by its user
            if record.status == "cancel":
                if super().cancel():
                    self.set_running_or_notify_cancel()
            elif record.error is None:
                self.set_result(record.result)
            else:
                self.set_exception(record.error)

    def record(self) -> TaskRecord:
        """Return what is known of the task now: of its last run."""
        record: TaskRecord = self._record or self._pushed.future.record()
        return record

    def running(self) -> bool:
        """Return whether a worker has the task."""
        return not self.done() and bool(self._pushed.future.running())

    def cancel(self) -> bool:
        """Cancel the task if no worker has it; return whether it is cancelled."""
        if not self.done() and self._pushed.future.cancel():
            self._pushed.is_cancelled = True
            if super().cancel():
                self.set_running_or_notify_cancel()
        return self.cancelled()

    def kill(self) -> bool:
        """End the task wherever it runs; return False if it was done before."""
        owner = self._pushed.owner()
        return owner is not None and bool(owner._kill([self._pushed]))

    def name(self) -> str:
        """Return the name of the task."""
        return self._pushed.name

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio  # late: for those who run a loop anyway

        return asyncio.wrap_future(self).__await__()


def calls_of(
    fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], names: Iterable[Any] | None, seed: int | None,
    timeout: float | None, kwargs: dict[str, Any] | None,
) -> Iterator[tuple[str | None, Call]]:  # fmt: skip
    """Yield the name and the call of each item of a map()."""
    callable_task(fn)
    stream = None if seed is None else SeedStream(seed)
    each = items(iterables)
    words = [None] * len(each) if names is None else list(map(str, names))
    if len(words) != len(each) or len({*words}) < (names is not None) * len(words):
        raise ValueError(f"names must be as many as the items, {len(each)}, and no two the same")
    for name, args in zip(words, each, strict=True):
        yield name, Call(fn, args, keywords(kwargs), None if stream is None else stream.next(), timeout)
