"""Who takes part in the benchmark, in the order of the table."""

from __future__ import annotations

from benchmark_contender import Contender
from benchmark_executors import Crew, Loky, ProcessPool, Threads
from benchmark_libraries import ChunkedMultiprocessingPool, Dask, Joblib, Mpire, MultiprocessingPool, Pebble, Ray

CONTENDERS: dict[str, Contender] = {
    contender.key: contender
    for contender in (
        Crew(),
        ProcessPool("fork"),
        # The same once more. How far its ratio is from 1 is this machine's noise: a difference below it means nothing.
        ProcessPool("fork", "fork-again", ", again: the noise"),
        ProcessPool("forkserver"),
        ProcessPool("spawn"),
        Threads(),
        MultiprocessingPool(),
        ChunkedMultiprocessingPool(),
        Joblib(),
        Loky(),
        Pebble(),
        Mpire(),
        Dask(),
        Ray(),
    )
}
