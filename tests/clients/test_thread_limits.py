"""numpy's BLAS in a worker uses as many threads as it should."""

from __future__ import annotations

import pytest

from crew_executor import CrewExecutor
from crew_executor.cpus import usable_cpus
from crew_executor.executor import THREAD_VARIABLES


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def _multiply() -> set[int]:
    """Import numpy, use it, and return how many threads its libraries may use."""
    import numpy as np
    import threadpoolctl

    assert float((np.ones((64, 64)) @ np.ones((64, 64)))[0, 0]) == 64
    limits = {library["num_threads"] for library in threadpoolctl.threadpool_info()}
    assert limits, "no library was found that can be limited"
    return limits


def _limits_in_a_worker(max_workers: int, mp_context: str | None = None) -> set[int]:
    with CrewExecutor(max_workers, mp_context) as executor:
        return executor.submit(_multiply).result()


@pytest.mark.parametrize("mp_context", [None, "spawn"])
def test_all_workers_together_use_each_cpu_once(mp_context: str | None) -> None:
    assert {usable_cpus()} == _limits_in_a_worker(1, mp_context)
    assert {1} == _limits_in_a_worker(usable_cpus(), mp_context)


@pytest.mark.skipif(usable_cpus() < 2, reason="with one CPU there is one thread, whatever is asked for")
def test_a_users_own_limit_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    assert {1} == _limits_in_a_worker(1)

    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    assert {2} == _limits_in_a_worker(usable_cpus())


def test_the_client_itself_is_not_limited() -> None:
    import threadpoolctl

    _multiply()
    before = threadpoolctl.threadpool_info()
    _limits_in_a_worker(usable_cpus())

    assert before == threadpoolctl.threadpool_info()
