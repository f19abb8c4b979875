"""What happens in a pool, as events: for timelines, metrics and traces. While nobody listens nothing is noted.

Listeners are called where things happen, by threads of ours and of users', some under the dispatcher's lock: each only
adds the event to something, as Hook does, which brings it to a function of the user's in a thread of its own.

Nothing of a task is unpickled here: its error is known by the words that travel beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from . import tracebacks
from .callbacks import CallbackThread
from .calls import command_of
from .core.messages import IS_ERROR, Outcome, OutcomeFlag, TaskFlag, decode_items
from .log import logger

if TYPE_CHECKING:
    from .connection import Connection
    from .core.task import Task

ERROR_TEXT_MAX = 500
"""Characters of an error that an event keeps."""
POOL_SECONDS, POOL_BURST = 0.005, 50.0
"""While work is under way, tasks and workers are counted so often at most, but so many times as they change before."""
FAILURE_SECONDS = 60.0
"""A function of the user's that fails again and again is mentioned at most so often."""
FAILURES_MAX = 100
"""Ways to fail that are told apart."""


class TaskEvent(NamedTuple):
    """An attempt of a task is over.

    Attributes:
        name: the task's.
        status: as in TaskRecord: "success", "error", "crash", "timeout" or "cancel".
        worker: where it ran; empty if it had not begun.
        submitted, started: Unix seconds, or None where that is not known; `started` by the worker's clock.
        seconds: how long it ran, or None.
        attempt: 1 for the first.
        is_last: False: it is run again.
        items: how many items of a map() this was, in one go.
        failures: how many of them failed; of an ordinary task 1 or 0.
        warnings: how many it has caused.
        error: what it has raised, or what its worker died of, in words.
    """

    name: str
    status: str
    worker: str
    submitted: float | None
    started: float | None
    seconds: float | None
    attempt: int
    is_last: bool
    items: int
    failures: int
    warnings: int
    error: str


class WorkerEvent(NamedTuple):
    """Something has become of a worker.

    Attributes:
        kind: "launched"; "joined": it takes tasks now; "gone"; "failed": its launch came to nothing.
        at: Unix seconds.
        worker, host, pid: which; the last two are known when it has joined.
        words: why it is gone, or has failed.
        is_lost: it is gone, and was not let go.
    """

    kind: str
    at: float
    worker: str
    host: str
    pid: int | None
    words: str
    is_lost: bool


class PoolEvent(NamedTuple):
    """How many there are of what, from now on.

    Attributes:
        at: Unix seconds.
        queued, running: tasks that wait in the client, and tasks at workers.
        ready, starting: workers that take tasks, and workers on their way.
        decision: what the scaler has just decided, in words, or nothing.
    """

    at: float
    queued: int
    running: int
    ready: int
    starting: int
    decision: str


Event = TaskEvent | WorkerEvent | PoolEvent


class Successes(NamedTuple):
    """Tasks that a worker has done, one after the other, and of which there is no more to say.

    Most are like that, and a TaskEvent of each would cost a twentieth of all that a small task costs the client.

    Attributes:
        worker: which.
        rows: of each its name, when it was submitted, when it began, how long it ran, and the attempt's number.
    """

    worker: str
    rows: list[tuple[str, float | None, float, float, int]]

    def each(self) -> Iterator[TaskEvent]:
        """Yield an event for each."""
        for name, submitted, started, seconds, attempt in self.rows:
            yield TaskEvent(
                name, "success", self.worker, submitted, started, seconds, attempt, is_last=True, items=1, failures=0,
                warnings=0, error="",
            )  # fmt: skip


Listener = Callable[[Event | Successes], None]


