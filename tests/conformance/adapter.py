"""Puts CrewExecutor in the place of ProcessPoolExecutor in the standard library's test classes.

Every adaptation of those tests lives here: which executor they build, the scripts they run in a fresh interpreter,
and the wrapper that makes a listed difference prove itself. What is expected of CrewExecutor is not touched.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import unittest
import unittest.mock
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import crew_executor
from crew_executor import CrewExecutor, CrewFuture

from . import stdlib
from .differences import DIFFERENCES, PREPARATIONS, Difference

# A deadlock shows as a failure within this time, before pytest's own limit; the standard library waits for 5 minutes.
SECONDS_UNTIL_DEADLOCK = 45.0


_made: weakref.WeakSet[CrewExecutor] = weakref.WeakSet()


class AnyContext(CrewExecutor):
    """CrewExecutor; known here, so that what a listed test leaves behind can be ended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _made.add(self)


class WithoutContext(AnyContext):
    """CrewExecutor as most people build it: the tests' mp_context, which they always pass, is left out."""

    def __init__(self, *args: Any, mp_context: BaseContext | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


# The tests put this name into scripts that import it.
AnyContext.__name__ = WithoutContext.__name__ = CrewExecutor.__name__


class Collector(unittest.TestCase):
    """Stands between the shutdown of the pool and the look for threads that it left.

    Python 3.10 counts objects, and an executor's hold each other in cycles: they may outlive their threads.
    """

    def tearDown(self) -> None:
        support().gc_collect()
        super().tearDown()


class Adapter(unittest.TestCase):
    """Stands before one of the standard library's pool mixins and puts our executor into it."""

    is_conformance_case = True
    # Whose get_context() gives the tests their locks, queues and managers.
    pool_mixin = "ProcessPoolForkserverMixin"
    executor_type: type[CrewExecutor] = WithoutContext
    TIMEOUT = SECONDS_UNTIL_DEADLOCK

    def setUp(self) -> None:
        support().gc_collect()
        support().environment_altered = False
        put_in_place(self, self.executor_type)
        super().setUp()

    def tearDown(self) -> None:
        is_listed = hasattr(getattr(self, self._testMethodName), "difference")
        if is_listed:
            end_executors()
        super().tearDown()
        if not is_listed:
            self.assertFalse(support().environment_altered, "the test left threads or processes: see its warnings")


class SpawnAdapter(Adapter):
    """The same with mp_context="spawn": each worker is an interpreter of its own."""

    pool_mixin = "ProcessPoolSpawnMixin"
    executor_type = AnyContext


ADAPTERS: tuple[type[Adapter], ...] = (Adapter, SpawnAdapter)


def end_executors() -> None:
    """End what a test that failed has left behind, whatever it runs."""
    for executor in list(_made):
        executor.kill_workers()
        executor.shutdown()
    # Those that were forgotten end by themselves.
    for thread in threading.enumerate():
        if thread.name.startswith("crew-dispatcher"):
            thread.join(SECONDS_UNTIL_DEADLOCK)


def support() -> Any:
    """Return the module test.support."""
    return stdlib.lookup("support")


def join(behaviour: type, adapter: type[Adapter], module: str) -> type[Adapter]:
    """Make the test class that runs a behaviour of the standard library against CrewExecutor."""
    differences = {row.test: row for row in DIFFERENCES}
    unprepared = {row.test for row in PREPARATIONS}
    name = f"{adapter.__name__.removesuffix('Adapter')}Crew{behaviour.__name__.removesuffix('Mixin')}"
    namespace: dict[str, Any] = {"__module__": module, "TIMEOUT": adapter.TIMEOUT}
    for attribute, value in vars(behaviour).items():
        # The tests submit these: they must be found in the standard library's module, not in a class made here.
        if isinstance(value, classmethod):
            namespace[attribute] = getattr(behaviour, attribute)
    for test in stdlib.names_of_tests(behaviour):
        key = f"{behaviour.__name__}.{test}"
        if key in differences:
            namespace[test] = prove(differences[key], getattr(behaviour, test))
        elif key in unprepared:
            namespace[test] = with_a_worker(getattr(behaviour, test))
    bases = (behaviour, adapter, stdlib.lookup(adapter.pool_mixin), Collector, stdlib.lookup("BaseTestCase"))
    return type(name, bases, namespace)


def with_a_worker(test: Callable[[Any], None]) -> Callable[[Any], None]:
    """Make the test that runs another one when the pool has its first worker."""

    @functools.wraps(test)
    def run_with_a_worker(self: Any) -> None:
        self.executor.submit(abs, -1).result()
        test(self)

    return run_with_a_worker


def prove(difference: Difference, test: Callable[[Any], None]) -> Callable[[Any], None]:
    """Make the test that runs a listed test and asserts that it fails as the table says."""

    @functools.wraps(test)
    def run_and_expect_symptom(self: unittest.TestCase) -> None:
        # A subtest would report its failure past us.
        with unittest.mock.patch.object(self, "subTest", return_value=contextlib.nullcontext()):
            try:
                test(self)
            except BaseException as error:  # SkipTest, and SystemExit of a task, are symptoms too
                self.assertRegex(f"{type(error).__name__}: {error}", difference.symptom)
            else:
                self.fail(f"{difference.test} passes now: take it out of differences.py")

    # Skips that the standard library put on the test are symptoms too, to be met when it runs.
    for mark in ("__unittest_skip__", "__unittest_skip_why__"):
        run_and_expect_symptom.__dict__.pop(mark, None)
    run_and_expect_symptom.difference = difference  # type: ignore[attr-defined]  # read by the evidence
    return run_and_expect_symptom


@contextlib.contextmanager
def crew_futures() -> Iterator[None]:
    """Within this block the tests' own futures are CrewFutures."""
    # Their texts name the class: "<Future at 0x...>".
    future_type = type("Future", (CrewFuture,), {})
    with contextlib.ExitStack() as stack:
        for module in stdlib.modules():
            if hasattr(module, "Future"):
                stack.enter_context(unittest.mock.patch.object(module, "Future", future_type))
        create_future = stdlib.lookup("create_future")
        for module in stdlib.modules():
            for name in [name for name in vars(module) if name.endswith("_FUTURE")]:
                old = getattr(module, name)
                new = create_future(state=old._state, exception=old._exception, result=old._result)
                stack.enter_context(unittest.mock.patch.object(module, name, new))
        yield


def put_in_place(case: unittest.TestCase, executor_type: type[CrewExecutor]) -> None:
    """Put CrewExecutor, until the test ends, where the standard library's tests name ProcessPoolExecutor themselves."""

    # A function, for some tests leave early when their executor_type equals futures.ProcessPoolExecutor ("Hangs, see").
    def build(*args: Any, **kwargs: Any) -> CrewExecutor:
        return executor_type(*args, **kwargs)

    for module in (futures, *stdlib.modules()):
        replacements = {"ProcessPoolExecutor": build}
        if hasattr(module, "assert_python_ok"):
            replacements["assert_python_ok"] = functools.partial(_run_script, module.assert_python_ok)
        for name in [name for name in replacements if hasattr(module, name)]:
            patcher = unittest.mock.patch.object(module, name, replacements[name])
            patcher.start()
            case.addCleanup(patcher.stop)


def _run_script(assert_python_ok: Callable[..., Any], option: str, script: str) -> Any:
    """Run a script of the standard library's tests in a fresh, isolated interpreter, with CrewExecutor in it."""
    root = str(Path(crew_executor.__file__).parents[1])
    # Isolated means: without our PYTHONPATH and working directory. One script lacks its import of multiprocessing,
    # as the standard library never runs it with processes.
    preamble = f"import multiprocessing, sys\nif {root!r} not in sys.path: sys.path.insert(0, {root!r})\n"
    name = CrewExecutor.__name__
    ours = re.sub(rf"from concurrent\.futures import {name}\b", f"from crew_executor import {name}", script)
    return assert_python_ok(option, preamble + ours)
