"""Workers in the cluster of a Dask that is up already: each agent is a task there, and a process beside a Dask worker.

The task is a coroutine: it takes one of its Dask worker's slots and none of its threads. It ends its agent when nobody
wants the task any more, which is so when it is cancelled and when its client is gone. Tasks and what they need travel
by value, and the invitation inside of them: what Dask logs of a task that fails are its function's name and arguments.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import LaunchError
from .base import Job, JobStatus, Launcher, LaunchRetry
from .dask_task import DaskTask, check_options, coroutine_of
from .hosted import LongWait, of_each_worker, unmet

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy import Cluster

CONNECT_SECONDS, ANSWER_SECONDS = 10, 5


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
        check_options(client, priority)
        super().__init__(**more)
        self.resources = of_each_worker(resources, self.workers_per_job)
        self.client = client
        self._has_python = more.get("python") is not None
        self._options: dict[str, Any] = {
            "resources": resources, "workers": workers, "priority": priority, "pure": False, "retries": 0,
        }  # fmt: skip
        self._own: Any = None  # a Client
        self._address = ""  # the scheduler's
        self._loop: Any = None  # of its thread, by a LoopRunner
        self._tasks: dict[str, DaskTask] = {}  # by name
        self._long_wait = LongWait()

    def check(self) -> None:
        """Connect; raise LaunchError if distributed is not installed, or the scheduler cannot be reached."""
        try:
            import distributed
        except ImportError as error:
            raise LaunchError(f"DaskLauncher needs distributed: pip install crew-executor[dask] ({error})") from error
        client: Any = self.client
        try:
            client = distributed.default_client() if client is None else client
        except ValueError:
            raise LaunchError("there is no Dask client in this process: give DaskLauncher(client)") from None
        # A loop of its own: that which a client makes stays when it cannot connect.
        self._loop = distributed.utils.LoopRunner()
        self._loop.start()
        own = distributed.Client.__new__(distributed.Client)  # so that one that cannot connect is known, too
        try:
            address = client.scheduler.address if isinstance(client, distributed.Client) else client
            distributed.Client.__init__(
                own, getattr(address, "scheduler_address", address), timeout=CONNECT_SECONDS, name="crew",
                set_as_default=False, loop=self._loop.loop, security=getattr(client, "security", None),
            )  # fmt: skip
            self._address = own.scheduler.address
        except (OSError, ValueError, AttributeError) as error:
            own.status = "closed"  # or it would close itself some time, when its loop is no more
            self._loop.loop.add_callback(self._loop.loop.stop)
            raise LaunchError(f"the Dask scheduler of {self.client!r} cannot be reached: {error}") from error
        self._own = own

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:  # noqa: ARG002  one at a time
        """Submit a task that runs an agent."""
        command = job.command()
        run = coroutine_of(job.name, command[1:], command[0] if self._has_python else None, job.invitation)
        self._tasks = {name: task for name, task in self._tasks.items() if not task.future.done()}
        task = DaskTask(job.name, self._own, self._address)
        if self._own.status == "connecting":
            raise LaunchRetry(f"the Dask scheduler at {self._address} does not answer")
        try:
            self._own.subscribe_topic(job.name, partial(self._begun, task))
            task.future = self._own.submit(run, key=job.name, **self._options)
        except Exception as error:
            if self._is_connected:
                raise
            raise LaunchError(f"the Dask scheduler at {self._address} is gone ({error})") from None
        self._tasks[job.name] = task
        return [task]

    async def _begun(self, task: DaskTask, event: tuple[float, Mapping[str, str]]) -> None:
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
        statuses: dict[Hashable, JobStatus] = {task: task.status() for task in handles if isinstance(task, DaskTask)}
        self._long_wait.look(statuses, self._lack)
        return statuses

    def _lack(self) -> str:
        """Return what no Dask worker of the cluster has, or ""."""
        if not self._is_connected:
            return ""
        identity = self._own.scheduler.identity
        found = self._own.sync(identity, n_workers=-1, callback_timeout=ANSWER_SECONDS)["workers"].items()
        wanted = self._options["workers"]
        if wanted is not None:
            names = {str(name) for name in ([wanted] if isinstance(wanted, (str, int)) else wanted)}
            found = [(at, each) for at, each in found if names & {at, str(each.get("name")), str(each.get("host"))}]
        if not found:
            return f"the cluster has no Dask worker{'' if wanted is None else f' {wanted!r}'}; see workers="
        lack = unmet(self._options["resources"] or {}, [each.get("resources", {}) for _, each in found])
        return lack and f"no Dask worker that may run them has {lack}; see resources="

    @property
    def _is_connected(self) -> bool:
        return self._own is not None and self._own.status == "running"

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Cancel tasks; a Dask worker that is out of reach is not waited for, and of a scheduler nothing is wanted."""
        try:
            if self._is_connected:
                self._own.cancel([task.future for task in handles if isinstance(task, DaskTask)], force=True)
        except Exception:
            if self._is_connected:
                raise

    def explain(self, handle: Hashable) -> str:
        """Return how the task stands; that of an agent that has failed says how, and its last words."""
        assert isinstance(handle, DaskTask)
        return f"Dask task {handle.name}: {handle.status().words}"

    def describe(self) -> str:
        """Return the cluster."""
        return f"started by tasks of Dask, {self._own or self.client}"

    def close(self) -> None:
        """Leave no task in the cluster."""
        if self._own is not None:
            self.cancel(list(self._tasks.values()))
            is_gone = self._own.status == "closed"
            self._own.close()
            if is_gone:
                self._loop.loop.add_callback(self._loop.loop.stop)
            else:
                self._loop.stop()
            self._own = None
        self._tasks.clear()
