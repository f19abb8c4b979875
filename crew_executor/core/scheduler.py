"""Tasks and workers: who gets what, how much of it ahead, and what becomes of it when a worker goes. Pure.

Rule 1: everything that moves a task lives in this file. A task is in exactly one place: the queue, one worker's
`held`, or done. Rule 2: `now` is an argument; effects go through the Port. The port is called while the shell holds
its lock, so a port notes what is to be done and does it later. Rule 3: payloads are opaque.

How much is sent ahead is a matter of time, not of count: see horizon.py. A task of a function never seen goes alone.
What a worker has not started can be taken back at any time (recall), which happens when another worker is idle or when
the running task outlives the horizon: so nothing short is ever trapped behind something long.

A task that somebody wants stopped while a worker holds it is over for its user at once; the worker still holds its
ghost until it says so or dies. A ghost is never queued again, and nobody hears what becomes of it.

A task may submit tasks of its own, subtasks. While any of them is open and it runs itself, it probably waits: its
worker lends its slot, gets nothing, and another worker may be busy in its place. Subtasks go before what waits with the
same priority, the deepest first: so those who wait are few.

A task may need what only some workers have: such tasks wait in queues of their own, and go alone. See needs.py.

A task may be several items of a map(), each with an ordinal. It is cut where a worker is to hold less of it, or gives
back what it has not started, and may report its items a few at a time. All numbers count items.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from .estimates import Estimates, item_seconds
from .horizon import AHEAD_TASKS, Horizon
from .messages import Outcome, OutcomeFlag
from .needs import Needs, first_queue, next_queue
from .port import Port
from .roster import Roster, due_at
from .task import DONE, NEW, QUEUED, SENT, STOPPING, UNKNOWN_SECONDS, Task
from .taskqueue import TaskQueue
from .worker import Worker

THIN_TRIES = 16
"""So many busy workers are asked whether a new task fits behind their only one: 10,000 would take milliseconds."""
_NO_KEY: Hashable = object()
_RETRYABLE = int(OutcomeFlag.RETRYABLE)


class Scheduler:
    """Match tasks and workers. See the head of the file for the rules.

    Args:
        port: carries out what is decided.
        slots: how many workers may be busy at a time, those not counted that lend their slots.

    Attributes:
        tasks_held: items that are at a worker, started or not.
        horizon: how much a worker may hold; told how long the client takes from an outcome's sending to its handling.
    """

    def __init__(self, port: Port, slots: int) -> None:
        self._port = port
        self._slots = slots
        self.queue = TaskQueue()
        self.queues_by_needs: dict[Needs, TaskQueue] = {}  # of tasks with needs; none is ever removed
        self.estimates = Estimates()
        self.horizon = horizon = Horizon()
        self._fits_ahead, self._items_that_fit = horizon.fits, horizon.items_that_fit
        self.workers: dict[str, Worker] = {}
        self.tasks_done = self.tasks_held = 0
        self._roster = roster = Roster()
        self._idle, self._thin, self._ahead, self._place = roster.idle, roster.thin, roster.ahead, roster.place

    # ------------------------------------------------------------------ what can be asked

    @property
    def tasks_open(self) -> int:
        """Tasks queued or held: the demand for workers."""
        return self.tasks_queued + self.tasks_held

    @property
    def tasks_queued(self) -> int:
        """Tasks that wait."""
        return sum([queue.living for queue in self.queues()]) if self.queues_by_needs else self.queue.living

    def queues(self) -> list[TaskQueue]:
        """Return all queues, that of ordinary tasks first."""
        return [self.queue, *self.queues_by_needs.values()]

    @property
    def workers_ready(self) -> int:
        """Workers that can be given tasks now, or when a slot is free."""
        return len(self._idle) + len(self._thin) + len(self._ahead)

    @property
    def workers_lending(self) -> int:
        """Workers whose running task waits for subtasks."""
        return len(self._roster.lending)

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
        return len(self._thin) + len(self._ahead) + len(self._roster.parting) < self._slots

    @property
    def has_work_ahead(self) -> bool:
        """Whether some worker holds more than one task, so that ticks are needed."""
        return bool(self._ahead or self._roster.closing)

    def next_idle(self) -> Worker | None:
        """Return the worker that the next task will go to whatever it is, if that can be said; for submit_to()."""
        if not self._idle or not self._has_free_slot or self.tasks_queued:
            return None
        worker = self._roster.newest_idle()
        return None if worker.round_trip or worker.tasks_left is not None else worker

    def next_seconds(self) -> float:
        """Return how long the task will take whose turn is next, if its function is known; else 0."""
        lane = self.queue.front()
        return (lane and self.estimates.seconds(lane[0].key)) or 0.0

    # ------------------------------------------------------------------ tasks come and go

    def submit(self, tasks: Iterable[Task], now: float) -> None:
        """Accept new tasks and send them at once if workers have room; those cancelled meanwhile are left out."""
        queue, was_empty = self.queue, not self.queue.living
        for task in tasks:
            if task.state is NEW:
                task.state = QUEUED
                (queue if task.needs is None else self._queue_of(task)).append(task)
                if task.parent is not None:
                    self._add_subtask(task)
        if self._idle:
            self._fill_idle(now)
        if was_empty and queue.living:
            for worker in self._roster.newest_thin(THIN_TRIES):
                if queue.living:
                    self._fill(worker, now)

    def submit_to(self, worker: Worker, task: Task, ordinal: int, now: float, outcome: Outcome | None = None) -> None:
        """Accept a new task that may have been sent, and even be STOPPING since, to whom next_idle() has named.

        `outcome`: of one that is over, before anybody has heard of it: as if it was submitted and then reported.
        """
        if worker.held or worker.ordinal + 1 != ordinal or not worker.is_open:
            raise RuntimeError(f"{task} was sent to {worker} as number {ordinal}, which it cannot be")
        worker.since = now
        if outcome is not None:
            worker.ordinal, worker.tasks_done = ordinal, worker.tasks_done + 1
            self.estimates.observe(task.key, outcome.seconds)
            self._mark_done(task)
            self._port.finish(worker, [(task, outcome)])
            return
        if task.state is not STOPPING:
            task.state = SENT
        seconds = self.estimates.seconds(task.key)
        worker.hold(task, UNKNOWN_SECONDS if seconds is None else seconds)
        self.tasks_held += 1
        self._place(worker)
        self._port.send(worker, [task])

    def cancel(self, task: Task) -> bool:
        """Drop a task that is queued, or has not even been submitted; False when it has been sent or is done.

        This and stop() are all that a user's thread may decide. They change everything without a call in between, so
        that a signal handler that raises finds all of it done or nothing.
        """
        is_subtask = False
        if task.state is QUEUED:
            queue = self.queue if task.needs is None else self.queues_by_needs[task.needs]
            queue.living -= task.items
            is_subtask = task.parent is not None
        elif task.state is not NEW:
            return False
        task.state = DONE
        task.is_dropped = True
        task.payload, task.head = (), b""
        task.beside = None
        self.tasks_done += task.items
        if is_subtask:  # then no user's thread is here: subtasks are cancelled by threads of ours
            self._remove_subtask(task)
        return True

    def stop(self, task: Task, *, is_sent: bool = False) -> bool:
        """Drop a task wherever it is; False when it is over or being stopped already.

        If it is STOPPING then, the caller must take it back (recalled()), or else end its run. `is_sent`: though new.
        """
        if task.state is not (NEW if is_sent else SENT):
            return self.cancel(task)
        task.state = STOPPING
        task.is_dropped = True
        return True

    def cancel_all(self) -> list[Task]:
        """Drop every queued task and return them."""
        return [task for queue in self.queues() for task in list(queue) if self.cancel(task)]

    def abandon(self) -> list[Task]:
        """Drop every task, queued or held, and return them: the pool cannot go on."""
        tasks = self.cancel_all()
        for worker in self.workers.values():
            for task in list(worker.held.values()):
                self._let_go(task, worker)
                if task.state is SENT:
                    tasks.append(task)
                self._mark_done(task)
            self._place(worker)
        return tasks

    def outcomes(self, worker: Worker, outcomes: Iterable[Outcome], now: float) -> None:
        """Take what a worker reports; an outcome that is late, repeated or of another attempt is dropped."""
        held = worker.held
        head, is_news = next(iter(held), None), False  # of the running task
        observe = self.estimates.observe
        items, seconds, payload_bytes = 0, 0.0, 0
        finished: list[tuple[Task, Outcome]] = []
        for outcome in outcomes:
            task = held.get(outcome.task_id)
            if task is None or task.attempt != outcome.attempt:
                continue
            observe(task.key, outcome.seconds / (outcome.items or 1))
            if outcome.items:
                outcome = outcome.of_items(task.first, task.items)  # noqa: PLW2901
                is_news = is_news or task.task_id == head
                if outcome.items < task.items:
                    self._advance(task, worker, outcome, finished)
                    continue
            del held[outcome.task_id]
            items += task.items
            seconds += task.estimate
            payload_bytes += task.payload_bytes
            if task.subtasks_open:
                self._lend_or_not(worker)  # the next task may have begun to wait already
            if task.state is not SENT:
                self._mark_done(task)  # a ghost
            elif outcome.flags & _RETRYABLE and task.budget is not None and task.budget.spend_failure():
                self._retry(task, worker, outcome)
            else:
                self._mark_done(task)
                finished.append((task, outcome))
        worker.strike(items, seconds, payload_bytes)
        self.tasks_held -= items
        worker.tasks_done += items
        if finished:
            self._port.finish(worker, finished)
        if is_news or head != next(iter(held), None):  # a frame without news of the running task leaves its clock alone
            worker.since = now
        self._place(worker)
        if self.queue.living or self.queues_by_needs:
            self._fill_equipped(now)  # before another worker has the slot
            self._fill(worker, now)
            self._fill_idle(now)  # what is to be repeated: this worker may be leaving, or take only its share
        if not held and not worker.is_leaving:
            self._recall_for_idle(now)

    # ------------------------------------------------------------------ workers come and go

    def worker_ready(self, worker: Worker, now: float) -> None:
        """Accept a worker that has joined and can run tasks."""
        if worker.name in self.workers:
            raise ValueError(f"worker {worker.name} is already at work: names must be unique")
        self.workers[worker.name] = worker
        worker.is_ready = True
        self._employ(worker, now)

    def _employ(self, worker: Worker, now: float) -> None:
        self._place(worker)
        self._fill(worker, now)
        if not worker.held:
            self._recall_for_idle(now)

    def call_begun(self, worker: Worker) -> None:
        """Note that a worker was sent a call that every worker is to run. A task behind it could be trapped there."""
        worker.calls_open += 1
        self._place(worker)

    def call_ended(self, worker: Worker, now: float) -> None:
        """Note that a worker has answered a call, and give it work again."""
        worker.calls_open -= 1
        if self.workers.get(worker.name) is worker:
            self._employ(worker, now)

    def dismiss(self, worker: Worker) -> None:
        """Let a worker leave after what it has started; the rest is taken back."""
        if worker.is_leaving or worker.name not in self.workers:
            return
        worker.is_leaving = True
        self._place(worker)
        self._port.dismiss(worker)
        if worker.held_items > 1 and not worker.is_recalling:
            self._recall(worker)

    def leave_requested(self, worker: Worker) -> bool:
        """Answer a worker that asks to leave: True when it may. Not while a frame is on its way to it."""
        if worker.held or worker.is_leaving or worker.name not in self.workers:
            return False
        self.dismiss(worker)
        return True

    def worker_lost(
        self, worker: Worker, started: int | None, now: float, *, timed_out: int | None = None,
        is_taken_away: bool = False, is_last: bool = False,
    ) -> None:  # fmt: skip
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
        if started is not None:
            self._return_above(started, worker)
        for task in tasks:
            if task.worker is worker:
                worker.tasks_lost += task.items
                self._let_go(task, worker)
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

        Call it under the lock of the withdrawal: what was sent in between would count as taken back, and run.
        """
        worker.is_recalling = False
        self._return_above(kept, worker)
        if worker.name in self.workers:
            self._place(worker)
        self._fill_idle(now)

    def await_recall(self, worker: Worker) -> None:
        """Give a worker nothing before recalled() is called: it is asked by a message."""
        self._roster.begin_recall(worker)
        if self.workers.get(worker.name) is worker:
            self._place(worker)

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Recall from workers whose running task outlives the horizon, and use slots that leaving workers have left."""
        self._fill_idle(now)
        while (worker := self._first_overrun(now)) is not None:
            self._recall(worker)

    def next_tick(self) -> float | None:
        """Return when tick() has something to do at the earliest, or None."""
        worker = self._roster.first_due()
        return None if worker is None else self._overrun_at(worker)

    # ------------------------------------------------------------------ the rules

    def _overrun_at(self, worker: Worker) -> float:
        return due_at(worker) + 2 * self.horizon.of(worker)

    def _first_overrun(self, now: float) -> Worker | None:
        """Return a worker that has work ahead of a running task which has outlived the horizon, or None."""
        worker = self._roster.first_due()
        return worker if worker is not None and now >= self._overrun_at(worker) else None

    def _fill(self, worker: Worker, now: float) -> None:
        """Send the worker as much as it should hold. Cases: idle takes any task; busy takes known short ones."""
        queue, held = self.queue, worker.held
        holds, is_alone = len(held), False
        if self.queues_by_needs and worker.resources:
            queue, is_alone = next_queue(queue, self.queues_by_needs, worker.resources)
            if is_alone and holds:
                return  # one goes when the worker holds nothing
        waiting = queue.living
        if not waiting or not worker.is_open:
            return
        if not holds:
            if not self._has_free_slot:
                return
        elif self.horizon.is_full(worker, holds) or now >= self._overrun_at(worker):
            return  # in the latter case it would be recalled at once, if the running task lets it
        # An equal share of what waits, so that the first worker to answer does not take all.
        room = -(-waiting // min(self.workers_ready, self._slots))
        if worker.tasks_left is not None:
            room = min(room, worker.tasks_left)
        batch = self._take(worker, 1 if is_alone else room, queue)
        if not batch:
            return
        if not holds:
            worker.since = now
        self._place(worker)
        self._port.send(worker, batch)
        if worker.tasks_left == 0:
            worker.is_leaving = True
            self._place(worker)
            self._port.dismiss(worker)

    def _take(self, worker: Worker, room: int, queue: TaskQueue) -> list[Task]:
        """Move tasks whose turn it is from a queue to the worker, as many as it should hold, at most `room`."""
        held, hold = worker.held, worker.hold
        batch: list[Task] = []
        key, estimate, seconds = _NO_KEY, None, UNKNOWN_SECONDS
        taken, lane = 0, queue.front()
        while lane is not None:
            task = lane[0]
            if task.key != key:
                key = task.key
                estimate = self.estimates.seconds(key)
                seconds = UNKNOWN_SECONDS if estimate is None else estimate
            task_seconds = seconds
            if task.items > 1:
                number = min(room - taken, self._items_that_fit(worker, task, estimate))
                if number < 1:
                    break
                lane.popleft()
                if number < task.items:
                    lane.appendleft(self._cut(task, number))
                if estimate is not None:
                    task_seconds += (number - 1) * item_seconds(estimate)
            elif held and not self._fits_ahead(worker, task, estimate):
                break
            else:
                lane.popleft()
            task.state = SENT
            hold(task, task_seconds)
            taken += task.items
            batch.append(task)
            if taken >= room or len(held) >= AHEAD_TASKS:
                break
            if not lane or lane[0].state is not QUEUED:
                lane = queue.front()
        queue.living -= taken
        self.tasks_held += taken
        if worker.tasks_left is not None:
            worker.tasks_left -= taken
        return batch

    def _cut(self, task: Task, number: int) -> Task:
        """Leave the task its first items, and return the rest; whether it is queued or held is the caller's to say."""
        rest = self._port.cut(task, number)
        task.give(rest, number)
        return rest

    def _let_go(self, task: Task, worker: Worker) -> None:
        """Strike a task from what its worker holds."""
        del worker.held[task.task_id]
        worker.strike(task.items, task.estimate, task.payload_bytes)
        self.tasks_held -= task.items

    def _advance(self, task: Task, worker: Worker, outcome: Outcome, finished: list[tuple[Task, Outcome]]) -> None:
        """Note that some items of a held task are done, not all."""
        if not outcome.items:
            return  # they had been read from the outbox before this came
        held_bytes = task.payload_bytes
        seconds = task.advance(outcome.items)
        worker.strike(outcome.items, seconds, held_bytes - task.payload_bytes)
        self.tasks_held -= outcome.items
        worker.tasks_done += outcome.items
        self.tasks_done += outcome.items
        finished.append((task, outcome))

    def _return_above(self, ordinal: int, worker: Worker) -> None:
        """Put back into the queue what a worker has not started: all above this ordinal."""
        for task in reversed(list(worker.held.values())):
            if task.last_ordinal <= ordinal:
                return
            if task.ordinal <= ordinal:
                # As if both had been held all the time, the rest behind the task.
                task = self._cut(task, ordinal - task.ordinal + 1)  # noqa: PLW2901
                worker.held[task.task_id] = task
            self._return(task, worker)

    def _return(self, task: Task, worker: Worker) -> None:
        self._let_go(task, worker)
        if worker.tasks_left is not None and not worker.is_leaving:
            worker.tasks_left += task.items
        if task.state is not SENT or not self._port.unsend(task):
            self._mark_done(task)  # stopped before it had started, or wanted no more
            return
        task.worker = None
        task.state = QUEUED
        self._queue_of(task).put_back(task)

    def _queue_of(self, task: Task) -> TaskQueue:
        return self.queue if task.needs is None else self.queues_by_needs.setdefault(task.needs, TaskQueue())

    def _retry(self, task: Task, worker: Worker, outcome: Outcome | None) -> None:
        """Queue a task that is held by nobody for its next attempt, behind the others: they have waited as well."""
        task.attempt += 1
        task.subtasks_open = 0
        task.worker = None
        task.state = QUEUED
        self._queue_of(task).append(task)
        self._port.retry(task, worker, outcome)

    def _mark_done(self, task: Task) -> None:
        task.state = DONE
        task.worker = None
        task.payload, task.head = (), b""
        task.beside = None
        self.tasks_done += task.items
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
        if worker.held_items > 1 and not worker.is_recalling:
            self._recall(worker)

    def _remove_subtask(self, task: Task) -> None:
        """Let a task whose last subtask is done have its slot again, though all may be taken: for a moment."""
        parent = task.parent
        if parent is None or parent.attempt != task.parent_attempt:
            return
        parent.subtasks_open -= 1
        worker = parent.worker
        if parent.subtasks_open or worker is None or not worker.is_lending:
            return
        self._lend_or_not(worker)
        self._place(worker)

    def _lend_or_not(self, worker: Worker) -> None:
        worker.is_lending = worker.has_waiting_task
        if not worker.is_lending:
            for stand_in in worker.stand_ins:
                self.dismiss(stand_in)

    def _fill_idle(self, now: float) -> None:
        """Give work to idle workers as long as there is some, and a slot is free."""
        queue, idle, newest = self.queue, self._idle, self._roster.newest_idle
        self._fill_equipped(now)
        while idle and queue.living and self._has_free_slot:
            worker = newest()
            self._fill(worker, now)
            if not worker.held:
                return  # cannot be: who has nothing to do takes any task

    def _fill_equipped(self, now: float) -> None:
        """Give those idle workers something that can do what others cannot, if there is any of that."""
        if any(queue.living for queue in self.queues_by_needs.values()):
            for worker in list(self._roster.equipped):
                if first_queue(self.queues_by_needs, worker.resources) is not None:
                    self._fill(worker, now)

    def _recall(self, worker: Worker) -> None:
        self._roster.begin_recall(worker)
        self._port.recall(worker)

    def _recall_for_idle(self, now: float) -> None:
        """Nothing waits and a worker is idle: take work from one that may be stuck, or has most of it ahead."""
        if not self.has_work_ahead or self.queue.living or not self._idle or not self._has_free_slot:
            return
        worker = self._first_overrun(now) or self._roster.richest()
        if worker is not None:
            self._recall(worker)
