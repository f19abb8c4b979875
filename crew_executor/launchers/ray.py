"""Workers in a Ray cluster: each agent is the process of an actor, with the resources that this is given.

An actor starts its agent, and waits for its end. It is not detached, so Ray ends it with its client, and the agent with
it. Actors, and what they need, travel by value: Ray's workers may be of another environment than their agents.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ..errors import LaunchError
from .base import Job, JobState, JobStatus, Launcher
from .hosted import agent_process_class, of_each_worker

TOLD_SECONDS = 5.0
"""How long explain() waits for what Ray has to fetch."""


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
        self._actors: dict[str, _Actor] = {}  # by name

    def check(self) -> None:
        """Connect, unless this process is; raise LaunchError if Ray is not installed, or its cluster out of reach."""
        try:
            import ray
        except ImportError as error:
            raise LaunchError(f"RayLauncher needs ray: pip install crew-executor[ray] ({error})") from error
        if not ray.is_initialized():
            try:
                ray.init(address=self.address, log_to_driver=False, configure_logging=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise LaunchError(f"Ray's cluster at {self.address!r} cannot be reached: {error}") from error
            self._has_connected = True
        self._class = ray.remote(_actor_class())

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:  # noqa: ARG002  one at a time
        """Create an actor; it comes when there are resources for it."""
        command = job.command()
        try:
            actor = self._class.options(**self._options).remote(
                command[1:], command[0] if self._has_python else None, job.invitation
            )
            self._actors[job.name] = handle = _Actor(job.name, actor, self._options)
        except (ValueError, TypeError) as error:
            raise LaunchError(f"Ray refuses an actor with {self._options}: {error}") from error
        return [handle]

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Say whose actor has come, or is gone."""
        return {actor: actor.status() for actor in handles if isinstance(actor, _Actor)}

    def cancel(self, handles: Sequence[Hashable]) -> None:
        """Kill actors, and so their agents."""
        for actor in handles:
            assert isinstance(actor, _Actor)
            actor.kill()
            self._actors.pop(actor.name, None)

    def explain(self, handle: Hashable) -> str:
        """Return how the actor stands; of an agent that has failed, its last words."""
        assert isinstance(handle, _Actor)
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


class _Actor:
    """A handle: an actor that runs an agent."""

    def __init__(self, name: str, actor: Any, options: Mapping[str, Any]) -> None:
        self.name = name
        self._actor = actor
        self._wanted = {key: value for key, value in options.items() if value and not key.startswith("max_")}
        self._place = actor.place.remote()
        self._end = actor.wait.remote()
        self._ended: JobStatus | None = None

    def __str__(self) -> str:
        return self.name

    def status(self) -> JobStatus:
        """Return how it stands; an actor whose agent has failed is not needed any more."""
        import ray

        if self._ended is not None:
            return self._ended
        if not ray.wait([self._end], timeout=0)[0]:
            if not ray.wait([self._place], timeout=0)[0]:
                return JobStatus(JobState.PENDING, f"it waits until Ray's cluster has {self._wanted} free")
            return JobStatus(JobState.RUNNING, f"it runs at {ray.get(self._place)}")
        try:
            words, is_taken_away = ray.get(self._end, timeout=TOLD_SECONDS), False
        except ray.exceptions.RayError as error:
            words = f"{type(error).__name__}: {error}"
            is_taken_away = "node" in str(error).lower() and "died" in str(error).lower()
        self.kill()
        self._ended = JobStatus(JobState.ENDED, words, is_taken_away)
        return self._ended

    def kill(self) -> None:
        """End it."""
        import ray

        ray.kill(self._actor)


def _actor_class() -> Any:
    """Return the class of actors. It travels by value."""
    process_class = agent_process_class()

    class CrewAgent:
        def __init__(self, arguments: Sequence[str], python: str | None, invitation: bytes) -> None:
            self.agent = process_class(arguments, python, invitation)

        def place(self) -> str:
            import socket

            return f"{socket.gethostname()}, process {self.agent.process.pid}"

        def wait(self) -> str:
            import ray

            self.agent.process.wait()
            code, words = self.agent.end()
            if not code:
                ray.actor.exit_actor()  # gives its resources back: nobody will ask for more of it
            return str(words)

    return CrewAgent
