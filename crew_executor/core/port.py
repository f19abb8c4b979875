"""What the scheduler asks of the world: the dispatcher carries it out, and in the tests a model. Decides nothing."""

from __future__ import annotations

from typing import Protocol

from .messages import Outcome
from .task import Task
from .worker import Worker


class Port(Protocol):
    """What the scheduler asks of the world. Called under the shell's lock: note it, do it later, in this order."""

    def send(self, worker: Worker, tasks: list[Task]) -> None:
        """Send these tasks, in one frame or several; their ordinals are consecutive and end at worker.ordinal."""

    def dismiss(self, worker: Worker) -> None:
        """Tell the worker to leave after worker.ordinal; nothing will follow."""

    def recall(self, worker: Worker) -> None:
        """Take back what the worker has not started and answer with recalled(); then deliver what it has finished."""

    def finish(self, worker: Worker, finished: list[tuple[Task, Outcome]]) -> None:
        """These tasks of the worker are done, with these outcomes."""

    def crash(self, task: Task, worker: Worker) -> None:
        """The task is done: its worker died after it had started."""

    def retry(self, task: Task, worker: Worker, outcome: Outcome | None) -> None:
        """The task is back in the queue for another attempt: it failed with this outcome, or its worker was lost."""

    def unsend(self, task: Task) -> bool:
        """A worker has given the task back: it had certainly not started. Answer whether anybody still wants it.

        If so, it goes back into the queue, else it is done.
        """

    def cut(self, task: Task, number: int) -> Task:
        """Make a new task of all but the first `number` items of a task; `items` of both is set afterwards."""
