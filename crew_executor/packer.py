"""Pickles calls of one executor, with what goes beside them: large buffers and shared constants. In the client.

It must not refer to the executor: map() keeps the packer in tasks, which the dispatcher keeps, which lives until the
executor is forgotten.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from . import table
from .buffers import NEVER, Buffers, apart_each
from .heads import Heads
from .segments import Segment, SegmentPool
from .serialize import PROTOCOL
from .shares import Beside, Shares

_PLAIN = frozenset((int, float, bool, complex, str, type(None)))
"""Types without a large buffer that could travel beside the pickle, nor a shared constant."""


class Packer:
    """Pickle the calls of one executor.

    Args:
        shares: its constants.
        segments: where large buffers go.
    """

    def __init__(self, shares: Shares, segments: SegmentPool) -> None:
        self.shares = shares
        self._segments = segments
        heads = Heads()
        self.head_of, self.command_of, self._dumps = heads.head_of, heads.command_of, heads.dumps

    def pack_call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any],
        reduce: Callable[[Any], Any] | None,
    ) -> tuple[bytes, bytes, Beside | None]:  # fmt: skip
        """Return a pickled call in two: the head, which is its function's, or nothing; the rest; and as pack() does."""
        if reduce is not None:
            return (b"", *self.pack((function, arguments, keywords), reduce))
        if not self.shares.is_empty:
            with self.shares.collecting() as shares:  # also where it is looked whether globals are as they were
                head, data, segment = self._pack_headed(self.head_of(function), function, arguments, keywords)
            return head, data, Beside(segment, tuple(shares.values())) if shares or segment is not None else None
        known = self.head_of(function)
        if known is not None and _PLAIN.issuperset(map(type, arguments)) and (not keywords or _are_plain(keywords)):
            return known, pickle.dumps((arguments, keywords), PROTOCOL), None
        head, data, segment = self._pack_headed(known, function, arguments, keywords)
        return head, data, None if segment is None else Beside(segment)

    def _pack_headed(
        self, head: bytes | None, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[bytes, bytes, Segment | None]:
        """Pickle a call in two; return its large buffers in a segment, if there are any and they have room in one."""
        buffers = Buffers()
        arguments = apart_each(arguments)
        packed = self._dumps(head, function, arguments, keywords, buffers)
        if not buffers.views:
            return (*packed, None)
        segment = self._segments.fill(buffers.views)
        if segment is not None:
            return (*packed, segment)
        return (*self._dumps(head, function, arguments, keywords, Buffers(beside_bytes_min=NEVER)), None)

    def pack(self, call: Any, reduce: Callable[[Any], Any] | None = None) -> tuple[bytes, Beside | None]:
        """Return a pickled call, its arguments, or an item of a map(), and what must go beside it, if anything.

        `reduce` as pickle's.
        """
        if self.shares.is_empty:
            data, segment = self._pack_parted(call, reduce)
            return data, None if segment is None else Beside(segment)
        with self.shares.collecting() as shares:
            data, segment = self._pack_parted(call, reduce)
        return data, Beside(segment, tuple(shares.values())) if shares or segment is not None else None

    def _pack_parted(self, call: Any, reduce: Callable[[Any], Any] | None) -> tuple[bytes, Segment | None]:
        """Pickle a call; return its large buffers in a segment, if there are any and they have room in one."""
        buffers = Buffers()
        data = table.dumps_call(call, reduce, buffers)
        if not buffers.views:
            return data, None
        segment = self._segments.fill(buffers.views)
        if segment is None:
            data = table.dumps_call(call, reduce, Buffers(beside_bytes_min=NEVER))
        return data, segment


def _are_plain(keywords: dict[str, Any]) -> bool:
    # The names, too: f(**{name: 1}) takes those of a class of the user's.
    return _PLAIN.issuperset(map(type, keywords)) and _PLAIN.issuperset(map(type, keywords.values()))
