"""Nameless shared memory for large buffers: one process fills a segment, another reads it in place, and lets go of it.

    owner:   fill --> lend, by a SegmentPort --> when all borrowers have let go: fill again, for something else
    reader:  map privately --> objects whose memory it is --> when the last of them is gone, the mapping is gone

Memory that was touched before is filled ten times as fast as fresh pages (100 MB: 11 ms, 150 ms): so segments are used
again. A reader maps privately: what it writes into its objects is its own, and the content stays what it was, for the
next attempt of a task. Nothing has a name, so nothing is left by whoever is killed: the kernel frees what nobody maps.

An owner must not fill again what may still be read. A reader that has forked meanwhile cannot know whether its child
reads, so it never says that it has let go.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from .buffers import offsets_of

SEGMENTS_MAX = 32
"""Segments that an owner has at a time, lent ones included; each takes two descriptors. What comes on top travels over
the link."""
FREE_BYTES_MAX = 512 * 1024 * 1024
FREE_SECONDS = 10.0
"""How much of what is not in use is kept for the next buffers, beside the last segment; and for how long. So long, too,
a worker waits for a client that reads what it has lent; then it leaves it to the client."""
MAPPINGS_MAX = 64
"""Mappings of others' segments that a process has; each takes a descriptor. What comes on top is copied."""
COPY_BYTES = 8 * 1024 * 1024
"""Copied at a time: other threads run in between."""


def are_available() -> bool:
    """Answer whether this system has such memory."""
    return hasattr(os, "memfd_create") and not os.environ.get("CREW_EXECUTOR_NO_MEMFD")