class EventStream:
    """Tell listeners what happens; free of cost while there are none.

    Args:
        lock: the dispatcher's.
        connections: the workers that are there or on their way.

    Attributes:
        listeners: replaced, never changed: whoever goes through it is not disturbed.
    """

    def __init__(self, lock: Any, connections: Mapping[str, Connection]) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self._lock = lock
        self._connections = connections
        self._hooks: list[Hook] = []
        self._last: tuple[int, int, int, int] | None = None
        self._last_decision = ""
        self._asked_at = 0.0
        self._room = POOL_BURST

    def listen(self, listener: Listener) -> None:
        """Tell one more from now on; first of the workers that are there, or on their way."""
        with self._lock:
            now, ago = time.time(), time.monotonic()
            for connection in self._connections.values():
                facts = connection.facts
                launched_at = now - (ago - connection.launched_at)
                listener(WorkerEvent("launched", launched_at, facts.name, facts.host, facts.pid, "", False))
                if connection.is_ready:
                    listener(WorkerEvent("joined", now, facts.name, facts.host, facts.pid, "", False))
            self.listeners = (*self.listeners, listener)
            self._last = None  # who is new must be told how many there are

    def hook(self, name: str, function: Callable[[Event], object]) -> None:
        """Tell a function of the user's, in a thread of its own."""
        hook = Hook(name, function)
        self._hooks.append(hook)
        self.listen(hook.take)

    def close(self) -> None:
        """Wait until hooks have been told all."""
        for hook in self._hooks:
            hook.close()

    def _tell(self, event: Event | Successes) -> None:
        for listener in self.listeners:
            listener(event)

    # ------------------------------------------------------------------ tasks

    def done(self, finished: Sequence[tuple[Task, Outcome]], worker: str) -> None:
        """Tasks have ended at a worker; before their futures are told, which forgets their handles."""
        rows: list[tuple[str, float | None, float, float, int]] = []
        last: Any = None
        command = ""
        for task, outcome in finished:
            if outcome.flags or outcome.items:
                self.finished(task, outcome, worker)
                continue
            future = task.handle
            fn = getattr(future, "_fn", None)
            if fn is None:  # what a task has submitted has no future here
                rows.append((future.name(), None, outcome.started, outcome.seconds, task.attempt))
                continue
            if fn is not last or not command:
                last, command = fn, command_of(fn)
            rows.append((future._name or command, future._submitted, outcome.started, outcome.seconds, task.attempt))
        if rows:
            self._tell(Successes(worker, rows))

    def finished(self, task: Task, outcome: Outcome, worker: str, *, is_last: bool = True) -> None:
        """An attempt has ended at a worker, or some items of a map() have."""
        error, warnings, failures = "", 0, int(outcome.is_error)
        if outcome.items:
            failures = sum(kind == IS_ERROR for kind, _data in decode_items(outcome.parts[0]))
        elif outcome.flags & OutcomeFlag.WARNINGS:
            warnings = len(json.loads(outcome.parts[1]))
        status = "error" if failures else "success"
        if outcome.is_error and not outcome.items:
            report = json.loads(outcome.parts[-1])
            error = f"{report['type_name']}: {report['text']}"[:ERROR_TEXT_MAX]
            if report["type_name"].endswith("TaskTimeoutError"):
                status = "timeout"
        attempt = task.attempt if is_last else task.attempt - 1
        self._tell(
            TaskEvent(
                task.handle.name(), status, worker, _submitted(task), outcome.started, outcome.seconds, attempt,
                is_last, outcome.items or 1, failures, warnings, error,
            )
        )  # fmt: skip

    def lost(
        self, task: Task, worker: str, words: str, times: tuple[Any, ...] | None, *, is_timeout: bool = False,
        is_last: bool = True,
    ) -> None:  # fmt: skip
        """An attempt has ended with its worker."""
        started, seconds = (None, None) if times is None else times[:2]
        items = task.items if task.flags & TaskFlag.ITEMS else 1
        self._tell(
            TaskEvent(
                task.handle.name(), "timeout" if is_timeout else "crash", worker, _submitted(task), started, seconds,
                task.attempt if is_last else task.attempt - 1, is_last, items, items, 0, words[:ERROR_TEXT_MAX],
            )
        )  # fmt: skip

    def dropped(self, task: Task, handle: Any, words: str = "") -> None:
        """A task does not run any more: it was cancelled, or, if there are words, its pool is broken."""
        worker, times = getattr(handle, "_worker", None), getattr(handle, "_times", None)
        items = task.items if task.flags & TaskFlag.ITEMS else 1
        self._tell(
            TaskEvent(
                handle.name(), "error" if words else "cancel", "" if worker is None else worker.name,
                getattr(handle, "_submitted", None), None if times is None else times[0],
                None if times is None else times[1], task.attempt, True, items, items if words else 0, 0,
                words[:ERROR_TEXT_MAX],
            )
        )  # fmt: skip

    # ------------------------------------------------------------------ workers and the pool

    def worker(self, kind: str, connection: Connection, words: str = "") -> None:
        """Something has become of a worker."""
        if self.listeners:
            facts = connection.facts
            self._tell(WorkerEvent(kind, time.time(), facts.name, facts.host, facts.pid, words, is_lost=False))

    def buried(self, connection: Connection, failure: str) -> None:
        """A worker is gone, or, if there are words of a failure, never came."""
        if not self.listeners:
            return
        facts, end, because = connection.facts, connection.exit, connection.killed_because
        is_lost = not (connection.worker.is_leaving and end is not None and end.exitcode == 0)
        how = "nobody knows how" if end is None else end.describe() if is_lost else "left"
        words = failure or (f"{how} ({because})" if because else how)
        kind = "failed" if failure else "gone"
        self._tell(WorkerEvent(kind, time.time(), facts.name, facts.host, facts.pid, words[:ERROR_TEXT_MAX], is_lost))

    def is_pool_due(self, *, is_calm: bool) -> bool:
        """Answer whether to count again: always, but for many times at once while work is under way."""
        now = time.monotonic()
        self._room = min(POOL_BURST, self._room + (now - self._asked_at) / POOL_SECONDS)
        self._asked_at = now
        if not is_calm and self._room < 1:
            return False
        self._room -= 1
        return True

    def pool(self, queued: int, running: int, ready: int, starting: int, decision: str) -> None:
        """Tell how many there are, if that has changed."""
        figures = (queued, running, ready, starting)
        if figures != self._last or decision != self._last_decision:
            news = decision if decision != self._last_decision else ""
            self._last, self._last_decision = figures, decision
            self._tell(PoolEvent(time.time(), *figures, news))


