"""Workers in the cluster of a Dask that is up already: each agent is a task there, and a process beside a Dask worker.

The task is a coroutine: it takes one of its Dask worker's slots and none of its threads. It ends its agent when nobody
wants the task any more, which is so when it is cancelled and when its client is gone. Tasks and what they need travel
by value, and the invitation inside of them: what Dask logs of a task that fails are its function's name and arguments.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import LaunchError
from .base import Job, JobState, JobStatus, Launcher
from .hosted import agent_process_class, of_each_worker

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy import Cluster

CONNECT_SECONDS = 10
LOOK_SECONDS = 0.1
"""Between two looks of a task at its agent, which cost nothing but the time of a loop."""
_ENDED = {"finished": "its agent has ended", "cancelled": "it was cancelled", "lost": "Dask has lost it"}


class DaskLauncher(Launcher):
    """Start workers in a Dask cluster.

    Args:
        client: who knows the cluster: a distributed.Client or Cluster, not asynchronous; the scheduler's address;
            or None: the client that this process has. The launcher has a connection of its own.
        resources: that each agent takes of its Dask worker: {"GPU": 1}; besides a slot (one of its nthreads). The
            agent's workers share them evenly, for options(resources=...).
        workers: names or addresses of the Dask workers that agents may run at; None: all.
        priority: of the agents among the cluster's tasks; those with more come first.
        **more: as for Launcher: workers_per_job, host, port, ship, lost_after, ...; python=None: the interpreter of the
            Dask worker.
    """

    poll_seconds = (0.2, 2.0)  # Dask tells by itself: nobody is asked

    def __init__(
        self,
        client: Client | Cluster | str | None = None,
        *,
        resources: Mapping[str, float] | None = None,
        workers: str | Sequence[str] | None = None,
        priority: int = 0,
        **more: Any,
    ) -> None:
        if getattr(client, "asynchronous", False):
            raise ValueError(
                "client is asynchronous: launchers work in a thread, without its loop. Give the scheduler's address"
            )
        super().__init__(**more)
        self.resources = of_each_worker(resources, self.workers_per_job)
        self.client = client
        self._has_python = more.get("python") is not None
        self._options = {"resources": resources, "workers": workers, "priority": priority, "pure": False, "retries": 0}
        self._own: Any = None  # a Client
        self._stop_loop: Callable[[], None]
        self._tasks: dict[str, _Task] = {}  # by name

    def check(self) -> None:
        """Connect; raise LaunchError if distributed is not installed, or the scheduler cannot be reached."""
        try:
            import distributed
        except ImportError as error:
            raise LaunchError(f"DaskLauncher needs distributed: pip install crew-executor[dask] ({error})") from error
        # A loop of its own: that which a client makes stays when it cannot connect.
        runner = distributed.utils.LoopRunner()
        runner.start()
        try:
            client = distributed.default_client() if self.client is None else self.client
            if isinstance(client, distributed.Client):
                address = client.scheduler.address
            else:
                address = getattr(client, "scheduler_address", client)
            self._own = distributed.Client(
                address, timeout=CONNECT_SECONDS, name="crew", set_as_default=False, loop=runner.loop,
                security=getattr(client, "security", None),
            )  # fmt: skip
        except (OSError, ValueError, AttributeError) as error:
            runner.loop.add_callback(runner.loop.stop)
            raise LaunchError(f"the Dask scheduler of {self.client!r} cannot be reached: {error}") from error
        self._stop_loop = runner.stop

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:  # noqa: ARG002  one at a time
        """Submit a task that runs an agent."""
        command = job.command()
        run = _coroutine_of(job.name, command[1:], command[0] if self._has_python else None, job.invitation)
        self._tasks = {name: task for name, task in self._tasks.items() if not task.future.done()}
        self._tasks[job.name] = task = _Task(job.name)
        self._own.subscribe_topic(job.name, partial(self._begun, task))
        task.future = self._own.submit(run, key=job.name, **self._options)
        return [task]

    async def _begun(self, task: _Task, event: tuple[float, Mapping[str, str]]) -> None:
        """Note at which Dask worker a task runs: when that is gone Dask would run it again, elsewhere."""
        if not task.worker:
            task.worker = event[1]["worker"]
            self._own.subscribe_topic(task.worker, partial(self._told_of, task.worker))

    async def _told_of(self, worker: str, event: tuple[float, Mapping[str, str]]) -> None:
        """Give up the tasks of a Dask worker that is gone."""
        if event[1].get("action") == "remove-worker":
            for task in list(self._tasks.values()):
                if task.worker == worker and not task.future.done():
                    task.is_lost = True
                    await task.future.cancel(force=True)

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Say how tasks stand, as Dask has told."""
        return {task: task.status() for task in handles if isinstance(task, _Task)}

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Cancel tasks; a Dask worker that is out of reach is not waited for."""
        for task in handles:
            assert isinstance(task, _Task)
            task.future.cancel(force=True)

    def explain(self, handle: Hashable) -> str:
        """Return how the task stands; that of an agent that has failed says how, and its last words."""
        assert isinstance(handle, _Task)
        return f"Dask task {handle.name}: {handle.status().words}"

    def describe(self) -> str:
        """Return the cluster."""
        return f"started by tasks of Dask, {self._own or self.client}"

    def close(self) -> None:
        """Leave no task in the cluster."""
        if self._own is not None:
            self._own.cancel([task.future for task in self._tasks.values()], force=True)
            self._own.close()
            self._own = None
            self._stop_loop()
        self._tasks.clear()


class _Task:
    """A handle: a task, as far as Dask has told of it."""

    def __init__(self, name: str) -> None:
        self.name = name
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
        return JobStatus(JobState.ENDED, _ENDED.get(status, status))


def _coroutine_of(
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
