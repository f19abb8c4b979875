"""Buffers leave the pickle that needs them (pickle protocol 5), and are put in again: large ones travel beside it.

    sender:    pickle with Buffers --> bytes that name lengths, and views of the memory itself
    receiver:  with incoming(content): unpickle --> objects whose memory is the content, not a copy of it

How the content gets there is not known here. What is not large stands behind the pickle, in one piece with it: pickle
makes room for it in steps, and in each anew, and a pickle is searched for names.
"""

from __future__ import annotations

import contextlib
import pickle
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Any

APART_BYTES_MIN = 8 * 1024
"""A buffer from this size on is left out of its pickle."""
BESIDE_BYTES_MIN = 256 * 1024
"""Buffers of this size in all travel beside it: smaller ones are copied sooner than they are mapped."""
NEVER = 1 << 62
"""As beside_bytes_min: all are put behind the pickle."""
ALIGNMENT = 64
"""Of each buffer in the content, in bytes: what numpy gives its own arrays."""


def apart(value: Any) -> Any:
    """Return what stands for a value in a pickle: bytes can leave it only so."""
    return _Apart(value) if type(value) is bytes and len(value) >= APART_BYTES_MIN else value


def apart_each(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values with what stands for them in one pickle; what is the same object twice is so there, too."""
    if bytes not in map(type, values):
        return values
    stands = {id(value): apart(value) for value in values}
    return tuple(stands[id(value)] for value in values)


class _Apart:
    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return bytes, (pickle.PickleBuffer(self._data),)


class Buffers:
    """The buffers that a pickle leaves out.

    Args:
        bytes_min: smaller ones stay in.
        beside_bytes_min: if all that were left out are smaller, they are put behind the pickle.

    Attributes:
        views: the memory of those left out, in the order the pickle names them. It is the object's own.
    """

    __slots__ = ("_beside_bytes_min", "_bytes_min", "views")

    def __init__(self, bytes_min: int = APART_BYTES_MIN, beside_bytes_min: int = BESIDE_BYTES_MIN) -> None:
        self._bytes_min = bytes_min
        self._beside_bytes_min = beside_bytes_min
        self.views: list[memoryview] = []

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Leave a buffer out, or return True: it stays in. For pickle, as its buffer_callback."""
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if view.nbytes < self._bytes_min:
            return True
        self.views.append(view)
        return False

    def begin(self) -> None:
        """Forget what an earlier pickle has left out."""
        if self.views:
            self.views = []

    def join(self) -> bytes:
        """Return the content that has all of them, where there is no shared memory for it."""
        offsets = offsets_of([view.nbytes for view in self.views])
        content = bytearray(offsets[-1])
        for offset, view in zip(offsets, self.views, strict=False):
            content[offset : offset + view.nbytes] = view
        return bytes(content)

    def wrap(self, data: bytes) -> bytes:
        """Return what stands for a pickle: itself, if it has left nothing out; with its buffers, if they are small."""
        if not self.views:
            return data
        lengths = [view.nbytes for view in self.views]
        if sum(lengths) >= self._beside_bytes_min:
            return pickle.dumps(_Parted(lengths, data), 5)
        views, self.views = self.views, []
        return _whole(data, views)


_LENGTH = struct.Struct("<cQ")
_BYTES, _BYTEARRAY = b"\x8e", b"\x96"
_OPEN = b"\x80\x05ccrew_executor.buffers\nput_in\n("  # a global, and the mark before its arguments
_CLOSE = b"tR."  # all since the mark, the call, the end


def _whole(data: bytes, views: Sequence[memoryview]) -> bytes:
    """Return a pickle of what put_in() returns for another and its buffers, made by hand: each is copied once."""
    pieces = [_OPEN, _LENGTH.pack(_BYTES, len(data)), data]
    for view in views:
        pieces += (_LENGTH.pack(_BYTES if view.readonly else _BYTEARRAY, view.nbytes), view)  # type: ignore[arg-type]
    return b"".join((*pieces, _CLOSE))


def put_in(data: bytes, *buffers: bytes | bytearray) -> Any:
    """Unpickle what these buffers were left out of."""
    return pickle.loads(data, buffers=buffers)


def offsets_of(lengths: Sequence[int]) -> list[int]:
    """Return where buffers of these lengths begin in their content, and its length."""
    offsets = [0]
    for length in lengths:
        offsets.append(-(-(offsets[-1] + length) // ALIGNMENT) * ALIGNMENT)
    return offsets


@contextlib.contextmanager
def incoming(content: Any) -> Iterator[None]:
    """Let what is unpickled meanwhile, in this thread, find the buffers that it was pickled without.

    Args:
        content: a bytes-like object, or something with a `view()` of one; None: nothing was left out.
    """
    before = getattr(_here, "content", None)
    _here.content = content
    try:
        yield
    finally:
        _here.content = before


_here = threading.local()


class _Parted:
    def __init__(self, lengths: list[int], data: bytes) -> None:
        self.lengths, self.data = lengths, data

    def __reduce__(self) -> tuple[Any, ...]:
        return (_join, (self.lengths, self.data))


def _join(lengths: list[int], data: bytes) -> Any:
    content = getattr(_here, "content", None)
    if content is None:
        raise pickle.UnpicklingError("the buffers that this was pickled without are not at hand")
    view = memoryview(content.view() if hasattr(content, "view") else content)
    views = [view[start : start + length] for start, length in zip(offsets_of(lengths), lengths, strict=False)]
    return pickle.loads(data, buffers=views)
