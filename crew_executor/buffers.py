"""Large buffers travel beside the pickle that needs them (pickle protocol 5): what is left out, and put in again.

    sender:    pickle with Buffers --> bytes that name lengths, and views of the memory itself
    receiver:  with incoming(content): unpickle --> objects whose memory is the content, not a copy of it

How the content gets there is not known here.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterator, Sequence
from typing import Any

BUFFER_BYTES_MIN = 512 * 1024
"""A buffer from this size on travels beside its pickle: a smaller one is copied sooner than it is mapped."""
ALIGNMENT = 64
"""Of each buffer in the content, in bytes: what numpy gives its own arrays."""


class Buffers:
    """The buffers that a pickle leaves out.

    Args:
        bytes_min: smaller ones stay in.

    Attributes:
        views: the memory of those left out, in the order the pickle names them. It is the object's own.
    """

    __slots__ = ("_bytes_min", "views")

    def __init__(self, bytes_min: int = BUFFER_BYTES_MIN) -> None:
        self._bytes_min = bytes_min
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
        """Return what stands for a pickle: itself, if it has left nothing out."""
        if not self.views:
            return data
        return pickle.dumps(_Parted([view.nbytes for view in self.views], data), 5)


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
