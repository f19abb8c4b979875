"""Checks worker/memory.py against a fake kernel: no limit of this process is touched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from crew_executor import processes
from crew_executor.worker import memory
from crew_executor.worker.memory import LOOK_SECONDS, MemoryLimits

INFINITE = -1
MB = 1 << 20


class Kernel:
    """The one limit of the process, its size, and the clock."""

    RLIMIT_DATA = 2
    RLIM_INFINITY = INFINITE

    def __init__(self) -> None:
        self.limit = (INFINITE, INFINITE)
        self.size = 0
        self.looks = 0
        self.now = 100.0

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert self.RLIMIT_DATA == which
        return self.limit

    def setrlimit(self, which: int, limit: tuple[int, int]) -> None:
        assert self.RLIMIT_DATA == which
        assert INFINITE == self.limit[1] or limit[1] == self.limit[1], "only root could raise it again"
        self.limit = limit

    def resident_memory(self) -> int:
        self.looks += 1
        return self.size


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(memory, "resource", kernel)
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: kernel.now))
    monkeypatch.setattr(processes, "resident_memory", kernel.resident_memory)
    return kernel


def test_without_limits_nothing_is_imposed_and_nobody_looks(kernel: Kernel) -> None:
    limits = MemoryLimits()
    limits.impose()
    during = kernel.limit
    limits.lift()

    assert (INFINITE, INFINITE) == during == kernel.limit
    assert not limits.is_exceeded()
    assert 0 == kernel.looks


def test_the_limit_of_tasks_is_one_of_the_kernel_and_can_be_lifted(kernel: Kernel) -> None:
    limits = MemoryLimits(task_max=50 * MB)
    limits.impose()
    imposed = kernel.limit
    limits.lift()
    limits.lift()

    assert (50 * MB, INFINITE) == imposed
    assert (INFINITE, INFINITE) == kernel.limit


def test_a_soft_limit_of_somebody_else_comes_back(kernel: Kernel) -> None:
    kernel.limit = (40 * MB, INFINITE)
    limits = MemoryLimits(task_max=50 * MB)
    limits.impose()
    imposed = kernel.limit
    limits.lift()

    assert (40 * MB, INFINITE) == imposed == kernel.limit


@pytest.mark.parametrize(("task_max", "soft"), [(50 * MB, 30 * MB), (20 * MB, 20 * MB)])
def test_a_limit_that_somebody_else_has_set_is_not_passed(kernel: Kernel, task_max: int, soft: int) -> None:
    kernel.limit = (30 * MB, 30 * MB)
    limits = MemoryLimits(task_max=task_max)
    limits.impose()
    imposed = kernel.limit
    limits.lift()

    assert (soft, 30 * MB) == imposed
    assert (30 * MB, 30 * MB) == kernel.limit


def test_a_worker_above_its_limit_is_to_retire(kernel: Kernel) -> None:
    limits = MemoryLimits(worker_max=100 * MB)
    answers = []
    for kernel.size in (99 * MB, 100 * MB, 101 * MB):
        answers.append(limits.is_exceeded())
        kernel.now += LOOK_SECONDS

    assert [False, False, True] == answers


def test_short_tasks_do_not_pay_for_a_look_each(kernel: Kernel) -> None:
    limits = MemoryLimits(worker_max=100 * MB)
    answers = [limits.is_exceeded()]
    kernel.size = 200 * MB
    kernel.now += LOOK_SECONDS / 2
    answers.append(limits.is_exceeded())
    kernel.now += LOOK_SECONDS
    answers.append(limits.is_exceeded())

    assert [False, False, True] == answers
    assert 2 == kernel.looks


def test_a_worker_that_was_too_large_once_is_to_go(kernel: Kernel) -> None:
    """Who asked first may be in the middle of several items; who lets it go asks a moment later."""
    limits = MemoryLimits(worker_max=100 * MB)
    kernel.size = 200 * MB
    answers = [limits.is_exceeded()]
    kernel.size = 1 * MB
    answers.append(limits.is_exceeded())

    assert [True, True] == answers
