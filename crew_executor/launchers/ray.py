"""Workers in a Ray cluster: each agent is the process of an actor, with the resources that this is given.

An actor starts its agent, and waits for its end. It is not detached, so Ray ends it with its client, and the agent with
it. Actors, and what they need, travel by value: Ray's workers may be of another environment than their agents.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ..errors import LaunchError
from .base import Job, JobStatus, Launcher
from .hosted import LongWait, check_answers, of_each_worker, unmet
from .ray_actor import RayActor, actor_class


class RayLauncher(Launcher):
    """Start workers as actors of Ray.

    Args:
        num_cpus: that Ray counts for each agent; None: workers_per_job.
        num_gpus: the same of GPUs; its workers share evenly what CUDA_VISIBLE_DEVICES is for the actor.
        resources: the same of others: {"TPU": 1}; its workers share them evenly, for options(resources=...).
        runtime_env: the actors', and so their agents': {"pip": [...]}; see Ray.
        address: of the cluster, if this process is not connected to one: as for ray.init(), so None is RAY_ADDRESS, or
            a new one on this machine. close() disconnects what the launcher has connected.
        **more: as for Launcher: workers_per_job, host, port, ship, lost_after, ...; python=None: the interpreter of
            Ray's worker there.
    """

    poll_seconds = (0.2, 2.0)  # what has ended is known here: nobody is asked

    def __init__(
        self,
        *,
        num_cpus: float | None = None,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        address: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.resources = of_each_worker(resources, self.workers_per_job)
        self.gpus = num_gpus or None
        self.address = address
        self._has_python = more.get("python") is not None
        self._options: dict[str, Any] = {
            "num_cpus": self.workers_per_job if num_cpus is None else num_cpus, "num_gpus": num_gpus,
            "resources": dict(resources or {}), "max_restarts": 0, "max_task_retries": 0,
        }  # fmt: skip
        if runtime_env is not None:
            self._options["runtime_env"] = dict(runtime_env)
        self._has_connected = False
        self._class: Any = None
        self._actors: dict[str, RayActor] = {}  # by name
        self._long_wait = LongWait()

    def check(self) -> None:
        """Connect, unless this process is; raise LaunchError if Ray is not installed, or its cluster out of reach."""
        try:
            import ray
        except ImportError as error:
            raise LaunchError(f"RayLauncher needs ray: pip install crew-executor[ray] ({error})") from error
        if not ray.is_initialized():
            ray_logger = logging.getLogger("ray._private.worker")
            ray_logger.addFilter(_is_news)
            try:
                check_answers(self.address)  # ray.init() would try it for minutes
                ray.init(address=self.address, log_to_driver=False, configure_logging=False)
            except (OSError, RuntimeError, ValueError) as error:
                raise LaunchError(f"Ray's cluster at {self.address!r} cannot be reached: {error}") from error
            finally:
                ray_logger.removeFilter(_is_news)
            self._has_connected = True
        self._class = ray.remote(actor_class())

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:  # noqa: ARG002  one at a time
        """Create an actor; it comes when there are resources for it."""
        command = job.command()
        try:
            actor = self._class.options(**self._options).remote(
                command[1:], command[0] if self._has_python else None, job.invitation
            )
            self._actors[job.name] = handle = RayActor(job.name, actor, self._options)
        except (ValueError, TypeError) as error:
            raise LaunchError(f"Ray refuses an actor with {self._options}: {error}") from error
        return [handle]

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Say whose actor has come, or is gone."""
        statuses: dict[Hashable, JobStatus] = {each: each.status() for each in handles if isinstance(each, RayActor)}
        self._long_wait.look(statuses, self._lack)
        return statuses

    def _lack(self) -> str:
        """Return what no node of the cluster has, or ""."""
        import ray

        wanted = {"CPU": self._options["num_cpus"], "GPU": self._options["num_gpus"], **self._options["resources"]}
        lack = unmet(wanted, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        return lack and f"no node has {lack}; see num_cpus=, workers_per_job=, num_gpus=, resources="

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Kill actors, and so their agents."""
        for actor in handles:
            assert isinstance(actor, RayActor)
            actor.kill()
            self._actors.pop(actor.name, None)

    def explain(self, handle: Hashable) -> str:
        """Return how the actor stands; of an agent that has failed, its last words."""
        assert isinstance(handle, RayActor)
        return f"Ray actor {handle.name}: {handle.status().words}"

    def describe(self) -> str:
        """Return what each actor asks for."""
        return f"started by actors of Ray, with {self._options}"

    def close(self) -> None:
        """Leave no actor in the cluster; disconnect, if that is the launcher's own connection."""
        for actor in self._actors.values():
            actor.kill()
        self._actors.clear()
        if self._has_connected:
            import ray

            self._has_connected = False
            ray.shutdown()


def _is_news(record: logging.LogRecord) -> bool:
    """Answer whether a record of Ray's is more than that this thread, which is a launcher's, can handle no signals."""
    return "SIGTERM handler is not set" not in record.getMessage()
