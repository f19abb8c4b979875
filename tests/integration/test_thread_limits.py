"""Variables that tell numeric libraries how many threads to use; that they obey is seen in tests/clients."""

from __future__ import annotations

import os

import pytest

from crew_executor import CrewExecutor
from crew_executor.cpus import usable_cpus
from crew_executor.executor import THREAD_VARIABLES

OMP_FOLLOWERS = {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"}

_in_the_initializer: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def _limits() -> dict[str, str]:
    return {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}


def _look() -> None:
    _in_the_initializer.update(_limits())


def _what_the_initializer_saw() -> dict[str, str]:
    return _in_the_initializer


def _limits_in_a_worker(max_workers: int, mp_context: str | None = None) -> dict[str, str]:
    with CrewExecutor(max_workers, mp_context) as executor:
        return executor.submit(_limits).result()


@pytest.mark.parametrize("mp_context", [None, "spawn"])
@pytest.mark.parametrize(("max_workers", "share"), [(1, usable_cpus()), (usable_cpus(), 1), (3 * usable_cpus(), 1)])
def test_all_workers_together_use_each_cpu_once(max_workers: int, share: int, mp_context: str | None) -> None:
    assert dict.fromkeys(THREAD_VARIABLES, str(share)) == _limits_in_a_worker(max_workers, mp_context)
    assert {} == _limits()


def test_the_limits_are_there_before_anything_of_the_users_is_imported() -> None:
    with CrewExecutor(1, initializer=_look) as executor:
        assert set(THREAD_VARIABLES) == set(executor.submit(_what_the_initializer_saw).result())


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "7")

    assert {**dict.fromkeys(THREAD_VARIABLES, "1"), "MKL_NUM_THREADS": "7"} == _limits_in_a_worker(usable_cpus())


def test_a_users_limit_for_openmp_holds_for_all_libraries_that_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBLAS and others read a variable of their own first; ours would override what the user said to all."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    limits = _limits_in_a_worker(usable_cpus())

    assert "7" == limits.pop("OMP_NUM_THREADS")
    assert dict.fromkeys(set(THREAD_VARIABLES) - OMP_FOLLOWERS - {"OMP_NUM_THREADS"}, "1") == limits


def test_a_variable_counts_as_it_is_when_the_worker_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    with CrewExecutor(1) as executor:
        monkeypatch.setenv("OMP_NUM_THREADS", "5")

        assert "5" == executor.submit(os.getenv, "OMP_NUM_THREADS").result()
