"""Pickles calls of one executor, with what goes beside them: large buffers and shared constants. In the client.

It must not refer to the executor: map() keeps the packer in tasks, which the dispatcher keeps, which lives until the
executor is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, ModuleType
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
        self._plain_calls = PlainCalls()

    def pack(self, call: Any, reduce: Callable[[Any], Any] | None = None) -> tuple[bytes, Beside | None]:
        """Return a pickled call and what must go beside it, if there is anything. `reduce` as pickle's."""
        if self.shares.is_empty:
            if reduce is None and _is_plain(call):
                data = self._plain_calls.dumps(call[0], call[1])
                return namespace.dumps_call(call) if data is None else data, None
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


def _is_plain(call: Any) -> bool:
    """Answer whether this is a call with nothing that could go beside it: most are, and those are pickled sooner.

    It may also be the arguments of an item of map(). And a partial or a method may hold as much as an argument.
    """
    if type(call) is not tuple or len(call) != 3 or type(call[2]) is not dict or call[2]:
        return False
    function, arguments, _keywords = call
    if type(function) is FunctionType:
        is_bare = not (function.__closure__ or function.__defaults__ or function.__kwdefaults__)
    else:
        is_bare = type(function) is BuiltinFunctionType and type(function.__self__) is ModuleType
    return is_bare and type(arguments) is tuple and _PLAIN.issuperset(map(type, arguments))
