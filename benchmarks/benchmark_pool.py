"""Makes a contender's pool for a measurement, with every worker started and every path used once."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmark_contender import Contender
from benchmark_row import Settings


@contextmanager
def warm_pool(contender: Contender, settings: Settings) -> Iterator[Any]:
    """Give a pool whose workers have all run something, so that a figure is about the steady state."""
    pool = make_warm(contender, settings)
    yield pool
    contender.close(pool)


def make_warm(contender: Contender, settings: Settings) -> Any:
    """Return such a pool, which nobody will close: the runner kills what a measurement has left."""
    contender.load()
    pool = contender.make(settings.workers)
    naps = contender.call_all(pool, time.sleep, [(0.05,)] * (4 * settings.workers))
    check(naps, [None] * len(naps))
    adds = contender.share(500)
    check(contender.call_all(pool, operator.add, [(1, number) for number in range(adds)]), list(range(1, adds + 1)))
    return pool


def check(results: Any, expected: Any) -> None:
    """Raise if the results are wrong. No assert: it holds with python -O, too."""
    if results != expected:
        raise WrongResultError(f"wrong results: {str(results)[:200]}, not {str(expected)[:200]}")


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    """Call, and return the seconds that it took and what it returned."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


class WrongResultError(Exception):
    """A contender has computed something else."""
