"""Shows how far the futures of a program are, or the items of a map(): progress() and options(progress=True).

    who waits for results --tick()--> Gauge: asks for the count, measures (meter.py), shows (screens.py)
    map(): counts what has arrived, chunks.py, or its futures' ends, Tally       progress(): Arrivals

No thread of its own: it is shown by who takes the results, while it waits for them or comes back for the next. So
nothing is in the way of a fork, outlives its loop, or writes in the middle of what a program writes by itself; and a
loop that is busy with one result for long shows the progress afterwards.

Must never harm the work. What goes wrong with showing ends the showing, with one record for the log. Not the module
`progress`: as an attribute of the package that would stand in the function's place.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Executor, Future, wait
from concurrent.futures import TimeoutError as FuturesTimeoutError
from enum import Enum
from typing import Any, Generic, Protocol, TextIO, TypeVar

from .callbacks import quick
from .log import logger
from .meter import Count, Crowd, Meter
from .screens import Screen, open_screen

T = TypeVar("T")


class Counted(Protocol):
    """What is shown."""

    def count(self) -> Count:
        """Return how far it is."""


class Gauge:
    """Shows something now and then.

    Args:
        description: the words before the numbers.
        stream: where to; None: stderr, or a widget in a notebook.
        pool: whose workers are shown, or None. Not kept alive.

    Attributes:
        due: when to show it again, in monotonic seconds: whoever is in a hurry looks here before tick().
    """

    def __init__(self, description: str = "", stream: TextIO | None = None, pool: Any = None) -> None:
        self._description = description
        self._stream = stream
        self._pool = (lambda: None) if pool is None else weakref.ref(pool)
        self._pid = 0
        self._screen: Screen | None = None
        self._meter: Meter | None = None
        self.due = math.inf  # not begun

    def begin(self, source: Counted) -> None:
        """Start the clock; only once."""
        if self._meter is not None:
            return
        self._pid = os.getpid()
        self._meter = Meter(time.monotonic(), source.count().done)
        try:
            self._screen = open_screen(self._stream, self._description)
        except Exception:
            logger.debug("progress cannot be shown", exc_info=True)
        self._wait_till_due()

    def tick(self, source: Counted) -> None:
        """Show it if it is time to."""
        if time.monotonic() >= self.due:
            self.show(source)

    def pause(self, left: float | None) -> float | None:
        """Return how long to wait at most before the next tick; None: as long as it takes.

        Args:
            left: seconds until the caller must stop waiting, or None.
        """
        if self.due == math.inf or self.is_off():
            return left
        until_due = max(0.0, self.due - time.monotonic())
        return until_due if left is None else min(left, until_due)

    def is_off(self) -> bool:
        """Return whether nothing is shown any more; in a forked child it is the parent who shows it."""
        if self._pid != os.getpid() and self._screen is not None:
            self._forget()
        return self._screen is None and self._meter is not None

    def show(self, source: Counted) -> None:
        """Show it."""
        self.begin(source)
        screen, meter = self._screen, self._meter
        if self.is_off() or screen is None or meter is None:
            return
        try:
            count = source.count()
            meter.update(time.monotonic(), count.done)
            screen.show(count, meter, self._crowd())
        except Exception:
            self._give_up()
        self._wait_till_due()

    def close(self, source: Counted) -> None:
        """Show it for the last time; does nothing the second time, nor before it has begun."""
        if self.is_off():
            return
        screen, meter, self._screen, self.due = self._screen, self._meter, None, math.inf
        if screen is None or meter is None:
            return
        try:
            count = source.count()
            meter.update(time.monotonic(), count.done)
            if count.total != 0 or count.done:  # of nothing there is nothing to show
                screen.close(count, meter)
        except Exception:
            self._screen = screen
            self._give_up()

    def _wait_till_due(self) -> None:
        self.due = math.inf if self._screen is None else time.monotonic() + self._screen.seconds_between

    def _give_up(self) -> None:
        logger.debug("progress is not shown any more", exc_info=True)
        self._forget()

    def _forget(self) -> None:
        screen, self._screen, self.due = self._screen, None, math.inf
        if screen is not None:
            screen.forget()

    def _crowd(self) -> Crowd | None:
        pool = self._pool()
        if pool is None:
            return None
        try:
            states = [worker.state for worker in pool.stats().workers]
        except RuntimeError:  # in a task: only the client knows
            return None
        coming = states.count("starting")
        return Crowd(len(states) - coming, coming)


# ---------------------------------------------------------------------- the items of a map


class WatchedItems:
    """The items of a map() whose progress is shown: for who can count them better than one by one.

    Args:
        items: the items.
        gauge: shows it.
        total: how many there are, or None.
    """

    def __init__(self, items: Iterator[tuple[Any, ...]], gauge: Gauge, total: int | None) -> None:
        self.items = items
        self.gauge = gauge
        self.total = total

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self

    def __next__(self) -> tuple[Any, ...]:
        return next(self.items)

    def tally(self) -> Tally:
        """Return what counts them by their futures."""
        return Tally(self)


def length_of(iterables: Iterable[Any]) -> int | None:
    """Return how many items a map() over the iterables has, if they know."""
    lengths = []
    for iterable in iterables:
        if not isinstance(iterable, Sized):
            return None
        try:
            lengths.append(len(iterable))
        except Exception:  # an array without dimensions has a __len__ and no length
            logger.debug("the length of %s is not known", type(iterable).__name__, exc_info=True)
            return None
    return min(lengths, default=None)


class _End(Enum):
    RESULT = "result"
    FAILED = "failed"
    CANCELLED = "cancelled"


def _end_of(future: Future[Any]) -> _End | None:
    """Return how a future has ended, without unpickling anything; None: somebody is just about to know."""
    if future.cancelled():
        return _End.CANCELLED
    outcome = getattr(future, "_unopened", None)  # of a CrewFuture
    if outcome is not None:
        return _End.FAILED if outcome.is_error else _End.RESULT
    if not getattr(future, "_is_open", True) and getattr(future, "_worker", None) is not None:
        return None  # another thread has taken the outcome and unpickles it
    return _End.RESULT if future._exception is None else _End.FAILED


class Tally:
    """Counts the items of a map() of which each, or each chunk, has a future.

    Futures end in any thread, also in one that a signal handler has interrupted: what is called there takes no lock.

    Args:
        watched: the items, with what shows how far they are.
    """

    def __init__(self, watched: WatchedItems) -> None:
        self._gauge = watched.gauge
        self._total = watched.total
        self._read = 0  # items
        self._out = 0  # those of them that have a future
        self._ended: deque[tuple[int, _End | Future[Any]]] = deque()  # not counted yet
        self._counts = dict.fromkeys(_End, 0)
        self._failed_chunks = 0

    def read(self, items: Iterator[T]) -> Iterator[T]:
        """Count the items."""
        for item in items:
            self._read += 1
            yield item

    def watch(self, submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
        """Return what submits an item, or a chunk, and watches its future."""

        def submit_watched(*args: Any) -> Future[Any]:
            self._gauge.begin(self)
            future = submit(*args)
            items, self._out = self._read - self._out, self._read
            future.add_done_callback(_OnEnd(self._ended, items))
            self._gauge.tick(self)
            return future

        return submit_watched

    def all_read(self) -> Iterator[Any]:
        """Yield nothing, behind the last item: now it is known how many there are."""
        self._total = self._read
        yield from ()

    def tick(self) -> None:
        """Show it if it is time to."""
        self._gauge.tick(self)

    def pause(self, left: float | None) -> float | None:
        """Return how long to wait at most before the next tick."""
        return self._gauge.pause(left)

    def wait_for(self, future: Future[Any], deadline: float | None) -> None:
        """Wait until a future is done, or the deadline, showing how far the others are."""
        self.tick()
        while not (future.done() or self._gauge.is_off()):  # in a forked child it never would be
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            wait([future], self.pause(left))
            self.tick()

    def has_failed(self) -> None:
        """Count an item that has failed within a chunk, which as a task has not."""
        self._failed_chunks += 1

    def close(self) -> None:
        """Show it for the last time."""
        self._gauge.close(self)

    def count(self) -> Count:
        """Return how far the items are."""
        for _ in range(len(self._ended)):
            items, end = self._ended.popleft()
            known = _end_of(end) if isinstance(end, Future) else end
            if known is None:
                self._ended.append((items, end))
            else:
                self._counts[known] += items
        done, counts = sum(self._counts.values()), self._counts
        return Count(done, self._total, counts[_End.FAILED] + self._failed_chunks, counts[_End.CANCELLED])


class _OnEnd:
    """The callback of a future in a Tally: notes how many items have ended, and how."""

    __slots__ = ("_ended", "_items")
    is_quick = True

    def __init__(self, ended: deque[tuple[int, _End | Future[Any]]], items: int) -> None:
        self._ended = ended
        self._items = items

    def __call__(self, future: Future[Any]) -> None:
        self._ended.append((self._items, _end_of(future) or future))


# ---------------------------------------------------------------------- futures


def progress(
    futures: Iterable[Future[T]],
    *,
    total: int | None = None,
    description: str = "",
    timeout: float | None = None,
    file: TextIO | None = None,
    executor: Executor | None = None,
) -> Iterator[Future[T]]:
    """Yield futures as they are done, like concurrent.futures.as_completed(), and show how far they are.

    Shown are how many are done, what is left, the rate, how many have failed or were cancelled, and the workers. On a
    terminal that is a bar of tqdm where it is installed (the extra `progress`), else a line; in a
    notebook with tqdm a widget; in files, pipes and elsewhere a line every 10 seconds, and one at the end. It is shown
    while the next future is waited for: a loop that is busy with one for long shows it afterwards.

    As with as_completed(): what is done already comes first, a future that is given twice is yielded once, and nothing
    begins before the first future is asked for.

    Args:
        futures: of any executors, also of those of the standard library. All are read before the first is yielded; an
            iterator that submits is fine.
        total: how many there will be, shown while they are read. Default: len(futures), if it has one.
        description: words before the numbers.
        timeout: seconds from the call after which TimeoutError is raised, None for ever.
        file: a text stream to show it on. Default: stderr, or a widget in a notebook. When it is closed, or has no
            room, nothing is shown.
        executor: a CrewExecutor, or a view, whose number of workers is shown. Default: none is.

    Raises:
        TypeError: an argument is of the wrong type; what is no future is found when it is read.
        TimeoutError: while iterating; see `timeout`.
    """
    if total is not None and not isinstance(total, int):
        raise TypeError(f"total must be an integer or None, not {type(total).__name__}")
    if not isinstance(description, str):
        raise TypeError(f"description must be a string, not {type(description).__name__}")
    if executor is not None and not callable(getattr(executor, "stats", None)):
        raise TypeError(f"executor must be a CrewExecutor or a view of one, not {type(executor).__name__}")
    deadline = None if timeout is None else time.monotonic() + timeout
    length = length_of([futures])
    arrivals: Arrivals[T] = Arrivals(length if total is None else total)
    gauge = Gauge(description, file, executor)
    return _yield_arrivals(iter(futures), arrivals, gauge, executor, deadline, is_lazy=length is None)


def _yield_arrivals(
    futures: Iterator[Future[T]],
    arrivals: Arrivals[T],
    gauge: Gauge,
    executor: Executor | None,  # noqa: ARG001  the frame holds it: a gauge does not
    deadline: float | None,
    *,
    is_lazy: bool,
) -> Iterator[Future[T]]:
    try:
        if is_lazy:  # it may submit, and wait for room; else what is done already is no work of the time measured
            gauge.begin(arrivals)
        arrivals.read(futures, gauge)
        del futures
        gauge.begin(arrivals)
        while arrivals:
            if time.monotonic() >= gauge.due:
                gauge.show(arrivals)
            # No name here may hold a future while it is yielded: it lives as long as the consumer wants.
            yield arrivals.take(gauge, deadline)
    finally:
        try:
            gauge.close(arrivals)
        finally:
            arrivals.close()


class Arrivals(Generic[T]):
    """Futures, in the order in which they are done.

    Args:
        total: how many there will be, as far as anybody knows.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._open: set[Future[T]] = set()  # not taken yet
        self._queue: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()  # done, not counted yet
        self._put: Callable[[Future[T]], None] | None = self._queue.put
        self._ready: deque[Future[T]] = deque()  # counted
        self._counts = dict.fromkeys(_End, 0)
        self._done = 0
        self._pid = os.getpid()

    def __bool__(self) -> bool:
        return bool(self._open)

    def read(self, futures: Iterator[Future[T]], gauge: Gauge) -> None:
        """Wait for these futures from now on."""
        for future in futures:
            if not isinstance(future, Future):
                raise TypeError(f"progress() needs futures of concurrent.futures, not {type(future).__name__}")
            if future not in self._open:
                self._open.add(future)
                if future.done():
                    self._arrive(future)  # a CrewFuture does without a condition then: ten times as fast
                else:
                    future.add_done_callback(self._arrive)
                gauge.tick(self)
        self._total = len(self._open)  # whatever was said before

    @quick
    def _arrive(self, future: Future[T]) -> None:
        # In any thread, also in one that a signal handler has interrupted: a SimpleQueue can bear that, a lock cannot.
        put = self._put
        if put is not None:
            put(future)

    def take(self, gauge: Gauge, deadline: float | None) -> Future[T]:
        """Wait for the next one and return it."""
        while not self._ready:
            self._count_arrived()
            if not self._ready:
                self._wait(gauge, deadline)
                gauge.tick(self)
        future = self._ready.popleft()
        self._open.discard(future)
        return future

    def _wait(self, gauge: Gauge, deadline: float | None) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(
                f"these futures are waited for in process {self._pid}, of which this one, {os.getpid()}, is a forked "
                "child: they do not arrive here"
            )
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise FuturesTimeoutError(f"{len(self._open)} (of {self._total}) futures unfinished")
        with contextlib.suppress(queue.Empty):
            self._note(self._queue.get(timeout=gauge.pause(left)))

    def _count_arrived(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._note(self._queue.get_nowait())

    def _note(self, future: Future[T]) -> None:
        end = _end_of(future)
        if end is None:
            end = _End.RESULT if future.exception() is None else _End.FAILED
        self._counts[end] += 1
        self._done += 1
        self._ready.append(future)

    def count(self) -> Count:
        """Return how far they are."""
        self._count_arrived()
        return Count(self._done, self._total, self._counts[_End.FAILED], self._counts[_End.CANCELLED])

    def close(self) -> None:
        """Forget the futures: their callbacks, which stay with them, have nothing to keep any more."""
        self._put = None
        self._open.clear()
        self._ready.clear()
