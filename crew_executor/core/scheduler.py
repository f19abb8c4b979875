"""Tasks and workers: who gets what, how much of it ahead, and what becomes of it when a worker goes. Pure.

Rule 1: everything that moves a task lives in this file. A task is in exactly one place: the queue, one worker's
`held`, or done. Rule 2: `now` is an argument; effects go through the Port. The port is called while the shell holds
its lock, so a port notes what is to be done and does it later. Rule 3: payloads are opaque.

How much is sent ahead is a matter of time, not of count. A worker holds about `horizon` seconds of work: enough to
hide a round trip and a client whose interpreter lock is busy. A task of a function never seen goes alone. What a
worker has not started can be taken back at any time (recall), which happens when another worker is idle or when the
running task outlives the horizon: so nothing short is ever trapped behind something long.

A task that somebody wants stopped while a worker holds it is over for its user at once; the worker still holds its
ghost until it says so or dies. A ghost is never queued again, and nobody hears what becomes of it.

A task may submit tasks of its own, subtasks. While any of them is open and it runs itself, it probably waits: its
worker lends its slot, gets nothing, and another worker may be busy in its place. Subtasks go before what waits with the
same priority, the deepest first: so those who wait are few.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Protocol

from .estimates import Estimates
from .messages import Outcome, OutcomeFlag
from .task import DONE, NEW, QUEUED, SENT, STOPPING, UNKNOWN_SECONDS, Task
from .taskqueue import TaskQueue
from .worker import Worker

AHEAD_TASKS = 256
"""Tasks a worker may hold, started or not. Above about 100 the frames' fixed cost is spread thin enough."""
AHEAD_BYTES = 48 * 1024
"""Payload bytes sent ahead of a busy worker: they wait in the socket, whose buffer holds about 200 kB."""
AHEAD_ONE_SECONDS = 0.1
"""A single task up to this long may always wait at a busy worker: a recall gets it back for a few microseconds."""
FLUSH_SECONDS = 0.001
"""Before a task longer than this, or unknown, the worker sends what it has finished."""
HORIZON_MIN = 0.002
HORIZON_MAX = 0.030
"""Bounds of the horizon in seconds: two scheduler quanta, and a few times the 5.7 ms that a busy client costs."""
RECALL_SECONDS = 0.0005
"""Taking back less than this much work for an idle worker costs more than it gains."""


_NO_KEY: Hashable = object()

_RETRYABLE = int(OutcomeFlag.RETRYABLE)


class Port(Protocol):
    """What the scheduler asks of the world. Called under the shell's lock: note it, do it later, in this order."""

    def send(self, worker: Worker, tasks: list[Task]) -> None:
        """Send these tasks; their ordinals are consecutive and end at worker.ordinal."""

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

    def unsend(self, task: Task) -> None:
        """The task is back in the queue; it had certainly not started."""


