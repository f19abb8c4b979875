"""map(): cut the items into tasks, and give the results back. Runs in the client; run_chunk() in workers."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FuturesTimeoutError
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from . import tracebacks
from .callbacks import quick
from .condition import FutureCondition, may_hold

if TYPE_CHECKING:
    from .gauge import Tally

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
        items: tuples of arguments; WatchedItems: it is shown how far they are.
        deadline: monotonic seconds until which results may be waited for, or None.
        fn, chunksize, buffersize: as in CrewExecutor.map().
        is_ordered: whether the results come in the order of the items, or as they are ready.
    """
    tally: Tally | None = None
    if hasattr(items, "tally"):
        tally = items.tally()
        items, submit = tally.read(items), tally.watch(submit)
    if chunksize == 1:
        futures: Iterator[Future[Any]] = (submit(fn, *item) for item in items)
        unpack: Callable[[Any], Iterable[T]] = _single
    else:
        chunks = iter(lambda: list(itertools.islice(items, chunksize)), [])
        futures = (submit(run_chunk, fn, chunk) for chunk in chunks)
        unpack = _open_chunk if tally is None else partial(_open_watched, tally)
        buffersize = None if buffersize is None else -(-buffersize // chunksize)
    if tally is not None:
        futures = itertools.chain(futures, tally.all_read())
    waiting: _Waiting = _InOrder(tally) if is_ordered else _AsTheyCome(tally)
    try:
        waiting.extend(itertools.islice(futures, buffersize))
    except BaseException:  # of an iterable, or a Ctrl-C: nobody will ask for the results
        waiting.cancel()
        if tally is not None:
            tally.close()
        raise
    results = _results(waiting, futures, unpack, deadline)
    return results if tally is None else _shown(results, tally)


class _InOrder:
    """The futures of a map(), of which the first is waited for; `tally` shows how far they are."""

    def __init__(self, tally: Tally | None = None) -> None:
        self._tally = tally
        self._futures: deque[Future[Any]] = deque()

    def __bool__(self) -> bool:
        return bool(self._futures)

    def extend(self, futures: Iterable[Future[Any]]) -> None:
        self._futures.extend(futures)

    def take(self, deadline: float | None) -> list[Any]:
        """Return the first result as the only item of a list, so that whoever pops it has the only reference."""
        if self._tally is not None:
            self._tally.wait_for(self._futures[0], deadline)
        box = [self._futures[0].result(None if deadline is None else deadline - time.monotonic())]
        self._futures.popleft()
        return box

    def cancel(self) -> None:
        # The last one first: if a running task is cancelled, its worker must not find the next one still queued.
        while self._futures:
            self._futures.pop().cancel()


class _AsTheyCome:
    """The futures of a map(), of which any is waited for; `tally` shows how far they are."""

    def __init__(self, tally: Tally | None = None) -> None:
        self._tally = tally
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
        while (future := self._wait_done(deadline)) is None:
            if self._tally is not None:
                self._tally.tick()  # not under the lock: it may take its time
        del self._open[future]
        return [future.result()]

    def _wait_done(self, deadline: float | None) -> Future[Any] | None:
        """Return one that is done; None: there is none yet, and it is time to show how far they are."""
        with self._changed:
            while not self._done:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise FuturesTimeoutError
                if self._tally is not None and (left := self._tally.pause(left)) == 0:
                    return None
                self._changed.wait(left)
            return self._done.popleft()

    def cancel(self) -> None:
        while self._open:  # as above
            self._open.popitem()[0].cancel()


_Waiting = _InOrder | _AsTheyCome


def _results(
    waiting: _Waiting,
    more: Iterator[Future[Any]],
    unpack: Callable[[Any], Iterable[T]],
    deadline: float | None,
) -> Generator[T, None, None]:
    try:
        while waiting:
            # No name here may hold a result while it is yielded: it lives as long as the consumer wants.
            results = unpack(waiting.take(deadline))
            waiting.extend(itertools.islice(more, 1))
            yield from results
    finally:
        waiting.cancel()


def _shown(results: Generator[T, None, None], tally: Tally) -> Iterator[T]:
    """Yield the results, and show how far the tasks are."""
    try:
        tally.tick()
        for box in map(_boxed, results):
            tally.tick()
            yield box.pop()
    finally:
        results.close()
        tally.close()


def _boxed(result: T) -> list[T]:
    return [result]  # as above: a name would hold it while it is yielded


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


def _open_watched(tally: Tally, box: list[tuple[list[T], tuple[bytes, str] | None]]) -> Iterator[T]:
    if box[0][1] is not None:
        tally.has_failed()  # nobody could know before the chunk's result was opened
    return _open_chunk(box)
