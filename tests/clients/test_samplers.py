"""emcee and nevergrad: what depends on no order is what one process finds, the rest is as good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nevergrad
import numpy as np
import pytest
from emcee import EnsembleSampler

from crew_executor import CrewExecutor

from .helpers import workers_of
from .tasks import Noting, distance, log_probability


def sample(pool: Any, function: Any = log_probability, steps: int = 100) -> EnsembleSampler:
    random = np.random.RandomState(1)
    sampler = EnsembleSampler(24, 3, function, args=[np.array([1.0, 4.0, 9.0])], pool=pool)
    sampler.random_state = random.get_state()
    sampler.run_mcmc(random.normal(size=(24, 3)), steps)
    return sampler


def test_emcee_draws_the_same_chain(executor: CrewExecutor, tmp_path: Path) -> None:
    noting = Noting(log_probability, tmp_path)
    crew, serial = sample(executor, noting), sample(None)

    assert np.array_equal(serial.get_chain(), crew.get_chain())
    assert np.array_equal(serial.get_log_prob(), crew.get_log_prob())
    assert set() < noting.pids() <= workers_of(executor)
    with pytest.raises(ValueError, match="that far out"):
        crew.run_mcmc(np.full((24, 3), 11.0), 1, skip_initial_state_check=True)


def make_optimizer(name: str, num_workers: int, budget: int = 200) -> Any:
    space = nevergrad.p.Instrumentation(nevergrad.p.Scalar(lower=-2, upper=2), y=nevergrad.p.Scalar(lower=-2, upper=2))
    space.random_state.seed(1)
    return nevergrad.optimizers.registry[name](space, budget=budget, num_workers=num_workers)


def test_nevergrad_finds_the_same_among_the_same_points(executor: CrewExecutor, tmp_path: Path) -> None:
    noting = Noting(distance, tmp_path)
    crew = make_optimizer("ScrHammersleySearch", 4).minimize(noting, executor=executor)
    serial = make_optimizer("ScrHammersleySearch", 1).minimize(distance)

    assert serial.value == crew.value
    assert set() < noting.pids() <= workers_of(executor)


# nevergrad's Sleeper warns by itself when a batch ends between two of its looks, whatever the executor.
@pytest.mark.filterwarnings("ignore:Ignoring since timer was:UserWarning:nevergrad.common.tools")
@pytest.mark.parametrize("batch_mode", [False, True])
def test_nevergrad_asks_as_often_as_it_may(executor: CrewExecutor, *, batch_mode: bool) -> None:
    optimizer = make_optimizer("DE", 6)
    best = optimizer.minimize(distance, executor=executor.options(name="evolution"), batch_mode=batch_mode)

    assert (200, 200, 200) == (optimizer.num_ask, optimizer.num_tell, executor.stats().done)
    assert distance(*best.args, **best.kwargs) < distance(0, 0)
