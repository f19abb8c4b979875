"""Shared by the tests of clients."""

from __future__ import annotations

from crew_executor import CrewExecutor

WORKERS = 2


def workers_of(executor: CrewExecutor) -> set[int]:
    """Return the pids of the workers that are there."""
    return {worker.pid for worker in executor.stats().workers}
