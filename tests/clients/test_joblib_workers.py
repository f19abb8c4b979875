"""On which workers joblib.Parallel runs, how many there are, and how many threads each may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from integration.helpers import touch_and_wait, wait_until
from joblib import Parallel, delayed

import crew_executor.joblib
from crew_executor import CrewExecutor, TaskTimeoutError
from crew_executor.cpus import usable_cpus

from .helpers import kept, pids

pytestmark = pytest.mark.usefixtures("crew_backend")


def variable(name: str) -> str | None:
    return os.environ.get(name)


def threads() -> set[int]:
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    return {entry["num_threads"] for entry in threadpool_info()}


def inner(kind: str | None) -> tuple[str, list[tuple[int, str]]]:
    parallel = Parallel(n_jobs=2, backend=kind)
    results = parallel(delayed(inmost)(kind) for _ in range(2))
    return type(parallel._backend).__name__, results


def inmost(kind: str | None) -> tuple[int, str]:
    parallel = Parallel(n_jobs=2, backend=kind)
    return parallel(delayed(os.getpid)() for _ in range(2))[0], type(parallel._backend).__name__


# ---------------------------------------------------------------------- how many jobs


def test_how_many_jobs(pool: CrewExecutor) -> None:
    cpus = usable_cpus()
    own, given = crew_executor.joblib.CrewBackend(), crew_executor.joblib.CrewBackend(pool)

    assert [own.effective_n_jobs(number) for number in (1, 2, 50, -1, None, -1000)] == [1, 2, 50, cpus, cpus, 1]
    assert [given.effective_n_jobs(number) for number in (1, 2, 50, -1, -2, None)] == [1, 2, 3, 3, 2, 3]
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)(delayed(abs)(i) for i in range(3))


def test_joblibs_own_limit_of_cpus_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")

    assert crew_executor.joblib.CrewBackend().effective_n_jobs(-1) == 1


def test_one_job_runs_here() -> None:
    assert {os.getpid()} == set(Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(3)))
    assert crew_executor.joblib._kept is None


def test_more_jobs_than_workers(pool: CrewExecutor) -> None:
    with joblib.parallel_config(backend="crew", executor=pool):
        assert list(range(40)) == Parallel(n_jobs=10, batch_size=1)(delayed(abs)(i) for i in range(40))

    assert len(pool.stats().workers) <= 3


def test_fewer_jobs_than_workers(pool: CrewExecutor, tmp_path: Path) -> None:
    release = tmp_path / "release"
    calls = [delayed(touch_and_wait)(str(tmp_path / str(number)), str(release)) for number in range(6)]
    with joblib.parallel_config(backend="crew", executor=pool):
        results = Parallel(n_jobs=2, batch_size=1, return_as="generator", pre_dispatch="all")(calls)
    stats = pool.stats()
    release.touch()

    assert len(list(results)) == 6
    assert stats.queued + stats.running == 2


# ---------------------------------------------------------------------- on which executor


def test_workers_are_kept_between_calls() -> None:
    first = pids()

    assert first == pids()
    assert kept()._max_workers == 2


def test_fewer_jobs_run_on_the_kept_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # else two jobs may have more threads each than three
    for name in crew_executor.joblib.THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")
    Parallel(n_jobs=3)(delayed(abs)(i) for i in range(9))
    executor = kept()

    pids()
    assert kept() is executor


@pytest.mark.parametrize("change", ["jobs", "threads"])
def test_other_workers_come_when_the_kept_do_not_fit(change: str) -> None:
    first, executor = pids(), kept()
    before = executor._dispatcher
    del executor
    with joblib.parallel_config(backend="crew", inner_max_num_threads=3 if change == "threads" else None):
        Parallel(n_jobs=4 if change == "jobs" else 2)(delayed(abs)(i) for i in range(9))

    assert kept()._dispatcher is not before
    wait_until(lambda: before.join(0), "the former executor has ended")
    assert not first & pids()


def test_a_call_under_way_keeps_its_executor(tmp_path: Path) -> None:
    release = tmp_path / "release"
    calls = (delayed(touch_and_wait)(str(tmp_path / str(number)), str(release)) for number in range(6))
    results = Parallel(n_jobs=2, return_as="generator", pre_dispatch=2, batch_size=1)(calls)
    Parallel(n_jobs=4)(delayed(abs)(i) for i in range(9))
    release.touch()

    assert len(list(results)) == 6


def test_a_broken_executor_is_not_kept() -> None:
    pids()
    kept().kill_workers()

    assert os.getpid() not in pids()


def test_shutdown_ends_the_kept_workers() -> None:
    before = pids()
    crew_executor.joblib.shutdown()

    assert not [pid for pid in before if Path(f"/proc/{pid}").exists()]
    crew_executor.joblib.shutdown()
    assert not before & pids()


def test_an_executor_that_is_registered_is_used_and_left_alone(pool: CrewExecutor) -> None:
    crew_executor.joblib.register(pool)
    with joblib.parallel_config(backend="crew"):
        Parallel(n_jobs=2)(delayed(abs)(i) for i in range(9))
    crew_executor.joblib.shutdown()

    assert pool.submit(abs, -1).result() == 1
    assert pool.stats().done > 1
    assert crew_executor.joblib._kept is None


def test_the_options_of_a_view_hold(pool: CrewExecutor, tmp_path: Path) -> None:
    with joblib.parallel_config(backend="crew", executor=pool.options(timeout=0.2)):
        with pytest.raises(TaskTimeoutError, match="touch_and_wait"):
            Parallel(n_jobs=2)([delayed(touch_and_wait)(str(tmp_path / "started"), "/nowhere")] * 2)


def test_an_executor_that_is_shut_down_is_an_error_not_a_hang() -> None:
    executor = CrewExecutor(2)
    executor.shutdown()
    with joblib.parallel_config(backend="crew", executor=executor):
        with pytest.raises(RuntimeError, match="after shutdown"):
            Parallel(n_jobs=2)(delayed(abs)(i) for i in range(9))


def test_an_executor_that_is_shut_down_meanwhile_is_an_error_not_a_hang(tmp_path: Path) -> None:
    release = tmp_path / "release"
    calls = [delayed(touch_and_wait)(str(tmp_path / str(number)), str(release)) for number in range(9)]
    with CrewExecutor(2) as executor:
        with joblib.parallel_config(backend="crew", executor=executor):
            results = Parallel(n_jobs=2, batch_size=1, return_as="generator")(calls)
        executor.shutdown(wait=False)
        release.touch()
        with pytest.raises(RuntimeError, match="after shutdown"):
            list(results)


@pytest.mark.parametrize("wrong", ["local", 4, CrewExecutor])
def test_what_is_no_executor_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="executor must be a CrewExecutor"):
        crew_executor.joblib.register(wrong)


# ---------------------------------------------------------------------- nested calls, threads of libraries


@pytest.mark.parametrize("kind", [None, "crew"])
def test_a_call_in_a_task_uses_threads_and_one_in_it_none(kind: str | None) -> None:
    for outer, results in Parallel(n_jobs=2)(delayed(inner)(kind) for _ in range(3)):
        assert outer == "ThreadingBackend"
        assert {"SequentialBackend"} == {name for _pid, name in results}
        assert len({pid for pid, _name in results}) == 1
        assert os.getpid() not in {pid for pid, _name in results}


def test_numeric_libraries_share_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share = max(1, usable_cpus() // 2)

    assert {str(share)} == set(Parallel(n_jobs=2)(delayed(variable)("OMP_NUM_THREADS") for _ in range(3)))
    assert {frozenset({share})} == set(map(frozenset, Parallel(n_jobs=2)(delayed(threads)() for _ in range(3))))


def test_the_users_variable_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")

    assert ["5"] * 3 == Parallel(n_jobs=2)(delayed(variable)("OMP_NUM_THREADS") for _ in range(3))


def test_a_limit_of_inner_threads_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with joblib.parallel_config(backend="crew", inner_max_num_threads=1):
        assert ["1"] * 3 == Parallel(n_jobs=2)(delayed(variable)("OMP_NUM_THREADS") for _ in range(3))
        assert [{1}] * 3 == Parallel(n_jobs=2)(delayed(threads)() for _ in range(3))


def test_workers_of_a_given_executor_have_their_limit(pool: CrewExecutor) -> None:
    with joblib.parallel_config(backend="crew", executor=pool, inner_max_num_threads=3):
        with pytest.raises(ValueError, match="OMP_NUM_THREADS"):
            Parallel(n_jobs=2)(delayed(abs)(i) for i in range(3))
