"""What the scheduler has decided and nobody has carried out yet: the Port that it decides into.

Everything here is called under the dispatcher's lock, and only notes what is to be done, or does what takes no time.
Whoever holds the lock takes the notes along, and acts on them when it is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from .announcer import Announcer
from .connection import Connection
from .core.messages import Outcome
from .core.task import Task
from .core.worker import Worker
from .mailbox import Event
from .obituary import describe_loss


class Effects:
    """Note what the scheduler decides; see core/port.py for what each means.

    Args:
        connections: the workers that are there.
        announcer: is to tell futures.
        task_ids: numbers for new tasks.
        recall: is to take back what a worker has not started.
        poke: wakes the dispatcher's thread.
    """

    def __init__(
        self, connections: Mapping[str, Connection], announcer: Announcer, task_ids: Iterator[int],
        recall: Callable[[Connection], None], poke: Callable[[], None],
    ) -> None:  # fmt: skip
        self._connections = connections
        self._announcer = announcer
        self._task_ids = task_ids
        self._take_back = recall
        self._poke = poke
        self._notes: list[Event] = []

    def note(self, function: Callable[..., None], *arguments: object) -> None:
        """Have something called after the lock."""
        self._notes.append((function, arguments))

    def take(self) -> list[Event]:
        """Return what was noted, and begin anew: another thread may note more while the caller acts on these."""
        notes, self._notes = self._notes, []
        return notes

    def forget_losses(self) -> None:
        """Tell no future that its worker was lost: the pool is broken, and all hear of that."""
        self._notes = [note for note in self._notes if note[0] != self._announcer.lost]

    # ------------------------------------------------------------------ the port

    def send(self, worker: Worker, tasks: list[Task]) -> None:
        """Queue a frame for the worker."""
        connection = self._connections[worker.name]
        connection.put_tasks(tasks)
        for task in tasks:
            if not task.is_dropped:  # between its sending and now: see Canceller
                task.handle._sent()
        self._notes.insert(0, (connection.pump, ()))  # a worker that has nothing to do comes before who waits

    def dismiss(self, worker: Worker) -> None:
        """Queue the word to leave."""
        connection = self._connections[worker.name]
        connection.put_go(worker.ordinal)
        self._notes.append((connection.pump, ()))
        self._poke()

    def recall(self, worker: Worker) -> None:
        """Take back after the lock is free."""
        self._notes.append((self._take_back, (self._connections[worker.name],)))

    def finish(self, worker: Worker, finished: list[tuple[Task, Outcome]]) -> None:
        """Resolve the futures after the lock is free."""
        connection, last = self._connections[worker.name], self._notes[-1:]
        if last and last[0][0] == self._announcer.finished and last[0][1][0] is connection:
            last[0][1][1].extend(finished)
        else:
            self._notes.append((self._announcer.finished, (connection, finished)))

    def crash(self, task: Task, worker: Worker) -> None:
        """Fail the future of a task whose worker died."""
        self._notes.append((self._announcer.lost, (task, self._connections[worker.name])))

    def cut(self, task: Task, number: int) -> Task:  # noqa: ARG002  the scheduler says who has how many
        """Make a task of a part of a task's items; they have the payload in common."""
        return Task(
            next(self._task_ids), task.key, (), task.handle, priority=task.priority, flags=task.flags,
            beside=task.beside,
        )  # fmt: skip

    def unsend(self, task: Task) -> bool:
        """Make the future pending again; answer whether the task is to run at all."""
        if task.beside is not None and task.beside.segment is not None:
            task.beside.segment.borrowers -= 1  # who is told that a task is withdrawn reads nothing of it
        if not (is_wanted := bool(task.handle._unsent())):
            self._notes.append((self._announcer.dropped, ([task],)))
        return is_wanted

    def retry(self, task: Task, worker: Worker, outcome: Outcome | None) -> None:
        """Make the future pending again, and let it remember how this attempt failed."""
        self._announcer.retried(task, self._connections[worker.name], outcome)
        task.handle._unsent()
        task.handle._failed_once(describe_loss(self._connections[worker.name]) if outcome is None else outcome)