class Hook:
    """Bring events to a function of the user's, one after the other, in a thread of its own.

    Args:
        name: the executor's.
        function: what it raises is logged, and harms nobody: the first error of a kind with its traceback, of those
            that follow how many there are.
    """

    def __init__(self, name: str, function: Callable[[Event], object]) -> None:
        self._function = function
        self._thread = CallbackThread(f"events-{name}")
        self._failures: dict[tuple[Any, ...], _Failure] = {}  # by type and place

    def take(self, event: Event | Successes) -> None:
        """Take an event; does not wait."""
        self._thread.call(self._call, event)

    def _call(self, told: Event | Successes) -> None:
        for event in told.each() if isinstance(told, Successes) else (told,):
            try:
                self._function(event)
            except BaseException as error:  # not even a SystemExit may end the thread that all other events go through
                self._failed(error, event)

    def _failed(self, error: BaseException, event: Event) -> None:
        """Log an error, or count it."""
        place, now = error.__traceback__, time.monotonic()
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        kind: tuple[Any, ...] = type(error), place and place.tb_frame.f_code, place and place.tb_lineno
        if kind not in self._failures and len(self._failures) >= FAILURES_MAX:
            kind = ()  # all others
        failure = self._failures.get(kind)
        if failure is None:
            report = tracebacks.describe(error, is_interruptible=False)
            words = f"{report['type_name']}: {report['text']}"[:ERROR_TEXT_MAX]
            self._failures[kind] = _Failure(words, now)
            logger.exception("on_event function %r failed for %r", self._function, event)
            return
        failure.more += 1
        if now - failure.told_at >= FAILURE_SECONDS:
            self._tell(failure, now)

    def _tell(self, failure: _Failure, now: float) -> None:
        logger.error("on_event function %r: %d more failures like %s", self._function, failure.more, failure.words)
        failure.more, failure.told_at = 0, now

    def close(self) -> None:
        """Wait until the function has been told all."""
        self._thread.close()
        for failure in self._failures.values():
            if failure.more:
                self._tell(failure, time.monotonic())


class _Failure:
    """A way in which a function of the user's fails: in words, when that was told last, and how often since then."""

    def __init__(self, words: str, told_at: float) -> None:
        self.words = words
        self.told_at = told_at
        self.more = 0


def _submitted(task: Task) -> float | None:
    return getattr(task.handle, "_submitted", None)
