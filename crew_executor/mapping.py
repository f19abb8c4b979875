"""map(): cut the items into tasks, and give the results back in order. Runs in the client; run_chunk() in workers."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from . import tracebacks

T = TypeVar("T")

DEFAULT_CHUNKSIZE = 1


def check_map_arguments(chunksize: int, buffersize: int | None) -> None:
    """Raise what the standard library raises for arguments of map() that are out of range."""
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")


def map_in_order(
    submit: Callable[..., Future[Any]],
    fn: Callable[..., T],
    iterables: Sequence[Iterable[Any]],
    *,
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[T]:
    """Submit the items now (with a buffersize: the first of them) and return an iterator over the results.

    Args:
        submit: called as submit(fn, *item) for single items, as submit(run_chunk, fn, items) for chunks. The public
            method, as in the standard library: subclasses replace it, and tqdm does so on the instance, to count.
        fn, iterables, timeout, chunksize, buffersize: as in CrewExecutor.map().
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    items = zip(*iterables, strict=False)
    if chunksize == 1:
        futures: Iterator[Future[Any]] = (submit(fn, *item) for item in items)
        unpack: Callable[[Any], Iterable[T]] = _single
    else:
        chunks = iter(lambda: list(itertools.islice(items, chunksize)), [])
        futures = (submit(run_chunk, fn, chunk) for chunk in chunks)
        unpack = _open_chunk
        buffersize = None if buffersize is None else -(-buffersize // chunksize)
    waiting: deque[Future[Any]] = deque()
    try:
        waiting.extend(itertools.islice(futures, buffersize))
    except BaseException:  # of an iterable, or a Ctrl-C: nobody will ask for the results
        _cancel(waiting)
        raise
    return _results(waiting, futures, unpack, deadline)


def _results(
    waiting: deque[Future[Any]],
    more: Iterator[Future[Any]],
    unpack: Callable[[Any], Iterable[T]],
    deadline: float | None,
) -> Iterator[T]:
    try:
        while waiting:
            # No name here may hold a result while it is yielded: it lives as long as the consumer wants.
            results = unpack(_take_first_result(waiting, deadline))
            waiting.extend(itertools.islice(more, 1))
            yield from results
    finally:
        _cancel(waiting)


def _cancel(futures: deque[Future[Any]]) -> None:
    # The last one first: if a running task is cancelled, its worker must not find the next one still queued.
    while futures:
        futures.pop().cancel()


def _take_first_result(waiting: deque[Future[Any]], deadline: float | None) -> list[Any]:
    """Return the first result as the only item of a list, so that whoever pops it has the only reference."""
    box = [waiting[0].result(None if deadline is None else deadline - time.monotonic())]
    waiting.popleft()
    return box


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
