"""What RayLauncher starts: the actors of Ray that run agents, as seen from here and there. Creates none itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import JobState, JobStatus
from .hosted import agent_process_class

TOLD_SECONDS = 5.0
"""How long status() waits for what Ray has to fetch."""


class RayActor:
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
            return JobStatus(JobState.RUNNING, f"it runs at {self._where()}")
        try:
            words, is_taken_away = ray.get(self._end, timeout=TOLD_SECONDS), False
        except ray.exceptions.RayError as error:
            if type(error).__name__ == "ActorUnavailableError":  # which not every Ray has
                self._end = self._actor.wait.remote()  # asked anew: it lives, or Ray will say that it does not
                return JobStatus(JobState.RUNNING, f"Ray does not reach it now: {error}")
            words = f"{type(error).__name__}: {error}"
            is_taken_away = "node" in str(error).lower() and "died" in str(error).lower()
        self.kill()
        self._ended = JobStatus(JobState.ENDED, words, is_taken_away)
        return self._ended

    def _where(self) -> str:
        import ray

        try:
            return str(ray.get(self._place, timeout=TOLD_SECONDS))
        except ray.exceptions.RayError:
            return "a place that Ray could not tell"

    def kill(self) -> None:
        """End it."""
        import ray

        ray.kill(self._actor)


def actor_class() -> Any:
    """Return the class of actors. It travels by value."""
    process_class = agent_process_class()

    class CrewAgent:
        def __init__(self, arguments: Sequence[str], python: str | None, invitation: bytes) -> None:
            self.agent = process_class(arguments, python, invitation)
            self.end: tuple[int, str] | None = None

        def place(self) -> str:
            import socket

            return f"{socket.gethostname()}, process {self.agent.process.pid}"

        def wait(self) -> str:
            import ray

            self.agent.process.wait()
            self.end = self.end or self.agent.end()  # asked for twice, if Ray did not reach it once
            code, words = self.end
            if not code:
                ray.actor.exit_actor()  # gives its resources back: nobody will ask for more of it
            return str(words)

    return CrewAgent
