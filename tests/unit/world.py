"""A world for the scheduler: a port that checks each effect as it comes, and workers that are models of real ones."""

from __future__ import annotations

from collections import Counter, deque
from copy import copy
from typing import Any

from crew_executor.core.budget import LOSSES_MAX, Budget
from crew_executor.core.horizon import AHEAD_TASKS, HORIZON_MAX
from crew_executor.core.messages import Outcome, OutcomeFlag
from crew_executor.core.needs import Needs, is_met
from crew_executor.core.roster import AHEAD_ONE_SECONDS
from crew_executor.core.scheduler import Scheduler
from crew_executor.core.task import Task
from crew_executor.core.worker import Worker

from .fakes import RETRYABLE, GuardedQueue, make_outcome

FINISHED, CRASHED, CANCELLED, STOPPED = "finished", "crashed", "cancelled", "stopped"
RETRIED, RETURNED = "retried", "returned"
GPUS_MAX = 2
Job = tuple[int, int, int]
"""A task on the wire: ordinal, task id, attempt."""


class Purse:
    """What a task may still cost, counted independently of its Budget."""

    def __init__(self, budget: Budget | None) -> None:
        self.retries = 0 if budget is None else budget.retries
        self.crash_retries = 0 if budget is None else budget.crash_retries
        self.losses = LOSSES_MAX if self.retries or self.crash_retries else 0
        self.is_timeout_retried = budget is not None and budget.is_timeout_retried
        self.runs_max = 1 + self.retries + self.crash_retries + self.losses

    def pay(self, coin: str) -> bool:
        left = getattr(self, coin)
        if left:
            setattr(self, coin, left - 1)
        return left > 0

    def pay_loss(self, *, is_timed_out: bool, is_taken_away: bool) -> bool:
        """Pay for a run that was lost with its worker; False: there is nothing to pay it from."""
        if is_timed_out:
            return self.is_timeout_retried and self.pay("retries")
        return (is_taken_away and self.pay("losses")) or self.pay("crash_retries")


class FakeWorker:
    """A worker at the far end of a link: takes frames and tasks in order, and shares a cell with the client.

    Attributes:
        inbox: frames on their way to it, oldest first.
        outbox: outcomes not yet sent.
        link: frames on their way to the client, oldest first.
        started: in its cell: the ordinal of the last task that it started, or skipped.
        withdrawn: in its cell: what it must not start any more.
        seen: the ordinal of the last task that has reached it.
        taken: the ordinal of the last task that it looked at.
        ordered: the ordinal of the task whose run is to be ended, if it still runs.
    """

    def __init__(self, worker: Worker, world: World, tasks_max: int | None) -> None:
        self.worker = worker
        self.world = world
        self.tasks_max = tasks_max
        self.inbox: deque[tuple[str, Any]] = deque()
        self.waiting: deque[Job] = deque()
        self.running: Job | None = None
        self.outbox: list[Outcome] = []
        self.link: deque[tuple[str, Any]] = deque()
        self.started = self.withdrawn = self.kept = self.seen = self.taken = self.ordered = 0
        self.runs = 0
        self.is_alive = True
        self.is_retiring = False
        self.is_told_to_go = False
        self.is_gone = False

    def receive(self) -> None:
        """Take the next frame."""
        if not self.inbox or self.is_gone:
            return
        kind, content = self.inbox.popleft()
        if kind == "tasks":
            new = [job for job in content if job[0] > self.seen]
            assert new == [] or new[0][0] == self.seen + 1, "nothing is missing"
            self.waiting.extend(new)
            self.seen += len(new)
        else:
            self.is_told_to_go = True

    def start(self) -> None:
        """Start the next task, as real as it gets: this is what must happen once."""
        while self.running is None and self.waiting and not self.is_gone:
            job = self.waiting.popleft()
            self.taken = job[0]
            if self.is_retiring:
                continue
            assert job[0] > self.started, "tasks are started in the order of their ordinals"
            self.started = job[0]
            if job[0] > self.withdrawn:
                self.running = job
                self.runs += 1
                self.world.note_start(job[1], job[2])

    def withdraw(self, last_sent: int) -> int:
        """Do what the client does to the cell; return the last ordinal that the worker keeps."""
        if self.started > self.withdrawn:
            self.kept = self.started
        self.withdrawn = last_sent
        return self.kept

    def finish(self, seconds: float, *, is_failure: bool = False) -> None:
        """End the running task; every fourth one always ends in an error that its user may have named to retry on."""
        if self.running is not None:
            _, task_id, attempt = self.running
            self.running = None
            flags = RETRYABLE if is_failure or task_id % 4 == 0 else 0
            self.outbox.append(make_outcome(task_id, attempt, seconds=seconds, flags=flags))

    def heed(self) -> None:
        """End the running task if it is interrupted; the interrupt, too, may be an error to retry on."""
        if self.running is not None and self.running[0] == self.ordered:
            self.finish(0.001, is_failure=True)

    def retire(self) -> None:
        """Give the word to start nothing more."""
        if self.running is None and not self.is_retiring and not self.is_gone:
            self.flush()
            self.is_retiring = True
            self.link.append(("retire", self.taken))

    def flush(self) -> None:
        """Send the finished outcomes."""
        if self.outbox:
            self.link.append(("outcomes", self.outbox))
            self.outbox = []

    def leave(self) -> None:
        """Go when told so and nothing is left to do; else, when idle, ask whether it may."""
        if self.running is not None or self.waiting or self.is_gone:
            return
        if self.is_told_to_go:
            self.flush()
            self.link.append(("bye", None))
            self.is_gone = True
        elif not self.is_retiring and ("leave", None) not in self.link:
            self.flush()
            self.link.append(("leave", None))


