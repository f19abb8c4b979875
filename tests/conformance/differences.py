"""The one table of what differs on purpose: which of the standard library's tests CrewExecutor does not pass, and why.

Nothing is skipped because of this table. Each listed test is run and must fail with the stated symptom: a row whose
test passes, fails in another way or has gone is an error. So every skip, and every other failure, is a defect.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """One of the standard library's tests that CrewExecutor fails on purpose.

    Attributes:
        test: the mixin of the standard library and the test in it: "WaitTests.test_timeout".
        guarantee: what CrewExecutor promises that the standard library's expectation would break.
        symptom: how the test must fail here, a regular expression for "ExceptionName: its text".
        instead: our own test, in test_counterparts.py, of what the test is about, by public means.
        since: the first Python whose releases all have this test; earlier ones may have it as a backport.
    """

    test: str
    guarantee: str
    symptom: str
    instead: str
    since: tuple[int, int] = (3, 10)


@dataclass(frozen=True)
class ClassNotRun:
    """Test classes of the standard library (a pattern of their names) that are not about a pool of processes."""

    pattern: str
    reason: str


_PRIVATE = "private attributes of ProcessPoolExecutor are not part of an Executor: "
_ALONE = "a task fails alone: "

DIFFERENCES: tuple[Difference, ...] = ()

CLASSES_RUN_APART = ("FutureTests", "FailingInitializerResourcesTest", "PoolExecutorTest")

CLASSES_NOT_RUN: tuple[ClassNotRun, ...] = (
    ClassNotRun("ThreadPool*", "threads of this process; what pools of processes share with them is run"),
    ClassNotRun("InterpreterPool*", "interpreters in this process; the same"),
    ClassNotRun("AsyncioTest", "InterpreterPoolExecutor under asyncio"),
)


def by_test() -> dict[str, Difference]:
    """Return the table by the name of the standard library's test."""
    return {difference.test: difference for difference in DIFFERENCES}