class Scheduler:
    """Match tasks and workers. See the head of the file for the rules.

    Args:
        port: carries out what is decided.
        slots: how many workers may be busy at a time, those not counted that lend their slots.
    """

    def __init__(self, port: Port, slots: int) -> None:
        self._port = port
        self._slots = slots
        self.queue = TaskQueue()
        self.estimates = Estimates()
        self.horizon = HORIZON_MIN
        self.workers: dict[str, Worker] = {}
        self.tasks_done = 0
        self._held = 0  # tasks in all workers' `held`
        # Ready workers that may be given work, by how many tasks they hold: none, one, more. Each is in exactly one.
        self._idle: dict[Worker, None] = {}
        self._thin: dict[Worker, None] = {}
        self._ahead: dict[Worker, None] = {}
        # Leaving or lending workers that hold more than one: they get nothing, but what they have not started can be
        # recalled.
        self._closing: dict[Worker, None] = {}
        self._lending: dict[Worker, None] = {}

    # ------------------------------------------------------------------ what can be asked

    @property
    def tasks_open(self) -> int:
        """Tasks queued or held: the demand for workers."""
        return len(self.queue) + self._held

    @property
    def tasks_held(self) -> int:
        """Tasks that are at a worker, started or not."""
        return self._held

    @property
    def workers_ready(self) -> int:
        """Workers that can be given tasks now, or when a slot is free."""
        return len(self._idle) + len(self._thin) + len(self._ahead)

    @property
    def workers_lending(self) -> int:
        """Workers whose running task waits for subtasks."""
        return len(self._lending)

    @property
    def workers_spare(self) -> int:
        """Ready workers beyond the number of slots: they stood in for others that go on now."""
        return max(0, self.workers_ready - self._slots)

    @property
    def can_take(self) -> bool:
        """Whether some worker might be given a new task now: one has nothing to do, or nothing else is waiting."""
        return bool(self._idle and self._has_free_slot) or (bool(self._thin) and not len(self.queue))

    @property
    def _has_free_slot(self) -> bool:
        return len(self._thin) + len(self._ahead) < self._slots

    @property
    def has_work_ahead(self) -> bool:
        """Whether some worker holds more than one task, so that ticks are needed."""
        return bool(self._ahead or self._closing)

    # ------------------------------------------------------------------ tasks come and go

    def submit(self, tasks: Iterable[Task], now: float) -> None:
        """Accept new tasks and send them at once if workers have room; those cancelled meanwhile are left out."""
        was_empty = not len(self.queue)
        for task in tasks:
            if task.state is NEW:
                task.state = QUEUED
                self.queue.append(task)
                if task.parent is not None:
                    self._add_subtask(task)
        self._fill_idle(now)
        if was_empty and len(self.queue):
            for worker in list(self._thin):
                self._fill(worker, now)

    def cancel(self, task: Task) -> bool:
        """Drop a task that is queued, or has not even been submitted; False when it has been sent or is done.

        This and stop() are all that a user's thread may decide. They change everything without a call in between, so
        that a signal handler that raises finds all of it done or nothing.
        """
        is_subtask = False
        if task.state is QUEUED:
            self.queue.living -= 1
            is_subtask = task.parent is not None
        elif task.state is not NEW:
            return False
        task.state = DONE
        task.is_dropped = True
        task.parts = ()
        self.tasks_done += 1
        if is_subtask:  # then no user's thread is here: subtasks are cancelled by threads of ours
            self._remove_subtask(task)
        return True

    def stop(self, task: Task) -> bool:
        """Drop a task wherever it is; False when it is over or being stopped already.

        If it is STOPPING then, the caller must take it back (recalled()), or else end its run.
        """
        if task.state is not SENT:
            return self.cancel(task)
        task.state = STOPPING
        task.is_dropped = True
        return True

    def cancel_all(self) -> list[Task]:
        """Drop every queued task and return them."""
        tasks = list(self.queue)
        for task in tasks:
            self.cancel(task)
        return tasks

    def abandon(self) -> list[Task]:
        """Drop every task, queued or held, and return them: the pool cannot go on."""
        tasks = self.cancel_all()
        for worker in self.workers.values():
            for task in list(worker.held.values()):
                del worker.held[task.task_id]
                self._held -= 1
                if task.state is SENT:
                    tasks.append(task)
                self._mark_done(task)
            self._place(worker)
        return tasks

    def outcomes(self, worker: Worker, outcomes: Iterable[Outcome], now: float) -> None:
        """Take what a worker reports; an outcome that is late, repeated or of another attempt is dropped."""
        held = worker.held
        head = next(iter(held), None)
        observe = self.estimates.observe
        finished: list[tuple[Task, Outcome]] = []
        for outcome in outcomes:
            task = held.get(outcome.task_id)
            if task is None or task.attempt != outcome.attempt:
                continue
            del held[outcome.task_id]
            self._held -= 1
            worker.tasks_done += 1
            worker.held_seconds -= task.estimate
            worker.held_bytes -= task.payload_bytes
            observe(task.key, outcome.seconds)
            if task.subtasks_open:
                worker.is_lending = _has_waiting_task(worker)  # the next task may have begun to wait already
            if task.state is not SENT:
                self._mark_done(task)  # a ghost
            elif outcome.flags & _RETRYABLE and task.budget is not None and task.budget.spend_failure():
                self._retry(task, worker, outcome)
            else:
                self._mark_done(task)
                finished.append((task, outcome))
        if finished:
            self._port.finish(worker, finished)
        if head != next(iter(held), None):  # a frame without news of the running task leaves its clock alone
            worker.since = now
        self._place(worker)
        self._fill(worker, now)
        self._fill_idle(now)  # with what is to be repeated: this worker may be leaving, or take only its share
        if not held and not worker.is_leaving:
            self._recall_for_idle(now)

    # ------------------------------------------------------------------ workers come and go

    def worker_ready(self, worker: Worker, now: float) -> None:
        """Accept a worker that has joined and can run tasks."""
        if worker.name in self.workers:
            raise ValueError(f"worker {worker.name} is already at work: names must be unique")
        self.workers[worker.name] = worker
        worker.is_ready = True
        self._place(worker)
        self._fill(worker, now)
        if not worker.held:
            self._recall_for_idle(now)

    def dismiss(self, worker: Worker) -> None:
        """Let a worker leave after what it has started; the rest is taken back."""
        if worker.is_leaving or worker.name not in self.workers:
            return
        worker.is_leaving = True
        self._place(worker)
        self._port.dismiss(worker)
        if len(worker.held) > 1 and not worker.is_recalling:
            worker.is_recalling = True
            self._port.recall(worker)

    def leave_requested(self, worker: Worker) -> bool:
        """Answer a worker that asks to leave: True when it may. Not while a frame is on its way to it."""
        if worker.held or worker.is_leaving or worker.name not in self.workers:
            return False
        self.dismiss(worker)
        return True

    def worker_lost(
        self,
        worker: Worker,
        started: int | None,
        now: float,
        *,
        timed_out: int | None = None,
        is_taken_away: bool = False,
        is_last: bool = False,
    ) -> None:
        """Judge the tasks of a worker that is gone. Its last outcomes have been delivered before.

        Args:
            worker: the worker; unknown ones are ignored.
            started: the ordinal of the last task it started, from its shared cell; None when nobody knows: then
                whatever it holds may have run and counts as started.
            now: monotonic seconds.
            timed_out: the ordinal of the task for whose timeout it was killed, or None.
            is_taken_away: whoever gave the worker took it back: a loss that costs no budget.
            is_last: nothing is run again, whatever its budget: the pool is being ended.
        """
        if self.workers.get(worker.name) is not worker:
            return
        del self.workers[worker.name]
        worker.is_ready = False
        self._place(worker)
        tasks = list(worker.held.values())
        for task in reversed(tasks):
            if started is not None and task.ordinal > started:
                self._return(task, worker)
        for task in tasks:
            if task.worker is worker:
                del worker.held[task.task_id]
                self._held -= 1
                if is_last:
                    task.budget = None
                self._judge(task, worker, is_timed_out=task.ordinal == timed_out, is_taken_away=is_taken_away)
        self._fill_idle(now)

    def _judge(self, task: Task, worker: Worker, *, is_timed_out: bool, is_taken_away: bool) -> None:
        """Decide what becomes of a task that had started at a worker that is gone."""
        if task.state is not SENT:
            self._mark_done(task)  # a ghost: now its run has ended
            return
        budget = task.budget
        if budget is not None:
            spend = budget.spend_timeout if is_timed_out else budget.spend_loss if is_taken_away else budget.spend_crash
            if spend() or (is_taken_away and not is_timed_out and budget.spend_crash()):
                self._retry(task, worker, None)
                return
        self._mark_done(task)
        self._port.crash(task, worker)

    def retired(self, worker: Worker, kept: int, now: float) -> None:
        """Let a worker leave that gives its word to start nothing above `kept`; the rest goes back to the queue."""
        if worker.name not in self.workers:
            return
        if not worker.is_leaving:
            worker.is_leaving = True
            self._place(worker)
            self._port.dismiss(worker)
        self.recalled(worker, kept, now)

    def recalled(self, worker: Worker, kept: int, now: float) -> None:
        """Take back what the worker handed over: its held tasks with an ordinal above `kept`.

        Call it under the same lock as the withdrawal, and nothing in between: what was sent then would count as
        taken back, and run all the same.
        """
        worker.is_recalling = False
        for task in reversed(list(worker.held.values())):
            if task.ordinal <= kept:
                break
            self._return(task, worker)
        if worker.name in self.workers:
            self._place(worker)
        self._fill_idle(now)

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Recall from workers whose running task outlives the horizon, and use slots that leaving workers have left."""
        self._fill_idle(now)
        for worker in [worker for worker in (*self._ahead, *self._closing) if not worker.is_recalling]:
            if now >= self._overrun_at(worker):
                worker.is_recalling = True
                self._port.recall(worker)

    def next_tick(self) -> float | None:
        """Return when tick() has something to do at the earliest, or None."""
        waiting = [self._overrun_at(worker) for worker in (*self._ahead, *self._closing) if not worker.is_recalling]
        return min(waiting) if waiting else None

    def observe_reaction(self, seconds: float) -> None:
        """Learn how long the client takes from an outcome's sending to its handling; it sets the horizon."""
        target = min(max(HORIZON_MIN, 2 * seconds), HORIZON_MAX)  # in this order NaN becomes HORIZON_MIN
        # Rise at once, come down slowly: a client thread that computes stays for a while.
        self.horizon = target if target > self.horizon else self.horizon + (target - self.horizon) / 16

    # ------------------------------------------------------------------ the rules

    def _overrun_at(self, worker: Worker) -> float:
        head = next(iter(worker.held.values()))
        return worker.since + 2 * self.horizon + min(head.estimate, AHEAD_ONE_SECONDS)

    def _fill(self, worker: Worker, now: float) -> None:
        """Send the worker as much as it should hold. Cases: idle takes any task; busy takes known short ones."""
        waiting = len(self.queue)
        held = worker.held
        if not waiting or not worker.is_open or not (held or self._has_free_slot):
            return
        if len(held) > 1 and (len(held) > AHEAD_TASKS // 2 or worker.held_seconds > self.horizon / 2):
            return
        if held and now >= self._overrun_at(worker):  # it would be recalled at once, if the running task lets it
            return
        # An equal share of what waits, so that the first worker to answer does not take all.
        room = min(AHEAD_TASKS - len(held), -(-waiting // min(self.workers_ready, self._slots)))
        if worker.tasks_left is not None:
            room = min(room, worker.tasks_left)
        batch: list[Task] = []
        was_empty = not held
        key, estimate = _NO_KEY, None
        while len(batch) < room:
            task = self.queue.peek()
            if task is None:
                break
            if task.key != key:
                key = task.key
                estimate = self.estimates.seconds(key)
            if held and not self._fits_ahead(worker, task, estimate):
                break
            self.queue.pop()
            self._hold(worker, task, estimate)
            batch.append(task)
        if not batch:
            return
        if was_empty:
            worker.since = now
        self._place(worker)
        self._port.send(worker, batch)
        if worker.tasks_left == 0:
            worker.is_leaving = True
            self._place(worker)
            self._port.dismiss(worker)

    def _fits_ahead(self, worker: Worker, task: Task, estimate: float | None) -> bool:
        if estimate is None or worker.held_bytes + task.payload_bytes > AHEAD_BYTES:
            return False
        if worker.held_seconds >= UNKNOWN_SECONDS:  # something unknown is running: nobody knows for how long
            return False
        if worker.held_seconds + estimate <= self.horizon:
            return True
        return len(worker.held) == 1 and estimate <= AHEAD_ONE_SECONDS

    def _hold(self, worker: Worker, task: Task, estimate: float | None) -> None:
        worker.ordinal += 1
        task.ordinal = worker.ordinal
        task.state = SENT
        task.worker = worker
        task.estimate = UNKNOWN_SECONDS if estimate is None else estimate
        worker.held[task.task_id] = task
        worker.held_seconds += task.estimate
        worker.held_bytes += task.payload_bytes
        if worker.tasks_left is not None:
            worker.tasks_left -= 1
        self._held += 1

    def _return(self, task: Task, worker: Worker) -> None:
        del worker.held[task.task_id]
        worker.held_seconds -= task.estimate
        worker.held_bytes -= task.payload_bytes
        if worker.tasks_left is not None and not worker.is_leaving:
            worker.tasks_left += 1
        self._held -= 1
        if task.state is not SENT:
            self._mark_done(task)  # stopped before it had started
            return
        task.worker = None
        task.state = QUEUED
        self.queue.put_back(task)
        self._port.unsend(task)

    def _retry(self, task: Task, worker: Worker, outcome: Outcome | None) -> None:
        """Queue a task that is held by nobody for its next attempt, behind the others: they have waited as well."""
        task.attempt += 1
        task.subtasks_open = 0
        task.worker = None
        task.state = QUEUED
        self.queue.append(task)
        self._port.retry(task, worker, outcome)

    def _mark_done(self, task: Task) -> None:
        task.state = DONE
        task.worker = None
        task.parts = ()
        self.tasks_done += 1
        if task.parent is not None:
            self._remove_subtask(task)

    def _add_subtask(self, task: Task) -> None:
        """Let the worker of a task that probably waits from now on lend its slot, and take back what is ahead there."""
        parent = task.parent
        if parent is None or parent.attempt != task.parent_attempt:
            return
        parent.subtasks_open += 1
        worker = parent.worker
        if worker is None or worker.is_lending:
            return
        worker.is_lending = True
        self._place(worker)
        if len(worker.held) > 1 and not worker.is_recalling:
            worker.is_recalling = True
            self._port.recall(worker)

    def _remove_subtask(self, task: Task) -> None:
        """Let a task whose last subtask is done have its slot again, though all may be taken: for a moment."""
        parent = task.parent
        if parent is None or parent.attempt != task.parent_attempt:
            return
        parent.subtasks_open -= 1
        worker = parent.worker
        if parent.subtasks_open or worker is None or not worker.is_lending:
            return
        worker.is_lending = _has_waiting_task(worker)
        self._place(worker)

    def _fill_idle(self, now: float) -> None:
        if self._idle and len(self.queue) and self._has_free_slot:
            for worker in list(reversed(self._idle)):
                self._fill(worker, now)

    def _place(self, worker: Worker) -> None:
        """Keep the sets in step with what the worker holds."""
        if not worker.held:
            worker.held_seconds, worker.held_bytes = 0.0, 0  # float sums drift
        self._idle.pop(worker, None)
        self._thin.pop(worker, None)
        self._ahead.pop(worker, None)
        self._closing.pop(worker, None)
        self._lending.pop(worker, None)
        if not worker.is_ready:
            return
        # Whoever owes an answer to a recall can be given nothing before it: not idle, though it may hold nothing.
        held = len(worker.held) or int(worker.is_recalling)
        if worker.is_lending and not worker.is_leaving:
            self._lending[worker] = None
        if worker.is_leaving or worker.is_lending:
            if held > 1:
                self._closing[worker] = None
            return
        (self._idle if held == 0 else self._thin if held == 1 else self._ahead)[worker] = None

    def _recall_for_idle(self, now: float) -> None:
        """Nothing waits and a worker is idle: take work from the one that has most of it ahead."""
        if len(self.queue) or not self._idle or not self._has_free_slot:
            return
        best, most = None, RECALL_SECONDS
        for worker in (*self._ahead, *self._closing):
            if worker.is_recalling:
                continue
            head = next(iter(worker.held.values()))
            seconds = worker.held_seconds - head.estimate
            if now >= self._overrun_at(worker):
                seconds += UNKNOWN_SECONDS
            if seconds >= most:
                best, most = worker, seconds
        if best is not None:
            best.is_recalling = True
            self._port.recall(best)


def _has_waiting_task(worker: Worker) -> bool:
    return any(task.subtasks_open for task in worker.held.values())
