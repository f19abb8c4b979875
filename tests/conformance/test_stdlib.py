"""Runs the standard library's tests of concurrent.futures against CrewExecutor, on interpreters that have them.

The classes are made here: each behaviour that the standard library tests on a pool of processes, joined with
CrewExecutor as most people build it and with mp_context="spawn". What differs on purpose is in differences.py.
"""

from __future__ import annotations

import logging
import multiprocessing.util
from collections.abc import Iterator
from typing import Any

import pytest

from crew_executor import CrewExecutor

from . import evidence, stdlib

try:
    stdlib.modules()
except stdlib.StdlibTestsMissingError as error:
    if evidence.is_required():
        raise
    pytest.skip(str(error), allow_module_level=True)

from .adapter import ADAPTERS, crew_futures, join, put_in_place

pytestmark = pytest.mark.conformance

for adapter in ADAPTERS:
    for behaviour in stdlib.behaviours().values():
        case = join(behaviour, adapter, __name__)
        globals()[case.__name__] = case
del case  # pytest would collect the last class a second time under this name


@pytest.fixture(scope="module", autouse=True)
def helpers_of_the_process() -> Iterator[None]:
    """Start what a process has once, before threads are counted; end what multiprocessing has, as the stdlib does."""
    with CrewExecutor(max_workers=1) as executor:
        assert executor.submit(abs, -1).result() == 1
    yield
    end_helpers: Any = vars(multiprocessing.util)["_cleanup_tests"]
    end_helpers()


class CrewFutureTests(stdlib.lookup("FutureTests")):  # type: ignore[misc]  # found at run time
    """What the standard library asks of a Future, asked of CrewFuture."""

    is_conformance_case = True

    def setUp(self) -> None:
        ours = crew_futures()
        ours.__enter__()
        self.addCleanup(ours.__exit__, None, None, None)
        # The tests read the log of failing callbacks from stderr, where it goes unless a handler, pytest's, takes it.
        logger = logging.getLogger("concurrent.futures")
        self.addCleanup(setattr, logger, "propagate", logger.propagate)
        logger.propagate = False
        super().setUp()


if "FailingInitializerResourcesTest" in stdlib.concrete_cases():

    class CrewFailingInitializerResourcesTests(stdlib.lookup("FailingInitializerResourcesTest")):  # type: ignore[misc]
        """A pool that breaks at its initializer leaks no semaphore."""

        is_conformance_case = True

        def _test(self, stdlib_case: type) -> None:
            prefix = "Spawn" if "Spawn" in stdlib_case.__name__ else ""
            super()._test(globals()[f"{prefix}CrewFailingInitializer"])


if "PoolExecutorTest" in stdlib.concrete_cases():

    class CrewPoolExecutorTests(stdlib.lookup("PoolExecutorTest")):  # type: ignore[misc]
        """map's buffersize, on any pool."""

        is_conformance_case = True

        def setUp(self) -> None:
            put_in_place(self, CrewExecutor)
            super().setUp()