class World:
    """The port of the scheduler under test, and the truth that its decisions are held against."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.scheduler = Scheduler(self, slots)
        self.scheduler.queue = GuardedQueue()
        self.now = 100.0
        self.tasks: dict[int, Task] = {}
        self.fakes: dict[Worker, FakeWorker] = {}
        self.dead: list[FakeWorker] = []
        self.inbox: list[Task] = []  # submitted, and not taken yet
        # What must be waiting, by needs and rank, in the order it must go out.
        self.lanes: dict[tuple[Needs | None, int], list[Task]] = {}
        self.where: dict[Task, Worker] = {}  # who must be holding what
        self.ghosts: dict[Task, Worker] = {}  # and whose run must end, though it is over for its user
        self.done: dict[int, str] = {}
        self.purses: dict[int, Purse] = {}
        self.attempts: Counter[int] = Counter()
        self.starts: Counter[int] = Counter()
        self.begun: set[tuple[int, int]] = set()
        self.moved: dict[Worker, float] = {}  # when a worker last made progress, as far as the client can know
        self.last_ordinal: dict[Worker, int] = {}
        self.dismissed: set[Worker] = set()
        self.recalls: dict[Worker, int] = {}  # unanswered
        self.orders: list[tuple[Worker, Task | None]] = []  # recalls and stops that the shell will see to
        self.unsent: list[Task] = []  # in the present call
        self.fates: dict[int, str] = {}  # the same: what became of tasks that were not finished
        self.returned: set[int] = set()  # ids of tasks that were ever given back

    # ------------------------------------------------------------------ the port

    def send(self, worker: Worker, tasks: list[Task]) -> None:
        assert worker in self.fakes, "a dead worker is sent nothing"
        assert worker not in self.dismissed, "a leaving worker is sent nothing"
        assert not self.recalls.get(worker), "a worker that owes an answer is sent nothing"
        assert tasks, "a frame holds tasks"
        assert not self.is_lending(worker), "who waits for subtasks is sent nothing"
        if not self.is_holding(worker):
            assert self.busy() < self.slots, "no more than so many are busy"
            self.moved[worker] = self.now
        first = self.last_ordinal.get(worker, 0) + 1
        assert list(range(first, first + len(tasks))) == [task.ordinal for task in tasks], "ordinals are consecutive"
        self.last_ordinal[worker] = worker.ordinal
        assert tasks[-1].ordinal == worker.ordinal
        needed = self.needed_by(worker)
        if needed:
            assert not self.is_holding(worker), "what only this worker can do waits until it holds nothing"
            assert len(tasks) == 1, "and goes alone"
        for task in tasks:
            keys = needed + [key for key, lane in self.lanes.items() if lane and key[0] is None]
            lane = self.lanes[max(keys, key=lambda key: (key[1], key[0] is not None, -self.lanes[key][0].task_id))]
            assert task is lane.pop(0), "the task whose turn it is goes out: priority, then first in first out"
            assert task not in self.where
            assert task.task_id not in self.done, "what is over is not sent"
            assert task.attempt == self.attempts[task.task_id], "each attempt has its number"
            assert task.payload != (), "the payload is there for every attempt"
            self.where[task] = worker
        assert len(worker.held) <= AHEAD_TASKS
        self.fakes[worker].inbox.append(("tasks", [(task.ordinal, task.task_id, task.attempt) for task in tasks]))

    def needed_by(self, worker: Worker) -> list[tuple[Needs | None, int]]:
        """Return the lanes of waiting tasks whose needs this worker meets."""
        lanes = [key for key, lane in self.lanes.items() if lane]
        return [(needs, rank) for needs, rank in lanes if needs and is_met(needs, worker.resources)]

    def dismiss(self, worker: Worker) -> None:
        assert worker in self.fakes
        assert worker not in self.dismissed
        self.dismissed.add(worker)
        self.fakes[worker].inbox.append(("go", worker.ordinal))

    def recall(self, worker: Worker) -> None:
        assert worker in self.fakes
        assert not self.recalls.get(worker), "one recall at a time"
        assert len(worker.held) > 1, "there is something to take back"
        self.recalls[worker] = 1
        self.orders.append((worker, None))

    def finish(self, worker: Worker, finished: list[tuple[Task, Outcome]]) -> None:
        assert finished
        self.moved[worker] = self.now
        for task, outcome in finished:
            assert (task.task_id, task.attempt) == (outcome.task_id, outcome.attempt)
            is_to_be_retried = outcome.flags & OutcomeFlag.RETRYABLE and self.purses[task.task_id].retries
            assert not is_to_be_retried, "a failure is the result only if it may not be repeated"
            self._end(task, FINISHED, worker)

    def crash(self, task: Task, worker: Worker) -> None:
        assert worker not in self.fakes
        self.fates[task.task_id] = CRASHED
        self._end(task, CRASHED, worker)

    def retry(self, task: Task, worker: Worker, outcome: Outcome | None) -> None:
        assert task.task_id not in self.done, "what is over is not repeated"
        assert task.state == "queued"
        self.attempts[task.task_id] += 1
        assert task.attempt == self.attempts[task.task_id], "each attempt has its number"
        if outcome is not None:
            assert outcome.flags & OutcomeFlag.RETRYABLE, "only what its user named is repeated"
            assert (task.task_id, task.attempt - 1) == (outcome.task_id, outcome.attempt)
            assert self.purses[task.task_id].pay("retries"), "repeating costs"
            self.moved[worker] = self.now
        self.fates[task.task_id] = RETRIED
        assert self.where.pop(task) is worker
        self.lanes[task.needs, task.rank].append(task)

    def unsend(self, task: Task) -> bool:
        assert task.task_id not in self.done
        assert (task.task_id, task.attempt) not in self.begun, "what has started is not given back"
        assert task.state == "sent"
        if self.unsent:
            assert self.unsent[-1].ordinal > task.ordinal, "the latest is put back first, so that the order is kept"
        self.unsent.append(task)
        self.fates[task.task_id] = RETURNED
        self.returned.add(task.task_id)
        del self.where[task]
        self.lanes.setdefault((task.needs, task.rank), []).insert(0, task)
        return True

    # ------------------------------------------------------------------ what happens in it

    def submit(
        self, key: str, priority: int, payload: bytes, budget: Budget | None = None, parent: Task | None = None,
        needs: Needs | None = None,
    ) -> None:  # fmt: skip
        own = None if budget is None else copy(budget)
        task = Task(len(self.tasks) + 1, key, payload, priority=priority, budget=own, parent=parent, needs=needs)
        self.tasks[task.task_id] = task
        self.purses[task.task_id] = Purse(budget)
        self.attempts[task.task_id] = 1
        self.inbox.append(task)

    def submit_with_ticket(self, key: str, payload: bytes, budget: Budget | None, number: int) -> None:
        """Have a user's thread send a task itself, if a worker is promised to it, before the scheduler has heard of it.

        Bits of the number: it is interrupted before it sends; the worker begins at once, and ends; a user stops it; the
        outcome, which is never one to be retried, arrives before the scheduler has heard of the task.
        """
        self.take_submitted()
        worker = self.scheduler.next_idle()
        if worker is None:
            return
        assert not self.is_holding(worker)
        assert worker not in self.dismissed
        self.submit(key, 0, payload, budget)
        task, fake = self.inbox.pop(), self.fakes[worker]
        if not number & 1:
            fake.inbox.append(("tasks", [(worker.ordinal + 1, task.task_id, task.attempt)]))
        if number & 2:
            fake.receive()
            fake.start()
        if number & 4:
            fake.finish(0.001)
        is_stopped = bool(number & 8) and self.scheduler.stop(task, is_sent=True)
        if number & 16 and not is_stopped and fake.outbox and fake.outbox[-1].task_id == task.task_id:
            outcome = fake.outbox.pop()._replace(flags=0)
            self.where[task], self.last_ordinal[worker] = worker, worker.ordinal + 1
            self.call(self.scheduler.submit_to, worker, task, worker.ordinal + 1, self.now, outcome)
            assert worker.ordinal == self.last_ordinal[worker]
            assert self.scheduler.next_idle() is worker
            return
        self.lanes.setdefault((None, task.rank), []).append(task)
        self.call(self.scheduler.submit_to, worker, task, worker.ordinal + 1, self.now)
        if is_stopped:
            self.ghosts[task] = worker
            self.orders.append((worker, task))
            self._end(task, STOPPED, worker)

    def take_submitted(self) -> None:
        """Let the scheduler have what was submitted, also what was cancelled meanwhile."""
        tasks, self.inbox = self.inbox, []
        for task in tasks:
            if task.task_id not in self.done:
                self.lanes.setdefault((task.needs, task.rank), []).append(task)
        self.scheduler.submit(tasks, self.now)

    def cancel(self, task: Task) -> None:
        is_waiting = self.is_waiting(task)
        assert is_waiting is self.scheduler.cancel(task)
        if is_waiting:
            self.forget(task, CANCELLED)

    def is_waiting(self, task: Task) -> bool:
        return task in self.lanes.get((task.needs, task.rank), ()) or (
            task in self.inbox and task.task_id not in self.done
        )

    def forget(self, task: Task, how: str) -> None:
        """A waiting task is over for its user."""
        if task in self.lanes.get((task.needs, task.rank), ()):
            self.lanes[task.needs, task.rank].remove(task)
        self._end(task, how, None)

    def stop_task(self, task: Task) -> None:
        """Do what a user does who wants a task to end wherever it is."""
        is_waiting = self.is_waiting(task)
        assert (is_waiting or task in self.where) is self.scheduler.stop(task)
        if is_waiting:
            self.forget(task, STOPPED)
        elif task in self.where:
            worker = self.ghosts[task] = self.where[task]
            assert task.worker is worker, "who must end its run can be found"
            self.orders.append((worker, task))  # as the shell does
            self._end(task, STOPPED, worker)

    def join(self, tasks_max: int | None, gpus: int = 0) -> Worker:
        worker = Worker(f"w{len(self.fakes) + len(self.dead) + 1}", tasks_max=tasks_max)
        worker.resources = {"gpus": gpus} if gpus else {}
        self.fakes[worker] = FakeWorker(worker, self, tasks_max)
        self.call(self.scheduler.worker_ready, worker, self.now)
        return worker

    def lose(
        self, fake: FakeWorker, started: int | None, *, timed_out: int | None = None, is_taken_away: bool = False
    ) -> None:
        """The client hears of a death; what is still on the link stays there and may come late."""
        fake.is_alive = False
        expected = {}
        for task, holder in self.where.items():
            if holder is fake.worker:
                if started is not None and (task.task_id, task.attempt) not in self.begun:
                    expected[task.task_id] = RETURNED
                elif self.purses[task.task_id].pay_loss(
                    is_timed_out=task.ordinal == timed_out, is_taken_away=is_taken_away
                ):
                    expected[task.task_id] = RETRIED
                else:
                    expected[task.task_id] = CRASHED
        if fake.worker in self.fakes:
            del self.fakes[fake.worker]
            self.recalls.pop(fake.worker, None)
            self.dead.append(fake)
        self.end_ghosts(fake.worker, 0)
        self.call(
            self.scheduler.worker_lost, fake.worker, started, self.now,
            timed_out=timed_out, is_taken_away=is_taken_away,
        )  # fmt: skip
        assert expected == self.fates, "what may have run is paid for or crashes, the rest is put back"

    def deliver(self, fake: FakeWorker, frame: tuple[str, Any]) -> None:
        """Let the client read one frame."""
        kind, content = frame
        worker = fake.worker
        if kind == "outcomes":
            for task in [task for task, holder in self.ghosts.items() if holder is worker]:
                if any((task.task_id, task.attempt) == (outcome.task_id, outcome.attempt) for outcome in content):
                    del self.ghosts[task]
                    self.moved[worker] = self.now
            self.call(self.scheduler.outcomes, worker, content, self.now)
        elif kind == "retire":
            self.recalls.pop(worker, None)
            if fake.is_alive:
                self.end_ghosts(worker, content)
            self.call(self.scheduler.retired, worker, content, self.now)
            assert not fake.is_alive or worker in self.dismissed, "who will start nothing is told to go"
            kept = [task for task, holder in self.where.items() if holder is worker and task.ordinal > content]
            assert not kept, "what it will not start goes elsewhere"
        elif kind == "leave":
            may_leave = not self.is_holding(worker) and fake.is_alive and worker not in self.dismissed
            assert may_leave is self.scheduler.leave_requested(worker)
            assert not may_leave or worker in self.dismissed
        else:
            self.lose(fake, fake.started)

    def carry_out(self, number: int = 0) -> None:
        """Do one of the things that the scheduler has asked for, as the shell does: under its lock, a while later."""
        if not self.orders:
            return
        worker, task = self.orders.pop(number % len(self.orders))
        fake = self.fakes.get(worker)
        if fake is None:
            return  # buried meanwhile
        kept = fake.withdraw(worker.ordinal)
        self.recalls.pop(worker, None)
        self.end_ghosts(worker, kept)
        self.call(self.scheduler.recalled, worker, kept, self.now)
        self.deliver(fake, ("outcomes", list(fake.outbox)))
        if task in self.ghosts:
            assert task.ordinal <= fake.started, "the run of a task is ended that has started"
            fake.ordered = task.ordinal

    def end_ghosts(self, worker: Worker, kept: int) -> None:
        """Nothing above `kept` will be started by the worker."""
        for task in [task for task, holder in self.ghosts.items() if holder is worker and task.ordinal > kept]:
            del self.ghosts[task]

    def tick(self) -> None:
        self.call(self.scheduler.tick, self.now)
        idle = [worker for worker in self.fakes if not worker.held and worker.is_open]
        if idle and self.busy() + sum(map(bool, self.recalls.values())) < self.slots:
            assert not self.waiting(None), "nobody idles while tasks wait and a slot is free"
            assert not any(map(self.needed_by, idle)), "nor while there are some that only it can do"
        due = self.scheduler.next_tick()
        assert due is None or due > self.now, "a tick does all that is due"
        for worker in self.fakes:
            if len(worker.held) > 1 and not self.recalls.get(worker):
                assert self.now - self.moved[worker] <= 2 * HORIZON_MAX + AHEAD_ONE_SECONDS, "nothing short is trapped"
                assert self.scheduler.has_work_ahead

    def call(self, method: Any, *args: Any, **options: Any) -> None:
        """Call the scheduler; what it gives back in one call is checked for its order."""
        self.unsent, self.fates = [], {}
        method(*args, **options)

    def note_start(self, task_id: int, attempt: int) -> None:
        assert (task_id, attempt) not in self.begun, "an attempt is started at most once, anywhere"
        self.begun.add((task_id, attempt))
        self.starts[task_id] += 1
        assert self.starts[task_id] <= self.purses[task_id].runs_max, "a task runs as often as it may"
        if self.tasks[task_id] not in self.ghosts:
            assert self.done.get(task_id) in (None, CRASHED), "what was cancelled or finished is not started"

    def is_holding(self, worker: Worker) -> bool:
        return any(holder is worker for holder in (*self.where.values(), *self.ghosts.values()))

    def open_subtasks(self, task: Task) -> list[Task]:
        """Return what a task has submitted in its present attempt and is not over."""
        waiting = [task for lane in self.lanes.values() for task in lane]
        everywhere = (*waiting, *self.where, *self.ghosts)
        return [other for other in everywhere if other.parent is task and other.parent_attempt == task.attempt]

    def is_lending(self, worker: Worker) -> bool:
        holders = {**self.where, **self.ghosts}
        return any(holder is worker and self.open_subtasks(task) for task, holder in holders.items())

    def busy(self) -> int:
        """Count the workers that hold tasks and do not lend their slots."""
        return sum(self.is_holding(worker) and not self.is_lending(worker) for worker in self.fakes)

    def _end(self, task: Task, how: str, worker: Worker | None) -> None:
        assert task.task_id not in self.done, "a task ends once"
        assert self.where.pop(task, None) is worker
        self.done[task.task_id] = how

    # ------------------------------------------------------------------ what is true of it

    def check(self) -> None:
        """Compare the scheduler with the truth."""
        scheduler = self.scheduler
        self.scheduler.queue.asked = 0  # type: ignore[attr-defined]  # it is a GuardedQueue
        waiting, needed = self.waiting(None), {needs: self.waiting(needs) for needs in scheduler.queues_by_needs}
        assert waiting == list(scheduler.queue)
        assert needed == {needs: list(queue) for needs, queue in scheduler.queues_by_needs.items()}
        waiting_in_all = [*waiting, *(task for tasks in needed.values() for task in tasks)]
        assert not any(task.worker for task in waiting_in_all)
        held: dict[Task, Worker] = {}
        for worker in self.fakes:
            assert worker is scheduler.workers[worker.name]
            assert list(worker.held) == [task.task_id for task in worker.held.values()]
            ordinals = [task.ordinal for task in worker.held.values()]
            assert ordinals == sorted(ordinals)
            assert sum(task.payload_bytes for task in worker.held.values()) == worker.held_bytes
            held.update(dict.fromkeys(worker.held.values(), worker))
            assert worker.is_leaving == (worker in self.dismissed)
            assert worker.is_recalling == bool(self.recalls.get(worker))
            assert worker.is_lending == self.is_lending(worker)
            if (waiting or self.needed_by(worker)) and len(self.fakes) <= self.slots:  # else: at the next tick
                assert worker.held or worker.is_leaving or worker.is_recalling, "nobody idles while tasks wait"
        assert {**self.where, **self.ghosts} == held
        assert len(self.fakes) == len(scheduler.workers)
        assert not any(fake.worker.held for fake in self.dead)
        wait = len(waiting_in_all)
        counted = (wait + len(held), len(held), wait, len(self.done) - len(self.ghosts))
        assert counted == (scheduler.tasks_open, scheduler.tasks_held, scheduler.tasks_queued, scheduler.tasks_done)
        new = sum(task.task_id not in self.done for task in self.inbox)
        total = new + wait + len(self.where) + len(self.done)
        assert len(self.tasks) == total, "each task is in exactly one place"
        staying = [worker for worker in self.fakes if worker not in self.dismissed]
        lending = sum(map(self.is_lending, staying))
        assert (len(staying) - lending, lending) == (scheduler.workers_ready, scheduler.workers_lending)
        for fake in (*self.fakes.values(), *self.dead):
            assert fake.tasks_max is None or fake.runs <= fake.tasks_max
            worker = fake.worker
            if worker.tasks_left is not None and worker in self.fakes and worker not in self.dismissed:
                assert fake.tasks_max == worker.tasks_left + len(worker.held) + worker.tasks_done, "its life is used"

    def waiting(self, needs: Needs | None) -> list[Task]:
        """Return what must be waiting with these needs, in the order it must go out."""
        keys = sorted((key for key in self.lanes if key[0] == needs), key=lambda key: key[1], reverse=True)
        return [task for key in keys for task in self.lanes[key]]

    def drain(self) -> None:
        """Let everybody finish what they have, add workers while there are none, and see everything end.

        Few tasks are poison for their workers, so that their budgets come to an end, too.
        """
        self.take_submitted()
        for _ in range(sum(purse.runs_max for purse in self.purses.values()) + 2 * len(self.fakes) + 5):
            if not self.scheduler.tasks_open:
                break
            if not any(each.resources.get("gpus") == GPUS_MAX for each in self.fakes if each not in self.dismissed):
                self.join(None, GPUS_MAX)
            for fake in list(self.fakes.values()):
                while fake.inbox or fake.waiting or fake.running or fake.outbox:
                    fake.receive()
                    fake.start()
                    if fake.running and fake.running[1] % 32 == 1:
                        break
                    fake.finish(0.0)
                    fake.flush()
                if fake.is_told_to_go:
                    fake.leave()
                while fake.link:
                    self.deliver(fake, fake.link.popleft())
                if fake.running:
                    ordinal, task_id, _ = fake.running
                    timed_out = ordinal if task_id % 5 == 0 else None
                    self.lose(fake, ordinal, timed_out=timed_out, is_taken_away=task_id % 3 == 0)
            while self.orders:
                self.carry_out()
            self.check()
        assert 0 == self.scheduler.tasks_open, "everything drains"
        assert set(self.tasks) == set(self.done)
        assert not self.ghosts
        for task_id, how in self.done.items():
            assert how != FINISHED or self.starts[task_id], "what is finished has run"
