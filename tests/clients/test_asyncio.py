"""asyncio, with its own loop, uvloop's and tornado's."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import uvloop
from integration.helpers import wait_until
from tornado.ioloop import IOLoop

from crew_executor import CrewExecutor, TaskTimeoutError, WorkerCrashError

from .helpers import WORKERS
from .tasks import count_primes, getpid_of

LIMITS = list(range(1000, 31_000, 100))
EXPECTED = [count_primes(limit) for limit in LIMITS]

RunLoop = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=[asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run_loop(request: pytest.FixtureRequest) -> RunLoop:
    return partial(asyncio.run, loop_factory=request.param)  # adaptive, once imported, makes uvloop the default


def test_hundreds_of_tasks_are_gathered(run_loop: RunLoop) -> None:
    async def main() -> tuple[list[int], list[int], list[int]]:
        loop = asyncio.get_running_loop()
        with CrewExecutor(WORKERS) as executor:
            futures = [executor.submit(count_primes, limit) for limit in LIMITS]
            return (
                await asyncio.gather(*futures),
                await asyncio.gather(*[loop.run_in_executor(executor, count_primes, limit) for limit in LIMITS]),
                await asyncio.gather(*[executor.submit(getpid_of, 1) for _ in range(10)]),
            )

    submitted, run, pids = run_loop(main())

    assert (EXPECTED, EXPECTED) == (submitted, run)
    assert os.getpid() not in pids


def test_the_loop_goes_on_while_workers_compute(run_loop: RunLoop) -> None:
    async def main() -> int:
        ticks = 0
        with CrewExecutor(1) as executor:
            task = asyncio.ensure_future(executor.submit(time.sleep, 0.5))
            while not task.done():
                await asyncio.sleep(0.01)
                ticks += 1
        return ticks

    assert run_loop(main()) > 1


def test_a_task_group_ends_what_runs_when_one_fails(run_loop: RunLoop) -> None:
    async def call(executor: Any, *call: Any) -> Any:
        return await executor.submit(*call)

    async def main() -> int:
        with CrewExecutor(WORKERS) as executor:
            impatient = executor.options(cancel_running=True)
            with pytest.raises(ExceptionGroup) as caught:  # noqa: F821, PT012  Python 3.12; the group raises it at its end
                async with asyncio.TaskGroup() as group:
                    group.create_task(call(impatient, time.sleep, 3600))
                    group.create_task(call(impatient, int, "twelve"))
            assert [ValueError] == [type(error) for error in caught.value.exceptions]
            wait_until(lambda: executor.stats().running == 0, "what ran has ended")
            return await executor.submit(count_primes, 1000)

    assert 168 == run_loop(main())


def test_time_outs_of_asyncio_and_of_the_task(run_loop: RunLoop) -> None:
    async def main() -> None:
        with CrewExecutor(1) as executor:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(executor.options(cancel_running=True).submit(time.sleep, 3600), 0.3)
            with pytest.raises(TaskTimeoutError):
                await executor.options(timeout=0.3).submit(time.sleep, 3600)
            with pytest.raises(WorkerCrashError):
                await executor.submit(os._exit, 3)
            assert 168 == await executor.submit(count_primes, 1000)

    run_loop(main())


def test_wait_and_as_completed(run_loop: RunLoop) -> None:
    async def main() -> tuple[int, list[int]]:
        with CrewExecutor(WORKERS) as executor:
            wrapped = [asyncio.wrap_future(executor.submit(count_primes, limit)) for limit in LIMITS]
            done, pending = await asyncio.wait(wrapped)
            assert not pending
            completed = asyncio.as_completed([executor.submit(count_primes, limit) for limit in LIMITS])
            return sum(future.result() for future in done), [await future for future in completed]

    total, completed = run_loop(main())

    assert (sum(EXPECTED), EXPECTED) == (total, sorted(completed))


def test_tornado_runs_tasks_in_workers(run_loop: RunLoop) -> None:
    async def main() -> tuple[list[int], int]:
        loop = IOLoop.current()
        with CrewExecutor(WORKERS) as executor:
            calls = [loop.run_in_executor(executor, count_primes, limit) for limit in LIMITS]
            with pytest.raises(ZeroDivisionError):
                await loop.run_in_executor(executor, divmod, 1, 0)
            return await asyncio.gather(*calls), await loop.run_in_executor(executor, os.getpid)

    results, pid = run_loop(main())

    assert results == EXPECTED
    assert pid != os.getpid()
