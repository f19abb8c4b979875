"""Large buffers in the worker: those that come beside a task, and those that leave beside its result.

A task's buffers are mapped before it starts and forgotten when it is over; if nothing of it refers to them then, the
outcome says so, and the client uses their memory again. Must not know what a task is about.
"""

from __future__ import annotations

import errno
import pickle
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from .. import namespace, serialize, shares
from ..buffers import NEVER, Buffers, apart, incoming
from ..core.messages import Frame, OutcomeFlag, TaskFlag, TaskItem, decode_control
from ..segment_port import SegmentPort, is_number, pack_number, unpack_number
from ..segments import FREE_SECONDS, Arrival, LostArrival, SegmentPool
from .functions import function_of

if TYPE_CHECKING:
    from collections.abc import Callable


PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None)})
"""Results of these types name no module, and leave nothing out."""


class Carrier:
    """The large buffers of one worker.

    Args:
        port: to the client.
        undisturbed: keeps interrupts of the running task out of what must not be torn.
    """

    def __init__(self, port: SegmentPort, undisturbed: Callable[[], AbstractContextManager[None]]) -> None:
        self._port = port
        self._undisturbed = undisturbed
        self._pool = SegmentPool()
        self._content: Any = None  # of the running task
        self._buffers = Buffers()

    def receive(self, task: TaskItem) -> TaskItem:
        """Take what came beside a task; return the task without the part that says what that is."""
        *parts, last = task.parts
        self._content = self._taken(last) or bytearray(last)  # the frame's memory is used again
        return task._replace(parts=tuple(parts), flags=task.flags & ~TaskFlag.BESIDE)

    def receive_share(self, frame: Frame) -> None:
        """Take a constant, or forget it."""
        fields, parts = decode_control(frame.body)
        if not parts:
            shares.forget(fields["share"])
            return
        data, *rest = map(bytes, parts)
        shares.receive(fields["share"], data, (self._taken(rest[0]) or rest[0]) if rest else None)

    def _taken(self, part: bytes | memoryview) -> Arrival | None:
        """Return the segment that a part names, or None if it is the content itself."""
        if not is_number(part):
            return None
        # It is there: the client hands it over before it names it.
        return self._port.take(unpack_number(part)) or LostArrival(OSError(errno.ENOENT, "it is missing"))

    def loads(self, data: Any) -> Any:
        """Unpickle a call, with what came beside it."""
        if self._content is None:
            return serialize.loads(data)
        with incoming(self._content):
            return serialize.loads(data)

    def loads_headed(self, head: bytes, data: Any) -> tuple[Any, Any, Any]:
        """Unpickle a call of which the head is apart."""
        function = function_of(head)
        rest = self.loads(data)
        return rest if function is None else (function, *rest)

    def forget(self) -> int:
        """Let go of the task's buffers; return RELEASED if nothing else has kept them."""
        content, self._content = self._content, None
        return OutcomeFlag.RELEASED if isinstance(content, Arrival) and content.let_go() else 0

    def pickle(self, value: Any) -> tuple[int, tuple[bytes, ...]]:
        """Pickle a result; return the flags of its outcome, and its parts."""
        value = apart(value)
        if type(value) in PLAIN:
            return 0, (pickle.dumps(value, serialize.PROTOCOL),)
        buffers = self._buffers
        data = namespace.dumps_answer(value, None, buffers)
        if not buffers.views:
            return 0, (data,)
        number = self._lend()
        if number is None:
            return 0, (namespace.dumps_answer(value, None, Buffers(beside_bytes_min=NEVER)),)
        return OutcomeFlag.BESIDE, (data, pack_number(number))

    def _lend(self) -> int | None:
        self._port.look()
        try:
            segment = self._pool.fill(self._buffers.views)
            if segment is None:
                return None
            with self._undisturbed():  # the client would keep what no outcome names
                return self._port.lend(segment, is_kept=True)
        finally:
            self._buffers.begin()

    def trim(self) -> float | None:
        """Give up memory that has not been used for a while; return in how many seconds to come again, or None."""
        if self._pool.is_empty:
            return None
        times = [seconds for seconds in (self._port.leave(FREE_SECONDS), self._pool.trim()) if seconds is not None]
        return min(times, default=None)
