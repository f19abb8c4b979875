"""adaptive and pipefunc: both know the executors of a closed list, and take others that are told how to be filled."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import adaptive
import pytest
from pipefunc import Pipeline, pipefunc

from crew_executor import CrewExecutor

from .helpers import WORKERS, workers_of
from .tasks import Noting, count_primes, fail_once, hill, peak

LIMITS = list(range(1000, 3000, 10))


def test_adaptive_learns_a_peak(executor: CrewExecutor, tmp_path: Path) -> None:
    noting = Noting(peak, tmp_path)
    learner, serial = adaptive.Learner1D(noting, (-1, 1)), adaptive.Learner1D(peak, (-1, 1))
    adaptive.BlockingRunner(learner, npoints_goal=150, executor=executor, ntasks=WORKERS)
    adaptive.runner.simple(serial, npoints_goal=150)

    assert {x: peak(x) for x in learner.data} == dict(learner.data)
    assert learner.npoints >= 150
    assert learner.loss() < 2 * serial.loss()
    assert set() < noting.pids() <= workers_of(executor)


def test_adaptive_in_an_event_loop(executor: CrewExecutor) -> None:
    learner = adaptive.Learner2D(hill, [(-1, 1), (-1, 1)])

    async def main() -> None:
        await adaptive.AsyncRunner(learner, npoints_goal=60, executor=executor, ntasks=WORKERS).task

    asyncio.run(main())

    assert learner.npoints >= 60
    assert {point: hill(point) for point in learner.data} == dict(learner.data)


@pytest.mark.parametrize("who", ["adaptive", "executor"])
def test_a_point_that_fails_is_tried_again(executor: CrewExecutor, who: str, tmp_path: Path) -> None:
    learner = adaptive.Learner1D(partial(fail_once, tmp_path / "failed"), (-1, 1))
    pool = executor if who == "adaptive" else executor.options(retries=1)
    retries = 1 if who == "adaptive" else 0
    adaptive.BlockingRunner(learner, npoints_goal=10, executor=pool, ntasks=WORKERS, retries=retries)

    assert learner.npoints >= 10


def test_adaptive_may_be_told_how_many_workers_there_are(executor: CrewExecutor) -> None:
    """What the page says of ntasks: without it, adaptive refuses."""
    learner = adaptive.Learner1D(peak, (-1, 1))

    with pytest.raises(TypeError, match="Cannot get number of cores"):
        adaptive.BlockingRunner(learner, npoints_goal=10, executor=executor)


@pipefunc("primes", mapspec="limit[i] -> primes[i]")
def map_primes(limit: int) -> int:
    return count_primes(limit)


@pipefunc("pid", mapspec="limit[i] -> pid[i]")
def map_pid(limit: int) -> int:
    return os.getpid()


@pipefunc("total")
def add_up(primes: Any) -> int:
    return int(sum(primes))


def run(pipeline: Pipeline, **options: Any) -> Any:
    return pipeline.map({"limit": LIMITS}, show_progress=False, **options)


@pytest.mark.parametrize("storage", ["dict", "file_array"])
def test_pipefunc_maps(executor: CrewExecutor, storage: str, tmp_path: Path) -> None:
    pipeline = Pipeline([map_primes, map_pid, add_up])
    options = {"storage": storage, "run_folder": tmp_path / "run" if storage == "file_array" else None}
    crew = run(pipeline, executor=executor, chunksizes=7, **options)
    pids = set(crew["pid"].output.tolist())
    serial = run(pipeline, parallel=False, storage="dict")

    assert serial["total"].output == crew["total"].output
    assert serial["primes"].output.tolist() == crew["primes"].output.tolist()
    assert set() < pids <= workers_of(executor)


def test_pipefunc_with_an_executor_for_each_output(executor: CrewExecutor) -> None:
    executors = {"primes": executor.options(name="primes"), "": executor}

    async def main() -> Any:
        pipeline = Pipeline([map_primes, add_up])
        return await pipeline.map_async({"limit": LIMITS}, executor=executors, chunksizes=7, storage="dict").task

    assert sum(map(count_primes, LIMITS)) == asyncio.run(main())["total"].output


def test_pipefunc_warns_that_it_cannot_tell_the_number_of_workers(executor: CrewExecutor) -> None:
    with pytest.warns(UserWarning, match="Cannot get number of cores"):
        results = run(Pipeline([map_primes, add_up]), executor=executor, storage="dict")

    assert sum(map(count_primes, LIMITS)) == results["total"].output


def test_in_place_of_the_pool_that_pipefunc_makes() -> None:
    with mock.patch("pipefunc.map._run.ProcessPoolExecutor", partial(CrewExecutor, WORKERS)):
        results = run(Pipeline([map_primes, add_up]), parallel=True, chunksizes=7, storage="dict")

    assert sum(map(count_primes, LIMITS)) == results["total"].output
