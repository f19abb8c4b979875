"""The fixtures of the integration tests: a test that leaves a process, thread or descriptor behind fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import joblib
import pytest
import uvloop
from integration import conftest
from integration.conftest import _no_leaks, _warm_up
from joblib.externals.loky.backend import resource_tracker

import crew_executor.joblib
from crew_executor import CrewExecutor

from .helpers import WORKERS

__all__ = ["_no_leaks", "_warm_up"]


@pytest.fixture(scope="session", autouse=True)
def _warm_up_uvloop() -> None:
    """Let libuv open the two descriptors that it keeps, so that no test is blamed for them."""
    asyncio.run(asyncio.sleep(0), loop_factory=uvloop.new_event_loop)


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    """A pool of two workers, for one test."""
    with CrewExecutor(WORKERS) as made:
        yield made


@pytest.fixture(scope="session", autouse=True)
def _warm_up_joblib() -> None:
    """Let joblib start the process that it starts with the first large array."""
    resource_tracker.ensure_running()
    conftest.lasting.add(resource_tracker._resource_tracker._pid)


@pytest.fixture
def crew_backend(_no_leaks: None) -> Iterator[None]:
    """Make "crew" joblib's backend, for one test."""
    crew_executor.joblib.register()
    with joblib.parallel_config(backend="crew"):
        yield
    crew_executor.joblib.shutdown()


@pytest.fixture
def pool() -> Iterator[CrewExecutor]:
    """A pool of three workers, for one test."""
    with CrewExecutor(3) as made:
        yield made
