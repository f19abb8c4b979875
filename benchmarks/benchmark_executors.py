"""The contenders that are executors of concurrent.futures: ours, Python's, and loky's."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

from benchmark_contender import Contender
from benchmark_row import NotOffered


class Crew(Contender):
    """CrewExecutor."""

    key, title, module, distribution = "crew", "CrewExecutor", "crew_executor", "crew-executor"
    statement = "from crew_executor import CrewExecutor"
    program = ("pool = CrewExecutor({workers})", "pool.submit(pow, 2, 5).result()", "pool.shutdown()")

    def make(self, workers: int) -> Any:
        """Make a pool."""
        from crew_executor import CrewExecutor

        return CrewExecutor(workers)

    def make_recycling(self, workers: int) -> Any:
        """Make a pool with max_tasks_per_child."""
        from crew_executor import CrewExecutor

        return CrewExecutor(workers, max_tasks_per_child=1)

    def call_shared(self, pool: Any, fn: Callable[..., Any], shared: Any, numbers: Sequence[int]) -> list[Any]:
        """Use share(), where this version has it."""
        share = getattr(pool, "share", None)
        return super().call_shared(pool, fn, shared if share is None else share(shared), numbers)


class ProcessPool(Contender):
    """ProcessPoolExecutor with one of its start methods."""

    module = "concurrent.futures"
    statement = "import multiprocessing; from concurrent.futures import ProcessPoolExecutor"

    def __init__(self, method: str, key: str | None = None, note: str = "") -> None:
        self.key = key or method
        self._method = method
        self.title = f"ProcessPoolExecutor ({method}{note})"
        context = f"multiprocessing.get_context({method!r})"
        make = f"pool = ProcessPoolExecutor({{workers}}, mp_context={context})"
        self.program = (make, "pool.submit(pow, 2, 5).result()", "pool.shutdown()")

    @property
    def is_installed(self) -> bool:
        """Whether this platform has the start method."""
        return self._method in multiprocessing.get_all_start_methods()

    def load(self) -> None:
        """Import what ProcessPoolExecutor puts off, too: a user's program names the context."""
        import concurrent.futures.process  # noqa: F401

        multiprocessing.get_context(self._method)

    def make(self, workers: int) -> Any:
        """Make a pool."""
        from concurrent.futures import ProcessPoolExecutor

        return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(self._method))

    def make_recycling(self, workers: int) -> Any:
        """Make a pool with max_tasks_per_child, which it has from Python 3.11 on and refuses with fork."""
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context(self._method)
        options: dict[str, Any] = {"max_tasks_per_child": 1}
        try:
            return ProcessPoolExecutor(workers, mp_context=context, **options)
        except (TypeError, ValueError) as error:
            raise NotOffered(str(error).partition(";")[0]) from None


class Threads(Contender):
    """ThreadPoolExecutor: no process, no pickling, one interpreter lock."""

    key, title, module = "threads", "ThreadPoolExecutor", "concurrent.futures"
    statement = "from concurrent.futures import ThreadPoolExecutor"
    program = ("pool = ThreadPoolExecutor({workers})", "pool.submit(pow, 2, 5).result()", "pool.shutdown()")

    def make(self, workers: int) -> Any:
        """Make a pool."""
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(workers)


class Loky(Contender):
    """loky.ProcessPoolExecutor, not the reusable one: each row makes and ends its own pool."""

    key, title, module, distribution = "loky", "loky", "loky", "loky"
    statement = "from loky import ProcessPoolExecutor"
    program = ("pool = ProcessPoolExecutor({workers})", "pool.submit(pow, 2, 5).result()", "pool.shutdown()")

    def make(self, workers: int) -> Any:
        """Make a pool."""
        from loky import ProcessPoolExecutor

        return ProcessPoolExecutor(workers)
