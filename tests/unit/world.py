"""A world for the scheduler: a port that checks each effect as it comes, and workers that are models of real ones."""

from __future__ import annotations

from collections import deque
from typing import Any

from crew_executor.core.messages import Outcome
from crew_executor.core.scheduler import AHEAD_ONE_SECONDS, AHEAD_TASKS, HORIZON_MAX, Scheduler, Task, Worker

from .fakes import GuardedQueue, make_outcome

FINISHED, CRASHED, CANCELLED = "finished", "crashed", "cancelled"
Job = tuple[int, int, int]
"""A task on the wire: ordinal, task id, attempt."""


class FakeWorker:
    """A worker at the far end of a link: frames and tasks in order; hands over what it has not started.

    Attributes:
        inbox: frames on their way to it, oldest first.
        outbox: outcomes not yet sent.
        link: frames on their way to the client, oldest first.
        started: the ordinal of the last task it started: its shared cell.
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
        self.started = 0
        self.runs = 0
        self.is_alive = True
        self.is_told_to_go = False
        self.is_gone = False

    def receive(self) -> None:
        """Take the next frame."""
        if not self.inbox or self.is_gone:
            return
        kind, content = self.inbox.popleft()
        if kind == "tasks":
            self.waiting.extend(content)
        elif kind == "recall":
            self.waiting.clear()
            self.flush()
            self.link.append(("recalled", self.started))
        else:
            self.is_told_to_go = True

    def start(self) -> None:
        """Start the next task, as real as it gets: this is what must happen once."""
        if self.running is None and self.waiting and not self.is_gone:
            self.running = self.waiting.popleft()
            assert self.running[0] > self.started, "tasks are started in the order of their ordinals"
            self.started = self.running[0]
            self.runs += 1
            self.world.note_start(self.running[1], self.running[2])

    def finish(self, seconds: float) -> None:
        """End the running task."""
        if self.running is not None:
            _, task_id, attempt = self.running
            self.running = None
            self.outbox.append(make_outcome(task_id, attempt, seconds=seconds))

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
        elif ("leave", None) not in self.link:
            self.flush()
            self.link.append(("leave", None))


class World:
    """The port of the scheduler under test, and the truth that its decisions are held against."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(self)
        self.scheduler.queue = GuardedQueue()
        self.now = 100.0
        self.tasks: dict[int, Task] = {}
        self.fakes: dict[Worker, FakeWorker] = {}
        self.dead: list[FakeWorker] = []
        self.lanes: dict[int, list[Task]] = {}  # what must be waiting, by priority, in the order it must go out
        self.where: dict[Task, Worker] = {}  # who must be holding what
        self.done: dict[int, str] = {}
        self.begun: set[tuple[int, int]] = set()
        self.moved: dict[Worker, float] = {}  # when a worker last made progress, as far as the client can know
        self.last_ordinal: dict[Worker, int] = {}
        self.dismissed: set[Worker] = set()
        self.recalls: dict[Worker, int] = {}  # unanswered
        self.unsent: list[Task] = []  # in the present call
        self.returned: set[int] = set()  # ids of tasks that were ever given back

    # ------------------------------------------------------------------ the port

    def send(self, worker: Worker, tasks: list[Task]) -> None:
        assert worker in self.fakes, "a dead worker is sent nothing"
        assert worker not in self.dismissed, "a leaving worker is sent nothing"
        assert not self.recalls.get(worker), "a worker that owes an answer is sent nothing"
        assert tasks, "a frame holds tasks"
        if not any(holder is worker for holder in self.where.values()):
            self.moved[worker] = self.now
        first = self.last_ordinal.get(worker, 0) + 1
        assert list(range(first, first + len(tasks))) == [task.ordinal for task in tasks], "ordinals are consecutive"
        self.last_ordinal[worker] = worker.ordinal
        assert tasks[-1].ordinal == worker.ordinal
        for task in tasks:
            lane = self.lanes[max(priority for priority, lane in self.lanes.items() if lane)]
            assert task is lane.pop(0), "the task whose turn it is goes out: priority, then first in first out"
            assert task not in self.where
            self.where[task] = worker
        assert len(worker.held) <= AHEAD_TASKS
        self.fakes[worker].inbox.append(("tasks", [(task.ordinal, task.task_id, task.attempt) for task in tasks]))

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
        self.fakes[worker].inbox.append(("recall", None))

    def finish(self, worker: Worker, finished: list[tuple[Task, Outcome]]) -> None:
        assert finished
        self.moved[worker] = self.now
        for task, outcome in finished:
            assert (task.task_id, task.attempt) == (outcome.task_id, outcome.attempt)
            self._end(task, FINISHED, worker)

    def crash(self, task: Task, worker: Worker) -> None:
        assert worker not in self.fakes
        self._end(task, CRASHED, worker)

    def unsend(self, task: Task) -> None:
        assert task.task_id not in self.done
        assert (task.task_id, task.attempt) not in self.begun, "what has started is not given back"
        assert task.state == "queued"
        if self.unsent:
            assert self.unsent[-1].ordinal > task.ordinal, "the latest is put back first, so that the order is kept"
        self.unsent.append(task)
        self.returned.add(task.task_id)
        del self.where[task]
        self.lanes.setdefault(task.priority, []).insert(0, task)

    # ------------------------------------------------------------------ what happens in it

    def submit(self, key: str, priority: int, payload: bytes) -> None:
        task = Task(len(self.tasks) + 1, key, (payload,), priority=priority)
        self.tasks[task.task_id] = task
        self.lanes.setdefault(priority, []).append(task)
        self.scheduler.submit(task, self.now)

    def cancel(self, task: Task) -> None:
        is_waiting = task in self.lanes.get(task.priority, ())
        assert is_waiting is self.scheduler.cancel(task)
        if is_waiting:
            self.lanes[task.priority].remove(task)
            self._end(task, CANCELLED, None)

    def join(self, tasks_max: int | None) -> Worker:
        worker = Worker(f"w{len(self.fakes) + len(self.dead) + 1}", tasks_max=tasks_max)
        self.fakes[worker] = FakeWorker(worker, self, tasks_max)
        self.call(self.scheduler.worker_ready, worker, self.now)
        return worker

    def lose(self, fake: FakeWorker, started: int | None) -> None:
        """The client hears of a death; what is still on the link stays there and may come late."""
        fake.is_alive = False
        held = [task for task, holder in self.where.items() if holder is fake.worker]
        if fake.worker in self.fakes:
            del self.fakes[fake.worker]
            self.recalls.pop(fake.worker, None)
            self.dead.append(fake)
        self.call(self.scheduler.worker_lost, fake.worker, started, self.now)
        for task in held:
            has_crashed = self.done.get(task.task_id) == CRASHED
            assert has_crashed is (task not in self.unsent)
            may_have_run = started is None or (task.task_id, task.attempt) in self.begun
            assert has_crashed is may_have_run, "what may have run crashes, the rest is put back"

    def deliver(self, fake: FakeWorker, frame: tuple[str, Any]) -> None:
        """Let the client read one frame."""
        kind, content = frame
        if kind == "outcomes":
            self.call(self.scheduler.outcomes, fake.worker, content, self.now)
        elif kind == "recalled":
            self.recalls.pop(fake.worker, None)
            self.call(self.scheduler.recalled, fake.worker, content, self.now)
        elif kind == "leave":
            may_leave = not self.is_holding(fake.worker) and fake.is_alive and fake.worker not in self.dismissed
            assert may_leave is self.scheduler.leave_requested(fake.worker)
            assert not may_leave or fake.worker in self.dismissed
        else:
            self.lose(fake, fake.started)

    def tick(self) -> None:
        self.call(self.scheduler.tick, self.now)
        due = self.scheduler.next_tick()
        assert due is None or due > self.now, "a tick does all that is due"
        for worker in self.fakes:
            if len(worker.held) > 1 and not self.recalls.get(worker):
                assert self.now - self.moved[worker] <= 2 * HORIZON_MAX + AHEAD_ONE_SECONDS, "nothing short is trapped"
                assert self.scheduler.has_work_ahead

    def call(self, method: Any, *args: Any) -> None:
        """Call the scheduler; what it gives back in one call is checked for its order."""
        self.unsent = []
        method(*args)

    def note_start(self, task_id: int, attempt: int) -> None:
        assert (task_id, attempt) not in self.begun, "a task is started at most once, anywhere"
        assert self.done.get(task_id) in (None, CRASHED), "what was cancelled or finished is not started"
        self.begun.add((task_id, attempt))

    def is_holding(self, worker: Worker) -> bool:
        return any(holder is worker for holder in self.where.values())

    def _end(self, task: Task, how: str, worker: Worker | None) -> None:
        assert task.task_id not in self.done, "a task ends once"
        assert self.where.pop(task, None) is worker
        self.done[task.task_id] = how

    # ------------------------------------------------------------------ what is true of it

    def check(self) -> None:
        """Compare the scheduler with the truth."""
        scheduler = self.scheduler
        self.scheduler.queue.asked = 0  # type: ignore[attr-defined]  # it is a GuardedQueue
        waiting = [task for priority in sorted(self.lanes, reverse=True) for task in self.lanes[priority]]
        assert waiting == list(scheduler.queue)
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
            if waiting:
                assert worker.held or worker.is_leaving or worker.is_recalling, "nobody idles while tasks wait"
        assert self.where == held
        assert len(self.fakes) == len(scheduler.workers)
        assert not any(fake.worker.held for fake in self.dead)
        counted = (len(waiting) + len(held), len(held), len(waiting), len(self.done))
        assert counted == (scheduler.tasks_open, scheduler.tasks_held, len(scheduler.queue), scheduler.tasks_done)
        assert len(self.tasks) == len(waiting) + len(held) + len(self.done), "each task is in exactly one place"
        assert sum(worker not in self.dismissed for worker in self.fakes) == scheduler.workers_ready
        for fake in (*self.fakes.values(), *self.dead):
            assert fake.tasks_max is None or fake.runs <= fake.tasks_max

    def drain(self) -> None:
        """Let everybody finish what they have, add workers while there are none, and see everything end."""
        for _ in range(len(self.tasks) + 2 * len(self.fakes) + 5):
            if not self.scheduler.tasks_open:
                break
            if not self.scheduler.workers_ready:
                self.join(None)
            for fake in list(self.fakes.values()):
                while fake.inbox or fake.waiting or fake.running or fake.outbox:
                    fake.receive()
                    fake.start()
                    fake.finish(0.0)
                    fake.flush()
                if fake.is_told_to_go:
                    fake.leave()
                while fake.link:
                    self.deliver(fake, fake.link.popleft())
            self.check()
        assert 0 == self.scheduler.tasks_open, "everything drains"
        assert set(self.tasks) == set(self.done)
