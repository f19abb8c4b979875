"""The fixtures of the integration tests: a test that leaves a process, thread or descriptor behind fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import uvloop
from integration.conftest import _no_leaks, _warm_up

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
