"""dask computes arrays, bags and delayed calls on workers, as it does in its own process."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import dask
import dask.array
import dask.bag
import numpy as np
import pytest

from crew_executor import CrewExecutor

from .helpers import WORKERS, workers_of
from .tasks import count_primes, getpid_of, group_size

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "the", "cat"] * 50


def both(collection: Any, executor: Any) -> tuple[Any, Any]:
    return collection.compute(scheduler=executor), collection.compute(scheduler="synchronous")


def test_an_array(executor: CrewExecutor) -> None:
    matrix = dask.array.random.default_rng(1).normal(size=(1200, 1200), chunks=(300, 300))
    crew, serial = both((matrix @ matrix.T - matrix.mean(axis=0)).std(axis=1), executor)

    assert np.allclose(crew, serial, rtol=1e-12)  # numpy adds in another order with another number of threads


def test_large_results_come_back_whole(executor: CrewExecutor) -> None:
    crew, serial = both(dask.array.arange(4_000_000, chunks=1_000_000) ** 2, executor)

    assert np.array_equal(crew, serial)


def test_a_bag_of_words(executor: CrewExecutor) -> None:
    crew, serial = both(dask.bag.from_sequence(WORDS, npartitions=12).map(str.upper).frequencies(), executor)

    assert sorted(crew) == sorted(serial)


def test_a_word_that_all_workers_have_seen_is_in_one_group(executor: CrewExecutor) -> None:
    groups = dask.bag.from_sequence(WORDS, npartitions=12).groupby(str.upper, shuffle="tasks")
    crew, serial = both(groups.starmap(group_size), executor)

    assert sorted(crew) == sorted(serial)


def test_delayed_calls_run_in_workers(executor: CrewExecutor) -> None:
    calls = [dask.delayed(count_primes)(limit) for limit in range(1000, 6000, 100)]
    crew, serial = both(dask.delayed(sum)(calls), executor)
    pids = dask.compute(*[dask.delayed(getpid_of)(number) for number in range(20)], scheduler=executor)

    assert crew == serial
    assert set() < set(pids) <= workers_of(executor)


@pytest.mark.parametrize("chunksize", [1, 7])
def test_dask_fills_all_workers_whatever_its_chunksize(executor: CrewExecutor, chunksize: int) -> None:
    calls = [dask.delayed(count_primes)(limit) for limit in range(1000, 6000, 100)]
    view = executor.options(name="primes")

    assert dask.compute(*calls, scheduler=view, chunksize=chunksize) == dask.compute(*calls, scheduler="sync")


def test_an_error_of_a_call_is_that_of_compute(executor: CrewExecutor) -> None:
    with pytest.raises(ZeroDivisionError):
        dask.delayed(divmod)(1, 0).compute(scheduler=executor)


def test_the_pool_of_dasks_own_scheduler(executor: CrewExecutor) -> None:
    with dask.config.set(pool=executor, scheduler="processes"):
        assert os.getpid() != dask.delayed(getpid_of)(1).compute()


def test_in_place_of_the_pool_that_dask_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a spawn context, an initializer, and a variable that dask sets in the environment."""
    monkeypatch.setenv("PYTHONHASHSEED", "removed again at the end")
    monkeypatch.delenv("PYTHONHASHSEED")
    bag = dask.bag.from_sequence(WORDS, npartitions=6)
    with mock.patch("dask.multiprocessing.ProcessPoolExecutor", wraps=CrewExecutor) as made:
        crew = bag.groupby(str.upper).starmap(group_size).compute(scheduler="processes", num_workers=WORKERS)

    assert {"mp_context", "initializer"} == made.call_args.kwargs.keys()
    assert sorted(crew) == sorted((word.upper(), WORDS.count(word)) for word in set(WORDS))
