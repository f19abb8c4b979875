"""map(): cut the items into tasks, and give the results back. Runs in the client; run_chunk() in workers."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FuturesTimeoutError
from typing import Any, TypeVar

from . import tracebacks
from .callbacks import quick
from .condition import FutureCondition, may_hold

T = TypeVar("T")

may_hold(__file__)


def map_by_submit(
    submit: Callable[..., Future[Any]],
    fn: Callable[..., T],
    items: Iterator[tuple[Any, ...]],
    *,
    deadline: float | None,
    chunksize: int,
    buffersize: int | None,
    is_ordered: bool = True,
) -> Iterator[T]:
    """Submit the items now (with a buffersize: the first of them) and return an iterator over the results.

    Args:
        submit: called as submit(fn, *item) for single items, as submit(run_chunk, fn, items) for chunks. The public
            method, as in the standard library: subclasses replace it, and tqdm does so on the instance, to count.
        items: tuples of arguments.
        deadline: monotonic seconds until which results may be waited for, or None.
        fn, chunksize, buffersize: as in CrewExecutor.map().
        is_ordered: whether the results come in the order of the items, or as they are ready.
    """
    if chunksize == 1:
        futures: Iterator[Future[Any]] = (submit(fn, *item) for item in items)
        unpack: Callable[[Any], Iterable[T]] = _single
    else:
        chunks = iter(lambda: list(itertools.islice(items, chunksize)), [])
        futures = (submit(run_chunk, fn, chunk) for chunk in chunks)
        unpack = _open_chunk
        buffersize = None if buffersize is None else -(-buffersize // chunksize)
    waiting: _Waiting = _InOrder() if is_ordered else _AsTheyCome()
    try:
        waiting.extend(itertools.islice(futures, buffersize))
    except BaseException:  # of an iterable, or a Ctrl-C: nobody will ask for the results
        waiting.cancel()
        raise
    return _results(waiting, futures, unpack, deadline)


class _InOrder:
    """The futures of a map(), of which the first is waited for."""

    def __init__(self) -> None:
        self._futures: deque[Future[Any]] = deque()

    def __bool__(self) -> bool:
        return bool(self._futures)

    def extend(self, futures: Iterable[Future[Any]]) -> None:
        self._futures.extend(futures)

    def take(self, deadline: float | None) -> list[Any]:
        """Return the first result as the only item of a list, so that whoever pops it has the only reference."""
        box = [self._futures[0].result(None if deadline is None else deadline - time.monotonic())]
        self._futures.popleft()
        return box

    def cancel(self) -> None:
        # The last one first: if a running task is cancelled, its worker must not find the next one still queued.
        while self._futures:
            self._futures.pop().cancel()


class _AsTheyCome:
    """The futures of a map(), of which any is waited for."""

    def __init__(self) -> None:
        self._open: dict[Future[Any], None] = {}
        self._done: deque[Future[Any]] = deque()
        self._changed = FutureCondition()  # a Ctrl-C in the consumer must not leave it locked: readers come here

    def __bool__(self) -> bool:
        return bool(self._open)

    def extend(self, futures: Iterable[Future[Any]]) -> None:
        for future in futures:
            self._open[future] = None
            future.add_done_callback(self._add_done)

    @quick
    def _add_done(self, future: Future[Any]) -> None:
        with self._changed:
            self._done.append(future)
            self._changed.notify()

    def take(self, deadline: float | None) -> list[Any]:
        """Return the result of one that is done."""
        with self._changed:
            while not self._done:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise FuturesTimeoutError
                self._changed.wait(left)
            future = self._done.popleft()
        del self._open[future]
        return [future.result()]

    def cancel(self) -> None:
        while self._open:  # as above
            self._open.popitem()[0].cancel()


_Waiting = _InOrder | _AsTheyCome


def _results(
    waiting: _Waiting,
    more: Iterator[Future[Any]],
    unpack: Callable[[Any], Iterable[T]],
    deadline: float | None,
) -> Iterator[T]:
    try:
        while waiting:
            # No name here may hold a result while it is yielded: it lives as long as the consumer wants.
            results = unpack(waiting.take(deadline))
            waiting.extend(itertools.islice(more, 1))
            yield from results
    finally:
        waiting.cancel()


def _single(box: list[T]) -> Iterator[T]:
    yield box.pop()


def run_chunk(fn: Callable[..., Any], chunk: list[tuple[Any, ...]]) -> tuple[list[Any], tuple[bytes, str] | None]:
    """Apply fn to each item, in a worker; stop at the first error.

    Returns:
        The results so far, and the pickled error with its report, or None.
    """
    results: list[Any] = []
    try:
        for item in chunk:
            results.append(fn(*item))
    except BaseException as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        return results, _dump_error(error)
    return results, None


def called(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Return the user's function of a call: a chunk of a map() is known by it, too."""
    return args[0] if fn is run_chunk else fn


def _dump_error(error: BaseException) -> tuple[bytes, str]:
    report = tracebacks.describe(error)
    try:
        return tracebacks.dumps_error(error), json.dumps(report)
    except BaseException as broken:
        stand_in = tracebacks.remote_error(report, f"it cannot be pickled: {type(broken).__name__}: {broken}")
        return tracebacks.dumps_error(stand_in), json.dumps(report)


def _open_chunk(box: list[tuple[list[T], tuple[bytes, str] | None]]) -> Iterator[T]:
    results, failure = box.pop()
    results.reverse()
    while results:
        yield results.pop()
    if failure is not None:
        raise tracebacks.loads_error(failure[0], json.loads(failure[1]))
