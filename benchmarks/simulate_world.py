"""A world for the real core: simulated workers, links and clock around crew_executor's scheduler and scaler.

Everything that decides is the package's own (core/scheduler.py, core/scaling.py, recruiter.py); everything that would
take time is an event on a heap. A worker's time is planned when a frame is sent to it: when each task starts and ends,
and when outcomes are flushed, by the rules of worker/process.py. A recall cuts the plan short.

Seconds spent in the core are measured around each call into it. They include the port's methods, which only note.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crew_executor.core.messages import FLUSH_SECONDS, Outcome
from crew_executor.core.scaling import ScalingRules
from crew_executor.core.scheduler import Scheduler
from crew_executor.core.stock import Stock
from crew_executor.core.task import Task
from crew_executor.core.worker import Worker
from crew_executor.recruiter import Recruiter

LATENCY = 100e-6
"""Seconds that a frame is under way."""
OVERHEAD = 10e-6
"""What a task costs a worker beside its own seconds."""
PAYLOAD = b"p" * 100
NEVER = float("inf")


@dataclass(frozen=True)
class Settings:
    """What is simulated.

    Args:
        workers: at most so many.
        tasks: in all.
        seconds: how long a task takes, on average.
        spread: "fixed", "exponential" or "heavy" (log-normal, sigma 1).
        keys: so many functions take turns.
        burst: tasks a burst; 0: the queue never runs dry.
        gap: seconds from the last task's end to the next burst.
        join_seconds: from a launch to the worker's first task; each takes between half and one and a half of it.
        idle_timeout: of the workers, or None.
        frame: tasks that the client submits at once, at most.
        pace: seconds between these frames within a burst; each has between one and `frame` tasks then.
        seed: of the random numbers.
    """

    workers: int = 100
    tasks: int = 100_000
    seconds: float = 0.01
    spread: str = "exponential"
    keys: int = 1
    burst: int = 0
    gap: float = 0.0
    join_seconds: float = 0.3
    idle_timeout: float | None = None
    frame: int = 100
    pace: float = 0.0
    seed: int = 1


@dataclass
class Result:
    """What came of it."""

    workers: int = 0
    tasks: int = 0
    core_seconds: float = 0.0
    seconds: float = 0.0
    simulated_seconds: float = 0.0
    frames: int = 0
    calls: int = 0
    ticks: int = 0
    recalls: int = 0
    launches: int = 0
    relaunches: int = 0
    left: int = 0
    workers_peak: int = 0

    @property
    def core_tasks_per_second(self) -> float:
        """Tasks per second of the core's own time."""
        return self.tasks / self.core_seconds

    @property
    def core_microseconds(self) -> float:
        """The core's time per task."""
        return self.core_seconds / self.tasks * 1e6


class Group:
    """Tasks whose outcomes a worker sends in one frame."""

    __slots__ = ("ends", "flush_at", "is_void", "seconds", "starts", "tasks")

    def __init__(self) -> None:
        self.tasks: list[tuple[Task, int]] = []
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.seconds: list[float] = []
        self.flush_at = NEVER
        self.is_void = False


class SimulatedWorker:
    """One worker, and what recruiter.py looks at of its connection."""

    def __init__(self, name: str) -> None:
        self.worker = Worker(name)
        self.is_ready = False
        self.exit = None
        self.killed_because = ""
        self.groups: deque[Group] = deque()
        self.started = 0  # by the plan; a recall takes back what lies in the future
        self.free_at = 0.0
        self.idle_since = 0.0
        self.is_told_to_go = False
        self.is_asking = False


