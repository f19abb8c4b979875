"""scipy's arguments `workers`: whatever takes a function like map finds with executor.map what it finds with map."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad_vec
from scipy.optimize import brute, differential_evolution, least_squares, minimize, shgo

from crew_executor import CrewExecutor

from .helpers import workers_of
from .tasks import Noting, residuals, valley, waves

BOX = [(-2.0, 2.0)] * 3


def evolve(workers: Any, function: Any = valley) -> Any:
    return differential_evolution(function, BOX, workers=workers, updating="deferred", rng=1, maxiter=30, polish=False)


@pytest.mark.parametrize("chunksize", [1, 10])
def test_differential_evolution(executor: CrewExecutor, chunksize: int, tmp_path: Path) -> None:
    noting = Noting(valley, tmp_path)
    crew, serial = evolve(partial(executor.map, chunksize=chunksize), noting), evolve(1)

    assert (serial.fun, serial.nfev) == (crew.fun, crew.nfev)
    assert np.array_equal(serial.x, crew.x)
    assert set() < noting.pids() <= workers_of(executor)


def test_quad_vec(executor: CrewExecutor) -> None:
    frequencies = np.linspace(1, 50, 20)
    crew, serial = [quad_vec(waves, 0, 10, args=(frequencies,), workers=workers)[0] for workers in (executor.map, map)]

    assert np.allclose(serial, crew, rtol=1e-12, atol=1e-12)


def test_brute(executor: CrewExecutor) -> None:
    crew, serial = [brute(valley, tuple(BOX[:2]), Ns=15, finish=None, workers=workers) for workers in (executor.map, 1)]

    assert np.array_equal(serial, crew)


def test_shgo(executor: CrewExecutor) -> None:
    crew, serial = [shgo(valley, BOX[:2], workers=workers).x for workers in (executor.map, 1)]

    assert np.array_equal(serial, crew)


def test_minimize_and_least_squares(executor: CrewExecutor) -> None:
    descents = [minimize(valley, [1.3, 0.7, 0.8], method="BFGS", options={"workers": w}).x for w in (executor.map, map)]
    fits = [least_squares(residuals, [2.0, 2.0], workers=workers).x for workers in (executor.map, map)]

    assert np.array_equal(*descents)
    assert np.array_equal(*fits)


def test_an_error_of_the_function_is_that_of_the_solver(executor: CrewExecutor) -> None:
    with pytest.raises(RuntimeError, match="scalar value"):
        evolve(executor.map, residuals)
    with pytest.raises(TypeError):
        quad_vec(divmod, 0, 1, workers=executor.map)
