"""Run several items of a map(), one after the other, in the worker. Each is claimed, and its result in the outbox, by
itself: so a death, and what is taken back, concern single items, as if each were a task (RULES 1, 12).

What an ordinary task costs besides its call is paid once for all of them. A task with options never comes here.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from .. import namespace, serialize
from ..core.messages import (
    FLUSH_SECONDS,
    TaskFlag,
    TaskItem,
    encode_item,
    encode_item_error,
    encode_item_warnings,
    encode_items_end,
    encode_items_head,
    unpack_table,
)
from .memory import MemoryLimits, max_rss

if TYPE_CHECKING:
    from ..cell import Cell
    from .call import CallRunner
    from .outbox import Outbox


class ChunkRunner:
    """Run tasks of several items.

    Args:
        cell: claims items.
        runner: runs single calls; has the warnings.
        outbox: takes the results.
        limits: what the process may use of memory.
    """

    def __init__(self, cell: Cell, runner: CallRunner, outbox: Outbox, limits: MemoryLimits) -> None:
        self._cell = cell
        self._runner = runner
        self._outbox = outbox
        self._limits = limits
        self._pid = os.getpid()
        self._call, self._fn, self._fillings = b"", None, 0

    def run(self, task: TaskItem) -> int:
        """Run the items, as far as they are not withdrawn and memory allows; return the ordinal of the last."""
        runner, cell, outbox, limits = self._runner, self._cell, self._outbox, self._limits
        runner.begin_chunk(task.task_id)
        place, bounds = unpack_table(task.parts[1])
        blob = task.parts[2]
        ordinal, start = task.ordinal, bounds[0]
        group = _Group(outbox, task)
        group.begin()
        call = bytes(task.parts[0])
        is_shared = bool(task.flags & TaskFlag.SHARED)
        fn, failure, is_loaded = None, None, False
        clock = time.perf_counter
        for end in bounds[1:]:
            if not cell.claim(ordinal):
                break
            if not is_loaded:
                # Only now: unpickling may take long, or kill the process, and then it is this item's. What nobody has
                # claimed is taken back and given to the next worker, who would fare the same, for ever.
                fn, failure = self._load_function(call, is_shared)
                is_loaded = is_shared
            flags, number = 0, b""
            if failure is None:
                flags, record, number = self._run_item(fn, blob[start:end])
            else:
                record = failure
            flags |= runner.carrier.forget()
            if os.getpid() != self._pid:
                os._exit(0)  # the item forked and its child came back: there is only one worker here
            cell.end(ordinal)
            if runner.has_caught:
                record = encode_item_warnings(runner.take_warnings()) + record
            if flags:
                runner.end_chunk(group.close())  # what is said of the buffers is said of one item
                group.begin()
            group.add(place, record, flags, number)
            if flags:
                group.close()
                group.begin()
            cell.finish(ordinal)
            if clock() - outbox.flushed_at > FLUSH_SECONDS:
                runner.end_chunk(group.close())
                outbox.flush()
                group.begin()
            start = end
            ordinal += 1
            place += 1
            if limits.is_exceeded():
                break
        runner.carrier.forget()  # of an item that was not claimed
        runner.end_chunk(group.close())
        return ordinal - 1

    def _load_function(self, call: bytes, is_shared: bool) -> tuple[Any, bytes | None]:
        """Return the function, or the record of why there is none; the one before if nobody can tell.

        What the client has sent since may have replaced what came with the call: then it is put back.
        """
        if is_shared and call == self._call and namespace.fillings() == self._fillings:
            return self._fn, None
        try:
            fn = serialize.loads(call)
            self._call, self._fn = (call, fn) if is_shared else (b"", None)
            self._fillings = namespace.fillings()
            return fn, None
        except BaseException as error:
            return None, self._record_error(error, "unpickling the call")

    def _run_item(self, fn: Any, data: memoryview) -> tuple[int, bytes, bytes]:
        """Return the record of an item's result or error; nothing that the item raises leaves this.

        Returns:
            The flags of its outcome, the record, and the part that says where its large buffers are.
        """
        carrier = self._runner.carrier
        doing = "unpickling the call"
        try:
            self._limits.impose()
            args = carrier.loads(data)
            doing = ""
            value = fn(*args)
            self._limits.lift()
            doing = "pickling the result"
            flags, (part, *rest) = carrier.pickle(value)
            return flags, encode_item(part), rest[0] if rest else b""
        except BaseException as error:
            self._limits.lift()
            return 0, self._record_error(error, doing), b""

    def _record_error(self, error: BaseException, doing: str) -> bytes:
        parts = self._runner.describe_error(error, doing)
        return encode_item_error(*parts)


class _Group:
    """Results of consecutive items in the outbox, under one head, which goes there with the first."""

    def __init__(self, outbox: Outbox, task: TaskItem) -> None:
        self._outbox = outbox
        self._task = task
        self._is_open = False
        self._started = self._began = self._cpu = 0.0

    def begin(self) -> None:
        """Start the clocks."""
        self._started, self._began, self._cpu = time.time(), time.perf_counter(), time.process_time()

    def add(self, place: int, record: bytes, flags: int = 0, number: bytes = b"") -> None:
        """Add the record of the item at a place; what has no room in the outbox is sent, after what is there.

        Args:
            place, record: of the item.
            flags, number: of the outcome that is opened with it.
        """
        outbox = self._outbox
        if self._is_open and outbox.put(record, 0):
            return
        head = encode_items_head(self._task.task_id, self._task.attempt, place, flags, number)
        data = head + record
        if self._is_open or not outbox.put(data):
            self.close()
            outbox.flush()
            self.begin()
            if not outbox.put(data):
                outbox.send(data)
                return
        self._is_open = True

    def close(self) -> float:
        """Add no more; return how long it took."""
        seconds = time.perf_counter() - self._began
        if self._is_open:
            times = (self._started, seconds, time.process_time() - self._cpu, max_rss())
            self._outbox.put(encode_items_end(*times), 0)  # if there is no room, nothing follows
            self._is_open = False
        return seconds
