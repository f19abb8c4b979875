"""What DaskLauncher starts: the tasks of Dask that stand for agents, here and at a Dask worker. Submits none itself."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from numbers import Real
from typing import Any

from .base import JobState, JobStatus
from .hosted import agent_process_class

LOOK_SECONDS = 0.1
"""Between two looks of a task at its agent, which cost nothing but the time of a loop."""
_ENDED = {"finished": "its agent has ended", "cancelled": "it was cancelled", "lost": "Dask has lost it"}


def check_options(client: Any, priority: Any) -> None:
    """Raise TypeError or ValueError for what DaskLauncher cannot use."""
    if getattr(client, "asynchronous", False):
        raise ValueError(
            "client is asynchronous: launchers work in a thread, without its loop. Give the scheduler's address"
        )
    is_known = hasattr(client, "scheduler") or hasattr(client, "scheduler_address")
    if not (client is None or isinstance(client, str) or is_known):
        raise TypeError(f"client must be a Client or Cluster of distributed, or an address, not {client!r}")
    if not isinstance(priority, Real):
        raise TypeError(f"priority must be a number, not {priority!r}")
    if math.isnan(priority):
        raise ValueError(f"priority must be a number, not {priority!r}")


class DaskTask:
    """A handle: a task, as far as Dask has told of it.

    Args:
        name: the job's, which is the task's key.
        client: the launcher's own, a distributed.Client.
        address: the scheduler's.
    """

    def __init__(self, name: str, client: Any, address: str) -> None:
        self.name = name
        self._client = client
        self._address = address
        self.worker = ""
        self.is_lost = False
        self.future: Any = None

    def __str__(self) -> str:
        return self.name

    def status(self) -> JobStatus:
        """Return how it stands."""
        if self.is_lost:
            return JobStatus(JobState.ENDED, f"its Dask worker {self.worker} is gone", is_taken_away=True)
        status = self.future.status
        if status == "pending" and self.worker:
            return JobStatus(JobState.RUNNING, f"it runs at the Dask worker {self.worker}")
        if status == "pending":
            return JobStatus(JobState.PENDING, "it waits for a free slot of a Dask worker that may run it")
        if status == "error":
            error = self.future.exception()  # was sent with the news of it
            return JobStatus(JobState.ENDED, f"{type(error).__name__}: {error}", type(error).__name__ == "KilledWorker")
        if status == "cancelled" and self._client.status != "running":
            return JobStatus(JobState.ENDED, f"the Dask scheduler at {self._address} is gone")
        return JobStatus(JobState.ENDED, _ENDED.get(status, status))


def coroutine_of(
    name: str, arguments: Sequence[str], python: str | None, invitation: bytes
) -> Callable[[], Awaitable[None]]:
    """Return what runs at a Dask worker."""
    process_class = agent_process_class()
    pause = LOOK_SECONDS

    async def crew_agent() -> None:
        import asyncio

        from distributed import get_worker

        worker = get_worker()
        agent = process_class(arguments, python, invitation)
        try:
            worker.log_event(name, {"worker": worker.address})
            while agent.poll() is None:
                task = worker.state.tasks.get(name)
                if task is None or task.state == "cancelled":
                    return
                await asyncio.sleep(pause)
        finally:
            code, words = agent.end()
        if code:
            raise RuntimeError(words)

    return crew_agent