class _Memory:
    """A segment's memory, as its owner has it, whoever may use it."""

    __slots__ = ("_fd", "free_since", "map", "size")

    def __init__(self, size: int) -> None:
        self._fd = os.memfd_create("crew_executor-segment")
        try:
            # Here, where it can fail, not by a SIGBUS where it is filled; and zeroed by the kernel in one go. A signal
            # undoes a step and has it begun again: in small ones, a timer's signals cannot keep it from its end.
            for start in range(0, size, COPY_BYTES):
                os.posix_fallocate(self._fd, start, min(COPY_BYTES, size - start))
            self.map = mmap.mmap(self._fd, size)
        except BaseException:
            os.close(self._fd)
            raise
        self.size = size
        self.free_since = 0.0

    def fileno(self) -> int:
        return self._fd

    def close(self, close_fd: Callable[[int], None] = os.close) -> None:
        """Give the memory up; whoever has mapped it keeps it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close_fd(fd)
            with contextlib.suppress(BufferError):  # its content is being sent: it goes with the last view
                self.map.close()


class Segment:
    """A segment with its content, for one payload. When nobody refers to it any more its memory is used again.

    Attributes:
        size: bytes of its content.
        borrowers: how many readers may still read it. If there are any at its end, its memory is not used again.
    """

    __slots__ = ("__weakref__", "_memory", "_pool", "borrowers", "size")

    def __init__(self, pool: SegmentPool, memory: _Memory, size: int) -> None:
        self._pool = pool
        self._memory = memory
        self.size = size
        self.borrowers = 0

    def fileno(self) -> int:
        """Return a descriptor of the memory, which belongs to the segment."""
        return self._memory.fileno()

    def view(self) -> memoryview:
        """Return the content."""
        return memoryview(self._memory.map)[: self.size]

    def __del__(self) -> None:
        self._pool._end_of(self._memory, is_reusable=not self.borrowers)


class SegmentPool:
    """The segments of one owner."""

    def __init__(self) -> None:
        self._free: deque[_Memory] = deque()  # appended to by finalisers, in any thread: so there is no lock
        self._all: set[_Memory] = set()
        self._is_closed = not are_available()

    def fill(self, views: Sequence[memoryview]) -> Segment | None:
        """Return a segment with a copy of these buffers; None if there can be none: they must travel otherwise."""
        offsets = offsets_of([view.nbytes for view in views])
        segment = self.make(offsets[-1])
        if segment is None:
            return None
        target = segment.view()
        for offset, view in zip(offsets, views, strict=False):
            flat = view.cast("B") if view.format != "B" or view.ndim != 1 else view
            for start in range(0, len(flat), COPY_BYTES):
                piece = flat[start : start + COPY_BYTES]
                target[offset + start : offset + start + len(piece)] = piece
        return segment

    def make(self, size: int) -> Segment | None:
        """Return a segment for content of so many bytes, whose memory holds anything; None as above."""
        memory = self._take(size)
        return None if memory is None else Segment(self, memory, size)

    def trim(self, seconds: float = FREE_SECONDS) -> float | None:
        """Give up what has not been used for so long; return in how many seconds to come again, or None."""
        now = time.monotonic()
        while self._free:
            try:
                memory = self._free.popleft()
            except IndexError:
                break
            left = memory.free_since + seconds - now
            if left > 0:
                self._free.appendleft(memory)
                return left
            self._give_up(memory)
        return None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing, free or lent."""
        return not self._all

    def close(self) -> None:
        """Give up what is free, and from now on what becomes free."""
        self._is_closed = True
        self.trim(-1.0)

    def _take(self, size: int) -> _Memory | None:
        for _ in range(len(self._free)):
            try:
                memory = self._free.pop()  # the newest: it is in the processor's caches, and the others grow old
            except IndexError:
                break
            if size <= memory.size <= 2 * size:
                return memory
            self._free.appendleft(memory)
        if self._is_closed:
            return None
        if len(self._all) >= SEGMENTS_MAX:
            self.trim(-1.0)  # none of them fits
            if len(self._all) >= SEGMENTS_MAX:
                return None
        try:
            memory = _Memory(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        except OSError:  # descriptors, memory, or a kernel or jail that has none of this
            return None
        self._all.add(memory)
        return memory

    def _end_of(self, memory: _Memory, *, is_reusable: bool) -> None:
        """Take back the memory of a segment that nobody refers to."""
        if not is_reusable or self._is_closed:
            self._give_up(memory)
            return
        memory.free_since = time.monotonic()
        self._free.append(memory)
        while len(self._free) > 1 and sum(free.size for free in list(self._free)) > FREE_BYTES_MAX:
            self._give_up(self._free.popleft())

    def _give_up(self, memory: _Memory) -> None:
        self._all.discard(memory)
        memory.close()


class Arrival:
    """A segment of another process, mapped here; or a copy of it, where there are too many.

    Args:
        fd: of its memory; closed here.
        size: bytes of its content.
        on_end: called when nothing refers to the mapping any more, unless this process has forked since. In whatever
            thread that happens, at any moment: it must take no lock.
        is_constant: nothing here may write to it.
    """

    __slots__ = ("__weakref__", "_content", "_forks", "_mapping")

    def __init__(
        self, fd: int, size: int, on_end: Callable[[], None] = lambda: None, *, is_constant: bool = False
    ) -> None:
        access = mmap.PROT_READ if is_constant else mmap.PROT_READ | mmap.PROT_WRITE
        try:
            mapped = mmap.mmap(fd, size, mmap.MAP_SHARED if is_constant else mmap.MAP_PRIVATE, access)
        finally:
            os.close(fd)
        self._content: mmap.mmap | bytearray = mapped
        self._mapping = weakref.ref(mapped)
        self._forks = forks = _forks
        _mappings.add(mapped)

        def ended() -> None:
            if forks == _forks:
                on_end()

        weakref.finalize(mapped, ended).atexit = False
        if len(_mappings) > MAPPINGS_MAX and not is_constant:
            self._content = bytearray(mapped)

    def view(self) -> memoryview:
        """Return the content; as long as this view or one made of it exists, so does the mapping."""
        return memoryview(self._content)

    def let_go(self) -> bool:
        """Forget the content; return whether nothing refers to it any more, here or in a forked child."""
        self._content = _NOTHING
        return self._mapping() is None and self._forks == _forks


class LostArrival(Arrival):
    """Stands for what could not be mapped: whoever wants to read it hears why.

    Args:
        error: what came instead.
    """

    __slots__ = ("_error",)

    def __init__(self, error: OSError) -> None:
        self._error = error

    def view(self) -> memoryview:
        """Raise the error."""
        raise OSError(
            self._error.errno, f"shared memory with large buffers could not be mapped: {self._error.strerror}"
        )

    def let_go(self) -> bool:
        """Say that nothing refers to it."""
        return True


_NOTHING = bytearray()
_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
_forks = 0


def _before_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
