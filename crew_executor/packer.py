"""Pickles calls of one executor, with what goes beside them: large buffers and shared constants. In the client.

It must not refer to the executor: map() keeps the packer in tasks, which the dispatcher keeps, which lives until the
executor is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import namespace
from .buffers import Buffers
from .plain_calls import PlainCalls
from .segments import Segment, SegmentPool
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
        self._plain_calls = plain_calls = PlainCalls()
        self.command_of = plain_calls.command_of

    def pack_call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any],
        reduce: Callable[[Any], Any] | None,
    ) -> tuple[bytes, Beside | None]:  # fmt: skip
        """Return what pack() does, sooner: most calls are plain, with nothing that could go beside them."""
        if not keywords and reduce is None and self.shares.is_empty:
            for argument in arguments:
                if type(argument) not in _PLAIN:
                    break
            else:
                data = self._plain_calls.dumps(function, arguments)
                if data is not None:
                    return data, None
        return self.pack((function, arguments, keywords), reduce)

    def pack(self, call: Any, reduce: Callable[[Any], Any] | None = None) -> tuple[bytes, Beside | None]:
        """Return a pickled call, or an item of a map(), and what must go beside it, if there is anything.

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
        data = namespace.dumps_call(call, reduce, buffers)
        if not buffers.views:
            return data, None
        segment = self._segments.fill(buffers.views)
        return (namespace.dumps_call(call, reduce), None) if segment is None else (data, segment)
