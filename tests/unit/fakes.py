"""What the tests of the core share: a port that notes, makers of tasks and outcomes, and hypothesis settings."""

from __future__ import annotations

import gc
import os
import sys
from collections import deque
from collections.abc import Callable
from copy import copy
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, settings

from crew_executor.core.budget import Budget
from crew_executor.core.messages import Outcome, OutcomeFlag
from crew_executor.core.scheduler import Scheduler
from crew_executor.core.task import Task
from crew_executor.core.taskqueue import TaskQueue
from crew_executor.core.worker import Worker

RETRYABLE = OutcomeFlag.ERROR | OutcomeFlag.REPORT | OutcomeFlag.RETRYABLE
"""The flags of an error that the worker found in `retry_on`."""
IS_THOROUGH = os.environ.get("CREW_EXECUTOR_HYPOTHESIS") == "thorough"


def hypothesis_settings(*, examples: int, steps: int = 50) -> settings:
    """Return settings for the quick tier; CREW_EXECUTOR_HYPOTHESIS=thorough: ten times as much, new each run."""
    return settings(
        max_examples=examples * 10 if IS_THOROUGH else examples,
        stateful_step_count=steps * 2 if IS_THOROUGH else steps,
        derandomize=not IS_THOROUGH,
        deadline=None,
        database=None,
        # Shrinking a failing run takes a minute; the quick tier only has to say that something is wrong.
        phases=(Phase.explicit, Phase.generate, Phase.shrink) if IS_THOROUGH else (Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


def interrupt_at(moment: int, call: Callable[[], object]) -> None:
    """Make a call with a Ctrl-C at its moment-th place, from 0, where CPython looks for signals, if it has so many.

    Without the garbage collector: hypothesis measures it by a function that it calls, which would count as a place.
    """
    left = moment
    is_collecting = gc.isenabled()

    def interrupt(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal left
        if event in ("call", "c_return"):
            left -= 1
            if left < -1:  # the first is the start of what was passed
                sys.setprofile(None)
                raise KeyboardInterrupt

    try:
        gc.disable()
        sys.setprofile(interrupt)
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
        if is_collecting:
            gc.enable()


class FakePort:
    """Note each effect as a tuple, tasks and workers by name, so that a test compares plain lists."""

    def __init__(self) -> None:
        self.effects: list[tuple[Any, ...]] = []

    def send(self, worker: Worker, tasks: list[Task]) -> None:
        self.effects.append(("send", worker.name, [task.task_id for task in tasks]))

    def dismiss(self, worker: Worker) -> None:
        self.effects.append(("dismiss", worker.name))

    def recall(self, worker: Worker) -> None:
        self.effects.append(("recall", worker.name))

    def finish(self, worker: Worker, finished: list[tuple[Task, Outcome]]) -> None:
        self.effects += [("finish", task.task_id, worker.name) for task, _outcome in finished]

    def crash(self, task: Task, worker: Worker) -> None:
        self.effects.append(("crash", task.task_id, worker.name))

    def retry(self, task: Task, worker: Worker, outcome: Outcome | None) -> None:
        why = "lost" if outcome is None else "failed"
        self.effects.append(("retry", task.task_id, worker.name, why, task.attempt))

    def unsend(self, task: Task) -> bool:
        self.effects.append(("unsend", task.task_id))
        return True


class GuardedQueue(TaskQueue):
    """A queue that raises when the scheduler asks it over and over within one call: a loop without end."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def front(self) -> deque[Task] | None:
        self.asked += 1
        if self.asked > 20_000:
            raise AssertionError("the scheduler turns in circles")
        return super().front()


class Bench:
    """A scheduler with a noting port, and the moves that most tests need in one word each."""

    def __init__(self) -> None:
        self.port = FakePort()
        self.scheduler = Scheduler(self.port, 1000)
        self.scheduler.queue = GuardedQueue()
        self.tasks: dict[int, Task] = {}

    def teach(self, key: str, seconds: float) -> None:
        """Make `key` a function that reliably takes `seconds`."""
        for _ in range(60):
            self.scheduler.estimates.observe(key, seconds)

    def submit(
        self,
        count: int = 1,
        *,
        key: str = "f",
        size: int = 10,
        priority: int = 0,
        budget: Budget | None = None,
        now: float = 0.0,
    ) -> list[Task]:
        """Submit `count` tasks, each with a budget like the given one; their ids go on from the last one, from 1."""
        made = []
        for _ in range(count):
            own = None if budget is None else copy(budget)
            task = Task(len(self.tasks) + 1, key, bytes(size), priority=priority, budget=own)
            self.tasks[task.task_id] = task
            made.append(task)
            self.scheduler.submit([task], now)
        return made

    def join(self, name: str, *, tasks_max: int | None = None, now: float = 0.0) -> Worker:
        """Let a new worker join."""
        worker = Worker(name, tasks_max=tasks_max)
        self.scheduler.worker_ready(worker, now)
        return worker

    def answer(
        self,
        worker: Worker,
        *task_ids: int,
        attempt: int = 1,
        seconds: float = 0.0,
        is_retryable: bool = False,
        now: float = 0.0,
    ) -> None:
        """Deliver one frame of outcomes; retryable ones are errors that the worker found in `retry_on`."""
        flags = RETRYABLE if is_retryable else 0
        outcomes = [make_outcome(task_id, attempt, seconds=seconds, flags=flags) for task_id in task_ids]
        self.scheduler.outcomes(worker, outcomes, now)

    def take(self) -> list[tuple[Any, ...]]:
        """Return the effects since the last call."""
        effects, self.port.effects = self.port.effects, []
        return effects


def make_outcome(
    task_id: int, attempt: int = 1, *, seconds: float = 0.0, flags: int = 0, parts: tuple[bytes, ...] = (b"result",)
) -> Outcome:
    """Return an outcome with plain values where a test does not care."""
    return Outcome(
        task_id, attempt, flags, parts, started=1_700_000_000.0, seconds=seconds, cpu_seconds=seconds, max_rss=0
    )
