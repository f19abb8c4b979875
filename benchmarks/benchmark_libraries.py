"""The contenders that are no executors of concurrent.futures: multiprocessing.Pool, pebble, mpire, joblib, dask, ray.

Their imports stand inside the methods: the command line starts without them, and so does a measurement of another one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from benchmark_contender import Contender
from benchmark_row import NotOffered

RAY_OPTIONS: dict[str, Any] = {
    "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR", "object_store_memory": 600_000_000,
}  # fmt: skip


class MultiprocessingPool(Contender):
    """multiprocessing.Pool with forked workers: apply_async() and map()."""

    key, title, module = "mp-pool", "multiprocessing.Pool (fork)", "multiprocessing.pool"
    statement = "import multiprocessing.pool"
    program = (
        "pool = multiprocessing.get_context('fork').Pool({workers})",
        "pool.apply_async(pow, (2, 5)).get()",
        "pool.close(); pool.join()",
    )

    def make(self, workers: int) -> Any:
        """Make a pool."""
        return multiprocessing.get_context("fork").Pool(workers)

    def make_recycling(self, workers: int) -> Any:
        """Make a pool with maxtasksperchild."""
        return multiprocessing.get_context("fork").Pool(workers, maxtasksperchild=1)

    def close(self, pool: Any) -> None:
        """Close and wait."""
        pool.close()
        pool.join()

    def submit(self, pool: Any, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Call apply_async()."""
        return pool.apply_async(fn, args)

    def result(self, future: Any) -> Any:
        """Call get()."""
        return future.get()

    def results(self, futures: Sequence[Any]) -> list[Any]:
        """Call get() of each."""
        return [future.get() for future in futures]

    def in_loop(self, pool: Any, fn: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """It is no Executor."""
        raise NotOffered("not an Executor for run_in_executor")


class ChunkedMultiprocessingPool(MultiprocessingPool):
    """multiprocessing.Pool told the right chunksize: the best that somebody who knows can have from `map`."""

    key, title = "mp-pool-100", "multiprocessing.Pool (fork), chunksize=100"
    only_rows = frozenset({"map"})

    def map(self, pool: Any, fn: Callable[..., Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """Map in chunks of 100 where others have their defaults."""
        return super().map(pool, fn, items, chunksize or 100)


class Pebble(Contender):
    """pebble.ProcessPool: schedule() instead of submit()."""

    key, title, module, distribution = "pebble", "pebble", "pebble", "pebble"
    statement = "from pebble import ProcessPool"
    program = (
        "pool = ProcessPool(max_workers={workers})",
        "pool.schedule(pow, args=(2, 5)).result()",
        "pool.close(); pool.join()",
    )

    def make(self, workers: int) -> Any:
        """Make a pool."""
        from pebble import ProcessPool

        return ProcessPool(max_workers=workers)

    def make_recycling(self, workers: int) -> Any:
        """Make a pool with max_tasks."""
        from pebble import ProcessPool

        return ProcessPool(max_workers=workers, max_tasks=1)

    def close(self, pool: Any) -> None:
        """Close and wait."""
        pool.close()
        pool.join()

    def submit(self, pool: Any, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Call schedule()."""
        return pool.schedule(fn, args=args)

    def map(self, pool: Any, fn: Callable[..., Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """Map; pebble gives a future of the iterator."""
        return list((pool.map(fn, items) if chunksize is None else pool.map(fn, items, chunksize=chunksize)).result())

    def in_loop(self, pool: Any, fn: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Run with the time limit that pebble's submit() wants as first argument."""
        return asyncio.get_running_loop().run_in_executor(pool, fn, None, *args)


class Mpire(MultiprocessingPool):
    """mpire.WorkerPool: apply_async() and map(), and shared objects that forked workers inherit."""

    key, title, module, distribution = "mpire", "mpire", "mpire", "mpire"
    statement = "from mpire import WorkerPool"
    program = (
        "pool = WorkerPool(n_jobs={workers}, keep_alive=True)",
        "pool.apply_async(pow, (2, 5)).get()",
        "pool.stop_and_join()",
    )

    def make(self, workers: int) -> Any:
        """Make a pool whose workers stay from one map to the next."""
        from mpire import WorkerPool

        return WorkerPool(n_jobs=workers, keep_alive=True)

    def make_recycling(self, workers: int) -> Any:
        """Make a pool; the life of its workers is an argument of map()."""
        return self.make(workers)

    def close(self, pool: Any) -> None:
        """Let the workers end and wait."""
        pool.stop_and_join()

    def map(self, pool: Any, fn: Callable[..., Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """Map."""
        return list(pool.map(fn, items) if chunksize is None else pool.map(fn, items, chunk_size=chunksize))

    def call_recycling(self, pool: Any, fn: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Map with worker_lifespan=1."""
        return list(pool.map(fn, list(arguments), worker_lifespan=1, chunk_size=1))

    def call_shared(self, pool: Any, fn: Callable[..., Any], shared: Any, numbers: Sequence[int]) -> list[Any]:
        """Use shared_objects, in a pool of their own as they are inherited by workers that start after them."""
        from mpire import WorkerPool

        with WorkerPool(n_jobs=pool.pool_params.n_jobs, shared_objects=shared) as sharing:
            return list(sharing.map(fn, numbers, chunk_size=1))


class Joblib(Contender):
    """joblib.Parallel with its default backend (loky): no submit, `Parallel` decides about batches."""

    key, title, module, distribution = "joblib", "joblib (loky)", "joblib", "joblib"
    statement = "from joblib import Parallel, delayed; from joblib.externals.loky import get_reusable_executor"
    program = (
        "pool = Parallel(n_jobs={workers}).__enter__()",
        "pool([delayed(pow)(2, 5)])[0]",
        "pool.__exit__(None, None, None); get_reusable_executor().shutdown(wait=True)",
    )

    def make(self, workers: int) -> Any:
        """Enter a Parallel, which keeps its workers until it is left."""
        from joblib import Parallel

        return Parallel(n_jobs=workers).__enter__()

    def close(self, pool: Any) -> None:
        """Leave it, and end the workers, which joblib would keep for the next."""
        from joblib.externals.loky import get_reusable_executor

        pool.__exit__(None, None, None)
        get_reusable_executor().shutdown(wait=True)

    def submit(self, pool: Any, fn: Callable[..., Any], /, *args: Any) -> Any:
        """There is none."""
        raise NotOffered("no submit")

    def call_all(self, pool: Any, fn: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Call the Parallel, with the batches that it chooses."""
        from joblib import delayed

        return list(pool(delayed(fn)(*one) for one in arguments))

    def call_shared(self, pool: Any, fn: Callable[..., Any], shared: Any, numbers: Sequence[int]) -> list[Any]:
        """Call the Parallel: it maps big arrays into memory."""
        return self.call_all(pool, fn, [(shared, number) for number in numbers])

    def map(self, pool: Any, fn: Callable[..., Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """Call the Parallel; a chunksize is its batch_size."""
        from joblib import Parallel, delayed

        if chunksize is not None:  # the workers are joblib's reusable ones, whichever Parallel asks for them
            pool = Parallel(n_jobs=pool.n_jobs, batch_size=chunksize)
        return list(pool(delayed(fn)(item) for item in items))

    def in_loop(self, pool: Any, fn: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """It is no Executor."""
        raise NotOffered("not an Executor for run_in_executor")


class Dask(Contender):
    """dask.distributed: a LocalCluster of single-threaded worker processes and its Client."""

    key, title, module, distribution = "dask", "dask.distributed", "distributed", "distributed"
    statement = "from distributed import Client, LocalCluster"
    program = (
        "pool = Client(LocalCluster(n_workers={workers}, threads_per_worker=1, dashboard_address=None))",
        "pool.submit(pow, 2, 5).result()",
        "cluster = pool.cluster; pool.close(); cluster.close()",
    )
    share_of_tasks = 0.05

    def make(self, workers: int) -> Any:
        """Start a cluster without its web pages, and a client."""
        from distributed import Client, LocalCluster

        return Client(LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None))

    def close(self, pool: Any) -> None:
        """Close the client, then the cluster."""
        cluster = pool.cluster
        pool.close()
        cluster.close()

    def submit(self, pool: Any, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Submit as impure: otherwise calls with the same arguments would be run once."""
        return pool.submit(fn, *args, pure=False)

    def results(self, futures: Sequence[Any]) -> list[Any]:
        """Gather."""
        return list(futures[0].client.gather(list(futures))) if futures else []

    def call_shared(self, pool: Any, fn: Callable[..., Any], shared: Any, numbers: Sequence[int]) -> list[Any]:
        """Scatter to all workers."""
        return super().call_shared(pool, fn, pool.scatter(shared, broadcast=True), numbers)

    def map(self, pool: Any, fn: Callable[..., Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """Map and gather; a chunksize is its batch_size, which bounds the graph only."""
        return list(pool.gather(pool.map(fn, items, pure=False, batch_size=chunksize)))

    def in_loop(self, pool: Any, fn: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Run through its executor."""
        return asyncio.get_running_loop().run_in_executor(pool.get_executor(pure=False), fn, *args)


class Ray(Contender):
    """ray: a head node of this machine, without its web pages; one remote function that calls what it is given."""

    key, title, module, distribution = "ray", "ray", "ray", "ray"
    statement = "import ray"
    program = (
        f"ray.init(num_cpus={{workers}}, **{{{RAY_OPTIONS!r}}}); pool = ray.remote(lambda *numbers: pow(*numbers))",
        "ray.get(pool.remote(2, 5))",
        "ray.shutdown()",
    )
    share_of_tasks = 0.05

    def make(self, workers: int) -> Any:
        """Start ray, and return its remote function: ray.remote() takes no builtin such as operator.add."""
        return self._make(workers)

    def make_recycling(self, workers: int) -> Any:
        """Use max_calls."""
        return self._make(workers, max_calls=1)

    def _make(self, workers: int, **options: int) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        ray.init(num_cpus=workers, **RAY_OPTIONS)

        def call(fn: Callable[..., Any], *args: Any) -> Any:
            return fn(*args)

        return ray.remote(**options)(call) if options else ray.remote(call)

    def close(self, pool: Any) -> None:
        """Shut ray down."""
        import ray

        ray.shutdown()

    def submit(self, pool: Any, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Call the remote function."""
        return pool.remote(fn, *args)

    def result(self, future: Any) -> Any:
        """Get."""
        import ray

        return ray.get(future)

    def results(self, futures: Sequence[Any]) -> list[Any]:
        """Get all."""
        import ray

        return list(ray.get(list(futures)))

    def call_shared(self, pool: Any, fn: Callable[..., Any], shared: Any, numbers: Sequence[int]) -> list[Any]:
        """Put it into the object store."""
        import ray

        return super().call_shared(pool, fn, ray.put(shared), numbers)

    def map(self, pool: Any, fn: Callable[..., Any], items: Sequence[Any], chunksize: int | None = None) -> list[Any]:
        """One task per item: there is nothing else in ray's core."""
        if chunksize is not None:
            raise NotOffered("no chunks")
        return self.call_all(pool, fn, [(item,) for item in items])

    def in_loop(self, pool: Any, fn: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """What it returns can be awaited."""
        awaitable: Awaitable[Any] = pool.remote(fn, *args)
        return awaitable