class Simulation:
    """The port of the scheduler, and the shell around it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.result = Result(settings.workers)
        self.now = 0.0
        self.scheduler = Scheduler(self, settings.workers)
        self.fakes: dict[str, SimulatedWorker] = {}
        rules = ScalingRules(settings.workers, idle_timeout=settings.idle_timeout)
        self.recruiter = Recruiter("simulated", rules, self.scheduler, self.fakes, Stock())  # type: ignore[arg-type]
        self._random = random.Random(settings.seed)
        self._draw = self._make_draw()
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._effects: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._submitted = self._in_burst = self._finished = 0
        self._turn_at = NEVER
        self.after_call: Callable[[], None] | None = None

    def _make_draw(self) -> Callable[[], float]:
        mean, spread, dice = self.settings.seconds, self.settings.spread, self._random
        if spread == "fixed":
            return lambda: mean
        if spread == "exponential":
            return lambda: dice.expovariate(1.0) * mean
        return lambda: dice.lognormvariate(-0.5, 1.0) * mean

    # ------------------------------------------------------------------ the port: notes

    def send(self, worker: Worker, tasks: list[Task]) -> None:
        """Note a frame."""
        self._effects.append((self._receive, (worker, [(task, task.attempt) for task in tasks])))

    def dismiss(self, worker: Worker) -> None:
        """Note the word to go."""
        self._effects.append((self._told_to_go, (worker,)))

    def recall(self, worker: Worker) -> None:
        """Note a recall."""
        self._effects.append((self._recall, (worker,)))

    def finish(self, worker: Worker, finished: list[tuple[Task, Outcome]]) -> None:
        """Count finished tasks."""
        self._finished += len(finished)

    def crash(self, task: Task, worker: Worker) -> None:
        """Never: nobody dies here."""
        raise AssertionError(f"{task} of {worker}: nobody dies in this world")

    def retry(self, task: Task, worker: Worker, outcome: Outcome | None) -> None:
        """Never: nothing fails here."""
        raise AssertionError(f"{task} of {worker}: nothing fails in this world ({outcome})")

    def unsend(self, task: Task) -> bool:
        """Nothing to do: the plan was cut already."""
        return True

    def cut(self, task: Task, number: int) -> Task:
        """Never called: no task here has several items."""
        raise NotImplementedError(f"{task} was to be cut after {number} items")

    # ------------------------------------------------------------------ running

    def run(self) -> Result:
        """Simulate until all tasks are done."""
        begun = time.perf_counter()
        self._feed()
        while self._finished < self.settings.tasks:
            if not self._events:
                raise AssertionError(f"nothing will happen any more, and {self._finished} tasks are done")
            self.now, _number, function, arguments = heapq.heappop(self._events)
            function(*arguments)
        result = self.result
        result.seconds = time.perf_counter() - begun
        result.simulated_seconds = self.now
        result.tasks = self._finished
        return result

    def _at(self, when: float, function: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, function, arguments))

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        begun = time.perf_counter()
        answer = method(*arguments)
        self.result.core_seconds += time.perf_counter() - begun
        self.result.calls += 1
        if self.after_call is not None:
            self.after_call()
        while self._effects:
            effects, self._effects = self._effects, []
            for function, details in effects:
                function(*details)
        return answer

    # ------------------------------------------------------------------ the client

    def _feed(self) -> None:
        """Submit: a whole burst, or as much as keeps the queue filled."""
        settings = self.settings
        backlog = settings.burst or max(1_000, 2 * settings.workers)
        while self._submitted < settings.tasks and (
            self._in_burst < backlog if settings.burst else self.scheduler.queue.living < backlog
        ):
            frame = min(settings.frame, settings.tasks - self._submitted, (settings.burst or NEVER) - self._in_burst)
            if settings.pace:
                frame = min(frame, self._random.randint(1, settings.frame))
            first, keys = self._submitted + 1, settings.keys
            tasks = [Task(number, number % keys, PAYLOAD) for number in range(first, first + int(frame))]
            self._submitted += len(tasks)
            self._in_burst += len(tasks)
            self._call(self._submit, tasks)
            if self._is_short():
                self._turn_by(self.now)
            self._plan_tick()
            if settings.pace:
                if self._in_burst < settings.burst:
                    self._at(self.now + settings.pace, self._feed)
                return

    def _submit(self, tasks: list[Task]) -> None:
        self.scheduler.submit(tasks, self.now)
        self.recruiter.note_demand(self.now)

    def _feed_next(self) -> None:
        self._in_burst = 0
        self._feed()

    def _is_short(self) -> bool:
        return bool(self._call(self.recruiter.is_short))

    def _plan_tick(self) -> None:
        if self.scheduler.has_work_ahead and self._turn_at == NEVER:
            due = self._call(self.scheduler.next_tick)
            if due is not None:
                self._turn_by(max(due, self.now + 0.001))

    def _turn_by(self, when: float) -> None:
        if when < self._turn_at:
            self._turn_at = when
            self._at(when, self._turn)

    def _turn(self) -> None:
        """Do what the dispatcher's thread does when it wakes."""
        if self.now < self._turn_at:
            return  # another turn came first
        self._turn_at = NEVER
        self.result.ticks += 1
        self._call(self.scheduler.tick, self.now)
        if self._is_short():
            for _ in range(self._call(self.recruiter.launches, self.now)):
                self._launch()
        self._plan_tick()

    def _launch(self) -> None:
        result = self.result
        result.launches += 1
        result.relaunches += bool(result.left)
        fake = SimulatedWorker(f"w{result.launches}")
        self.fakes[fake.worker.name] = fake
        result.workers_peak = max(result.workers_peak, len(self.fakes))
        self._at(self.now + self.settings.join_seconds * (0.5 + self._random.random()), self._join, fake)

    def _join(self, fake: SimulatedWorker) -> None:
        fake.is_ready = True
        fake.free_at = fake.idle_since = self.now
        self._call(self.scheduler.worker_ready, fake.worker, self.now)
        self._plan_tick()
        self._go_idle(fake)

    # ------------------------------------------------------------------ the workers

    def _receive(self, worker: Worker, tasks: list[tuple[Task, int]]) -> None:
        """Plan when the tasks of a frame start and end, and when their outcomes are sent."""
        fake = self.fakes[worker.name]
        at = flushed_at = max(fake.free_at, self.now + LATENCY)
        group = Group()
        self.result.frames += 1
        for task, attempt in tasks:
            if group.tasks and task.estimate > FLUSH_SECONDS:
                self._flush(fake, group, at)
                group, flushed_at = Group(), at
            seconds = self._draw()
            group.tasks.append((task, attempt))
            group.starts.append(at)
            at += seconds + OVERHEAD
            group.ends.append(at)
            group.seconds.append(seconds)
            if at - flushed_at > FLUSH_SECONDS:
                self._flush(fake, group, at)
                group, flushed_at = Group(), at
        if group.tasks:
            self._flush(fake, group, at)
        fake.free_at = at

    def _flush(self, fake: SimulatedWorker, group: Group, when: float) -> None:
        group.flush_at = when
        fake.groups.append(group)
        self._at(when + LATENCY, self._deliver, fake, group)

    def _deliver(self, fake: SimulatedWorker, group: Group) -> None:
        if group.is_void:
            return
        fake.groups.popleft()
        self._report(fake, group.tasks, group.seconds, group.flush_at)

    def _report(
        self, fake: SimulatedWorker, tasks: list[tuple[Task, int]], seconds: list[float], sent_at: float
    ) -> None:
        outcomes = [
            Outcome(task.task_id, attempt, 0, (PAYLOAD,), 0.0, took, took, 0)
            for (task, attempt), took in zip(tasks, seconds, strict=True)
        ]
        self._call(self._outcomes, fake.worker, outcomes, sent_at)
        self._plan_tick()
        if self.settings.burst:
            is_burst_over = self._in_burst >= self.settings.burst
            if is_burst_over and self._finished == self._submitted < self.settings.tasks:
                self._at(self.now + self.settings.gap, self._feed_next)
        elif self.scheduler.queue.living < self.settings.workers:
            self._feed()
        self._go_idle(fake)

    def _outcomes(self, worker: Worker, outcomes: list[Outcome], sent_at: float) -> None:
        self.scheduler.horizon.observe(self.now - sent_at)
        self.scheduler.outcomes(worker, outcomes, self.now)

    def _recall(self, worker: Worker) -> None:
        """Take back what has not started by now, then deliver what is finished and not sent."""
        fake, now = self.fakes[worker.name], self.now
        self.result.recalls += 1
        kept, done = 0, Group()
        groups, fake.groups = fake.groups, deque()
        fake.free_at = now
        for group in groups:
            if group.flush_at <= now:  # on its way
                kept = group.tasks[-1][0].ordinal
                fake.groups.append(group)
                continue
            group.is_void = True
            for number, start in enumerate(group.starts):
                if start > now:
                    break
                kept = group.tasks[number][0].ordinal
                part = Group() if group.ends[number] > now else done
                part.tasks.append(group.tasks[number])
                part.seconds.append(group.seconds[number])
                part.starts.append(start)
                part.ends.append(group.ends[number])
                if part is not done:
                    fake.free_at = group.ends[number]
                    self._flush(fake, part, fake.free_at)
        self._call(self.scheduler.recalled, worker, kept, now)
        if done.tasks:
            self._report(fake, done.tasks, done.seconds, now)

    def _go_idle(self, fake: SimulatedWorker) -> None:
        if fake.worker.held:
            return
        fake.idle_since = self.now
        if fake.is_told_to_go:
            self._leave(fake)
        elif self.settings.idle_timeout is not None and not fake.is_asking:
            fake.is_asking = True
            self._at(self.now + self.settings.idle_timeout, self._ask_to_leave, fake)

    def _ask_to_leave(self, fake: SimulatedWorker) -> None:
        """The worker's own clock: it has had nothing to do for idle_timeout, or else looks again later."""
        timeout = self.settings.idle_timeout
        if timeout is None or fake.is_told_to_go:
            return
        if fake.worker.held:
            fake.is_asking = False
            return
        if self.now - fake.idle_since >= timeout * 0.999:
            fake.idle_since = self.now
            self._call(self._let_leave, fake)
        if not fake.is_told_to_go:
            self._at(fake.idle_since + timeout, self._ask_to_leave, fake)

    def _let_leave(self, fake: SimulatedWorker) -> None:
        if self.recruiter.may_leave(self.now):
            self.scheduler.leave_requested(fake.worker)

    def _told_to_go(self, worker: Worker) -> None:
        fake = self.fakes[worker.name]
        fake.is_told_to_go = True
        if not worker.held:
            self._leave(fake)

    def _leave(self, fake: SimulatedWorker) -> None:
        if self.fakes.pop(fake.worker.name, None) is None:
            return
        self.result.left += 1
        self._call(self.scheduler.worker_lost, fake.worker, fake.worker.ordinal, self.now)
