"""Tasks that tasks submit, in the client: taken from the link of the worker that runs the parent, answered there.

A Subtask is to the dispatcher what a future is: what the task's outcome is told to. It sends the outcome on as it is:
nothing is unpickled here. Must not block: called by the threads that read from workers, and by the dispatcher's.
"""

from __future__ import annotations

import itertools
import json
import threading
from typing import Any, Protocol

from . import tracebacks
from .canceller import Canceller
from .connection import Connection
from .core.budget import Budget
from .core.messages import Frame, Kind, Outcome, decode_control, encode_outcome
from .core.needs import needs_of
from .core.task import Task
from .futures import WorkerFacts
from .recruiter import Recruiter

_NO_THREADS = (
    "the client's interpreter is ending and starts no more threads to read from workers, so a task that waits for "
    "another might wait for ever: shut the executor down, or leave its `with`, before the program ends"
)


class Subtask:
    """Stands for a future that is in a worker.

    Args:
        number: what the worker calls it.
        name: the task's.
        asker: the worker that waits for it.
    """

    def __init__(self, number: int, name: str, asker: Connection) -> None:
        self._number = number
        self._name = name
        self._asker = asker
        self._failures: list[str] = []
        self._task: Any = None
        self._worker: WorkerFacts | None = None
        self._times: tuple[float, float, float | None, int] | None = None
        self._output: str | None = None

    def name(self) -> str:
        """Return the name of the task."""
        return self._name

    def _sent(self) -> None: ...

    def _unsent(self) -> bool:
        return True

    def _failed_once(self, how: Outcome | str) -> None:
        if isinstance(how, Outcome):
            report = json.loads(how.parts[-1])
            how = f"{report['type_name']}: {report['text']}"
        self._failures.append(how)

    def _finish(self, outcome: Outcome, worker: WorkerFacts, _callbacks: Any = None) -> None:
        self._worker = worker
        if outcome.beside is not None:  # the asker has no port to another worker
            try:
                outcome = outcome._replace(parts=(*outcome.parts, outcome.beside.view()))
            except OSError as error:
                self._finish_lost(error, worker)
                return
        self._answer("outcome", (encode_outcome(outcome),))

    def _finish_lost(
        self,
        error: BaseException,
        worker: WorkerFacts | None = None,
        times: tuple[float, float, float | None, int] | None = None,
        callbacks: Any = None,  # noqa: ARG002  as a future's
    ) -> None:
        self._worker, self._times = worker, times
        report = json.dumps(tracebacks.describe(error)).encode()
        self._answer("lost", (tracebacks.dumps_error(error), report))

    def _finish_cancelled(self, _callbacks: Any = None) -> None:
        self._answer("cancelled")

    def _answer(self, how: str, parts: tuple[bytes, ...] = ()) -> None:
        if self._asker.subtasks.pop(self._number, None) is None:
            return
        worker = self._worker or WorkerFacts()
        fields = {
            "number": self._number, "how": how, "worker": [worker.name, worker.host, worker.pid],
            "attempt": self._task.attempt, "times": self._times, "failures": self._failures, "output": self._output,
        }  # fmt: skip
        self._asker.answer(fields, parts)


class Home(Protocol):
    """What is asked of the dispatcher."""

    recruiter: Recruiter

    def check_open(self) -> None:
        """Raise what submit() would raise."""

    def take_subtask(self, task: Task) -> None:
        """Schedule a task now."""


class Subtasks:
    """Take what workers ask for on behalf of the tasks they run.

    Args:
        home: the dispatcher.
        canceller: cancels a future's task.
        task_ids: its numbers for tasks.
    """

    def __init__(self, home: Home, canceller: Canceller, task_ids: itertools.count[int]) -> None:
        self._home = home
        self._canceller = canceller
        self._task_ids = task_ids

    def serve(self, connection: Connection, frame: Frame) -> None:
        """Do what a frame asks for."""
        fields, parts = decode_control(frame.body)
        if frame.kind == Kind.CANCEL:
            self._cancel(connection, fields["number"], fields["is_running_included"])
        else:
            self._submit(connection, fields, tuple(map(bytes, parts)))

    def _submit(self, connection: Connection, fields: dict[str, Any], parts: tuple[bytes, ...]) -> None:
        parent = connection.worker.held.get(fields["parent_id"])
        subtask = Subtask(fields["number"], fields["name"], connection)
        connection.subtasks[fields["number"]] = subtask
        priority = fields["priority"]
        if priority is None:
            priority = 0 if parent is None else parent.priority
        budget = None if fields["budget"] is None else Budget(*fields["budget"])
        needs = None if fields["needs"] is None else needs_of(dict(fields["needs"]))
        task = Task(
            next(self._task_ids), fields["command"], parts, subtask, priority=priority, budget=budget,
            flags=fields["flags"], parent=parent, needs=needs,
        )  # fmt: skip
        subtask._task = task
        try:
            if parent is None:  # it has ended meanwhile; a running task may submit as long as it runs
                self._home.check_open()
            if threading.current_thread() is threading.main_thread():
                raise RuntimeError(_NO_THREADS)
            self._home.recruiter.check_needs(needs)
        except (RuntimeError, ValueError) as error:
            subtask._finish_lost(error)
            return
        self._home.take_subtask(task)

    def _cancel(self, connection: Connection, number: int, is_running_included: bool) -> None:
        subtask = connection.subtasks.get(number)
        if subtask is not None:
            self._canceller.cancel(subtask, is_running_included)
        connection.answer({"number": number, "how": "asked"})

    def orphans(self, connection: Connection) -> list[Task]:
        """Return the open subtasks of a worker that is gone: nobody waits for them any more."""
        subtasks, connection.subtasks = connection.subtasks, {}
        return [subtask._task for subtask in subtasks.values()]
