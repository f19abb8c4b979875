"""map() over many items: one task for several of them, and no future for any.

    items --> Chunk: each pickled by itself --> a task, which the scheduler cuts where it likes --> workers
    results <-- in order, or as they come <-- records of single items <-- whatever part of it a worker has done

A chunk is compression on the wire only (RULES 12): items are claimed, taken back and lost one by one, and what two of
them have in common is not common in the worker. How many go to a worker at a time is the scheduler's to say, by time;
how many are put together here depends on their size alone, and on how fast they can be read.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FuturesTimeoutError
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from . import serialize, table, tracebacks
from .buffers import Buffers, apart_each, incoming
from .calls import command_of, pickling_error
from .condition import FutureCondition, may_hold
from .core.messages import (
    IS_ERROR,
    IS_WARNINGS,
    Outcome,
    OutcomeFlag,
    TaskFlag,
    decode_item_error,
    decode_items,
    first_place,
    pack_table,
)
from .handlers import is_from_handler
from .notes import add_note
from .packer import Packer
from .shares import Beside, Share
from .task_warnings import show_warnings

if TYPE_CHECKING:
    from .gauge import Gauge
    from .meter import Count

may_hold(__file__)

_U64 = struct.Struct("<Q")
ITEMS_MAX = 1024
BYTES_MAX = 32 * 1024
"""Bounds of a chunk: enough to spread what a task costs; what is cut off of it travels alone."""
READ_SECONDS = 0.0005
"""Items that take longer to be read than this, together, are not waited for: the first could run meanwhile."""
ROOMY = 100
"""A buffersize from which on items are read several at a time."""


class Chunk:
    """Some items on their way: what stands for a future of theirs.

    Args:
        run: the map() that they belong to.
        place: of the first among all items.
        call: the pickled function.
        blob: the items' pickles, one behind the other.
        bounds: where each begins, and the end.
    """

    __slots__ = ("_blob", "_bounds", "_call", "_place", "run")

    def __init__(self, run: MapRun, place: int, call: bytes, blob: bytes, bounds: list[int]) -> None:
        self.run = run
        self._place = place
        self._call = call
        self._blob = blob
        self._bounds = bounds

    def name(self) -> str:
        """Return what the tasks are called."""
        return self.run.name

    def parts(self, first: int, count: int) -> tuple[bytes, bytes, bytes]:
        """Return the payload of some of the items."""
        bounds = self._bounds
        start, end = bounds[first], bounds[first + count]
        ends = bounds[first : first + count + 1]
        if start:
            ends = [bound - start for bound in ends]
        return self._call, pack_table(first, ends), self._blob[start:end]

    def finish(self, outcome: Outcome) -> None:
        """Take the results of some of the items."""
        part = outcome.parts[0]
        skip = outcome.first - first_place(part)  # items that were delivered before, from the cell
        if outcome.flags & OutcomeFlag.WARNINGS:
            number = 0
            for kind, data in decode_items(part):
                if kind != IS_WARNINGS:
                    number += 1
                elif skip <= number < skip + outcome.items:
                    show_warnings(data)
        self.run.take(_Block(self._place + outcome.first, outcome.items, part, None, skip, outcome.beside))

    def fail(self, first: int, count: int, error: BaseException) -> None:
        """Let some of the items have an error of ours."""
        self.run.take(_Block(self._place + first, count, b"", error, 0))

    def _sent(self) -> None: ...

    def _unsent(self) -> bool:
        return not self.run.is_dropped


class _Block:
    """Consecutive items that are done."""

    __slots__ = ("_beside", "_error", "_part", "_skip", "items", "place")

    def __init__(
        self, place: int, items: int, part: bytes, error: BaseException | None, skip: int, beside: Any = None
    ) -> None:
        self.place = place
        self.items = items
        self._part = part
        self._error = error
        self._skip = skip
        self._beside = beside

    def results(self, name: str) -> Iterator[Any]:
        """Yield the results; raise what the item raised whose turn it is."""
        if self._error is not None:
            raise self._error
        skip = self._skip
        for kind, data in decode_items(self._part):
            if kind == IS_WARNINGS:
                continue
            if skip:
                skip -= 1
                continue
            if kind == IS_ERROR:
                error, report = decode_item_error(data)
                raise tracebacks.loads_error(error, json.loads(report))
            yield _load(data, name, self._beside)

    def troubles(self) -> tuple[int, int]:
        """Return how many of the items have failed and how many were cancelled, without unpickling anything."""
        if self._error is not None:
            return (0, self.items) if isinstance(self._error, CancelledError) else (self.items, 0)
        if not has_errors(self._part):
            return 0, 0
        kinds = (kind for kind, _data in decode_items(self._part) if kind != IS_WARNINGS)
        return sum(kind == IS_ERROR for kind in itertools.islice(kinds, self._skip, self._skip + self.items)), 0


def has_errors(part: bytes) -> bool:
    """Answer whether an item of an outcome has failed: in an eighth of the time that decode_items() takes."""
    offset, end, take = _U64.size, len(part), _U64.unpack_from
    while offset < end:
        (length,) = take(part, offset)
        if length & IS_ERROR:
            return True
        offset += _U64.size + (length & (IS_WARNINGS - 1))
    return False


def _is_stateless(fn: Any) -> bool:
    """Answer whether nobody can tell if two items are given the same object of this function, or each its own."""
    if isinstance(fn, FunctionType):
        state = fn.__closure__ or fn.__defaults__ or fn.__kwdefaults__ or fn.__dict__
        return not state or serialize.dumps_by_name(fn) is not None
    return isinstance(fn, type) or (isinstance(fn, BuiltinFunctionType) and isinstance(fn.__self__, ModuleType))


def _load(data: bytes, name: str, beside: Any) -> Any:
    try:
        if beside is None:
            return serialize.loads(data)
        with incoming(beside):
            return serialize.loads(data)
    except Exception as error:
        add_note(error, f"raised while unpickling the result of {name} in the client")
        raise


class MapRun:
    """One call of map().

    Args:
        submit: takes a chunk, its key, how many items and bytes it has, its priority and flags.
        drop: takes back what workers have not begun and cancels what is queued, without waiting.
        fn: the function.
        items: tuples of arguments; WatchedItems: it is shown how far they are.
        attach: adds to a pickled call what workers must know of the client.
        packer: pickles what cannot travel in a chunk.
        name: of the tasks; None: the function's.
        priority: of the tasks.
        deadline: monotonic seconds until which results may be waited for, or None.
        buffersize: items read ahead of the consumer at most, or None.
        is_ordered: whether the results come in the order of the items.

    Attributes:
        is_dropped: nobody wants the items any more that have not begun.
    """

    def __init__(
        self,
        submit: Callable[[Chunk, str, int, int, int, int, Beside | None], None],
        drop: Callable[[MapRun], None],
        fn: Callable[..., Any],
        items: Iterator[tuple[Any, ...]],
        *,
        attach: Callable[[bytes], bytes],
        packer: Packer,
        name: str | None = None,
        priority: int = 0,
        deadline: float | None = None,
        buffersize: int | None = None,
        is_ordered: bool = True,
    ) -> None:
        self.name = command_of(fn) if name is None else name
        self._submit_chunk = submit
        self._drop = drop
        self._fn = fn
        self._gauge: Gauge | None = getattr(items, "gauge", None)
        self._total: int | None = getattr(items, "total", None)
        self._items = items if self._gauge is None else getattr(items, "items", items)
        self._troubles = [0, 0]  # items that have failed, that were cancelled; counted if it is shown
        self._attach = attach
        self._packer = packer
        self._flags = TaskFlag.ITEMS | (TaskFlag.SHARED if _is_stateless(fn) else 0)
        self._priority = priority
        self._deadline = deadline
        self._buffersize = buffersize
        self._is_ordered = is_ordered
        self._pid = os.getpid()
        self._size = 1  # of the next chunk
        self._read = 0  # items submitted
        self._taken = 0  # items that the consumer has had
        self._arrived = 0  # items whose results are here
        self._is_exhausted = False
        self.is_dropped = False
        self._changed = FutureCondition()  # a Ctrl-C in the consumer must not leave it locked: readers come here
        self._blocks: dict[int, _Block] = {}  # by the place of the first item
        self._order: deque[int] = deque()  # the places, as they came
        self._wanted: int | None = -1  # what the consumer waits for: a place, or None for any

    # ------------------------------------------------------------------ submitting

    def submit(self) -> None:
        """Read items and submit them, all or as many as may be read ahead."""
        try:
            if self._gauge is not None:
                self._gauge.begin(self)
            while not self._is_exhausted:
                room = None if self._buffersize is None else self._buffersize - (self._read - self._taken)
                if room is not None and room < 1:
                    return
                self._submit_some(self._size if room is None else min(self._size, room))
                if self._gauge is not None:
                    self._gauge.tick(self)
        except BaseException:  # of an iterable, or a Ctrl-C: nobody will ask for the results
            self.drop()
            if self._gauge is not None:
                self._gauge.close(self)
            raise

    def _submit_some(self, number: int) -> None:
        began = time.perf_counter()
        items = list(itertools.islice(self._items, number))
        is_slow = time.perf_counter() - began > READ_SECONDS
        if len(items) < number:
            self._is_exhausted = True
        if not items:
            return
        size = self._submit_items(items)
        # What was small was read and pickled in a moment: more of it at a time.
        if is_slow or size > BYTES_MAX:
            self._size = max(1, self._size // 2)
        elif size <= BYTES_MAX // 2:
            self._size = min(2 * self._size, ITEMS_MAX)

    def _submit_items(self, items: list[tuple[Any, ...]]) -> int:
        """Submit the items as one chunk, but for those that cannot be pickled; return its size in bytes."""
        if self._packer.shares.is_empty:
            return self._submit_with(items, {})
        with self._packer.shares.collecting() as shares:
            return self._submit_with(items, shares)

    def _submit_with(self, items: list[tuple[Any, ...]], shares: dict[int, Share]) -> int:
        """Submit the items; `shares` has the constants that were met while they were pickled."""
        try:
            call = self._attach(self._packer.head_of(self._fn) or table.dumps_call(self._fn))
        except Exception as error:
            if is_from_handler(error):
                raise
            return self._fail(len(items), error, (), is_all=True)
        of_function = tuple(shares.values())
        buffers = Buffers()
        is_apart = bytes in map(type, items[0])  # then it may be in the others
        pickles = serialize.dumps_each_by_name(map(apart_each, items) if is_apart else items, buffers)
        if pickles is None and not buffers.views:
            try:
                packed = table.dumps_items(self._fn, items)
                if packed is not None:
                    call, pickles = self._attach(packed[0]), packed[1]
            except (Exception, SystemExit) as error:  # of one of them: it will be told which
                if is_from_handler(error):
                    raise
        if pickles is None or buffers.views:
            del buffers
            return sum(self._submit_one(call, item, of_function) for item in items)
        self._put(call, pickles, Beside(None, tuple(shares.values())) if shares else None)
        return sum(map(len, pickles))

    def _submit_one(self, call: bytes, item: tuple[Any, ...], shares: tuple[Share, ...]) -> int:
        try:
            data, beside = self._packer.pack(apart_each(item))
        except BaseException as error:
            if not isinstance(error, (Exception, SystemExit)) or is_from_handler(error):
                raise
            return self._fail(1, error, item)
        if shares:
            beside = Beside(None, shares) if beside is None else Beside(beside.segment, shares + beside.shares)
        self._put(call, [data], beside)
        return len(data) if beside is None or beside.segment is None else beside.segment.size

    def _put(self, call: bytes, pickles: list[bytes], beside: Beside | None = None) -> None:
        bounds = [0, *itertools.accumulate(map(len, pickles))]
        chunk = Chunk(self, self._read, call, b"".join(pickles), bounds)
        self._submit_chunk(chunk, self.name, len(pickles), bounds[-1], self._priority, self._flags, beside)
        self._read += len(pickles)

    def _fail(self, count: int, error: BaseException, item: tuple[Any, ...], *, is_all: bool = False) -> int:
        for _ in range(count):
            failure = error if is_all else pickling_error(error, self._fn, item, {})
            self.take(_Block(self._read, 1, b"", failure, 0))
            self._read += 1
        return 0

    # ------------------------------------------------------------------ results

    def take(self, block: _Block) -> None:
        """Have results; called by threads of ours."""
        troubles = None if self._gauge is None else block.troubles()
        with self._changed:
            self._arrived += block.items
            if troubles is not None:
                self._troubles[0] += troubles[0]
                self._troubles[1] += troubles[1]
            self._blocks[block.place] = block
            if not self._is_ordered:
                self._order.append(block.place)
            if self._wanted is None or self._wanted == block.place or self._arrived >= self._read:
                self._changed.notify_all()

    def drop(self) -> None:
        """Let no item begin that has not; does not wait."""
        self.is_dropped = True
        self._drop(self)

    def wait(self) -> None:
        """Wait until the results of all items that were submitted are here."""
        with self._changed:
            while self._arrived < self._read:
                self._changed.wait()

    def results(self, executor: object) -> Iterator[Any]:  # noqa: ARG002  the frame holds it
        """Yield the results, and submit more items where the consumer has made room.

        `executor` lives as long as the iterator: forgotten, it would take no more items. The run itself must not refer
        to it, for the run is kept by tasks, thus by the dispatcher, which lives until the executor is forgotten.
        """
        gauge, is_bounded = self._gauge, self._buffersize is not None
        try:
            while self._taken < self._read:
                # No name here may hold a result while it is yielded: it lives as long as the consumer wants.
                block = self._next()
                if not is_bounded and gauge is None:
                    self._taken += block.items
                    yield from block.results(self.name)
                    continue
                results = block.results(self.name)
                for _ in range(block.items):
                    if gauge is not None and time.monotonic() >= gauge.due:
                        gauge.show(self)
                    box = [next(results)]
                    self._taken += 1
                    if is_bounded and self._has_room():
                        self.submit()
                    yield box.pop()
        finally:
            if self._taken < self._read:
                self.drop()
            if gauge is not None:
                gauge.close(self)

    def count(self) -> Count:
        """Return how far the items are; for a gauge."""
        from .meter import Count  # late: most programs show nothing

        with self._changed:
            total = self._read if self._is_exhausted else self._total
            return Count(self._arrived, total, *self._troubles)

    def _has_room(self) -> bool:
        """Answer whether it is time to read more: small buffers are kept full, large ones are filled now and then."""
        assert self._buffersize is not None
        room = self._buffersize - (self._read - self._taken)
        return room > (self._buffersize // 8 if self._buffersize >= ROOMY else 0)

    def _next(self) -> _Block:
        """Wait for the block whose turn it is."""
        if self._pid != os.getpid():
            raise RuntimeError(
                f"this map() belongs to process {self._pid}, of which this one, {os.getpid()}, is a forked child: its "
                "results do not arrive here"
            )
        while (block := self._wait_next()) is None:
            if self._gauge is not None:
                self._gauge.tick(self)  # not under the lock: it may take its time
        return block

    def _wait_next(self) -> _Block | None:
        """Wait for that block; None: not there yet, and it is time to show how far the items are."""
        with self._changed:
            place = self._taken if self._is_ordered else None
            self._wanted = place
            try:
                while (found := self._found(place)) is None:
                    left = None if self._deadline is None else self._deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise FuturesTimeoutError
                    if self._gauge is not None and (left := self._gauge.pause(left)) == 0:
                        return None
                    self._changed.wait(left)
                return found
            finally:
                self._wanted = -1

    def _found(self, place: int | None) -> _Block | None:
        if place is None:
            return self._blocks.pop(self._order.popleft()) if self._order else None
        return self._blocks.pop(place, None)
