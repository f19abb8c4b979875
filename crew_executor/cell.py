"""The memory a local worker shares with its client: what is true of it even when it is dead.

A mapping of one page of 8-byte slots and an outbox. It costs nanoseconds where a message costs microseconds, and it
survives the worker. Written by the worker: which task it started and finished last, since when, until when it may run,
and finished outcomes not yet sent. Written by the client: up to which ordinal tasks are withdrawn. Written by the
supervisor: which task is to be interrupted, for which timeout the worker was killed, and when it will look again.

Claiming a task and withdrawing it race. The two sides and their steps:

    worker: 1 started = ordinal      2 read `withdrawn`
    client: 1 withdrawn = last sent  2 read `started`

With a full memory barrier between each side's steps, at least one sees the other's write. If only one does, both
know who has the task. If both do, the client's reading decides: it writes it as the verdict (`kept`), and the worker,
having seen the withdrawal, waits for the verdict. The barrier costs the worker nothing where the client can make the
kernel run it on all processors (membarrier, twice 1.3 us a withdrawal); elsewhere both sides do their steps under a
lock on the file (2.5 us a task).

Nothing here knows what an outcome looks like, and nothing sends or receives.
"""

from __future__ import annotations

import mmap
import os
import sys
import time

from . import late

PAGE_BYTES = 4096
OUTBOX_BYTES = 256 * 1024
CELL_BYTES = PAGE_BYTES + OUTBOX_BYTES

# Slots of 8 bytes; those the client or the supervisor writes are on cache lines of their own.
_STARTED, _FINISHED, _STARTED_AT, _EPOCH, _USED, _NEEDS_LOCK, _DEADLINE, _DEADLINE_FOR = 0, 1, 2, 3, 4, 5, 6, 7
_ENDED = 8
_WITHDRAWN, _KEPT, _KEPT_FOR = 16, 17, 18
_INTERRUPT, _TIMED_OUT, _LOOK_AT = 32, 33, 34

_READS_MAX = 10
_LOCK_TRIES = 50
"""Times 0.1 ms: how long the client waits for a worker that holds the lock, at most."""

_MEMBARRIER_GLOBAL_EXPEDITED, _MEMBARRIER_REGISTER = 1 << 1, 1 << 2
_MEMBARRIER_NUMBER = {"x86_64": 324, "aarch64": 283, "ppc64le": 365, "riscv64": 283}


class _Membarrier:
    """Linux's membarrier(2), or nothing: `is_available` says which."""

    def __init__(self) -> None:
        self.is_available = False
        number = _MEMBARRIER_NUMBER.get(os.uname().machine) if sys.platform == "linux" else None
        if number is None or os.environ.get("CREW_EXECUTOR_NO_MEMBARRIER"):
            return
        with late.imports():
            import ctypes  # late: 10 ms

        call = ctypes.CDLL(None, use_errno=True).syscall
        self._call, self._number = call, number
        supported = call(number, 0, 0, 0)
        wanted = _MEMBARRIER_GLOBAL_EXPEDITED | _MEMBARRIER_REGISTER
        self.is_available = supported >= 0 and supported & wanted == wanted

    def register(self) -> bool:
        """Let barriers of other processes reach this one."""
        return self.is_available and self._call(self._number, _MEMBARRIER_REGISTER, 0, 0) == 0

    def run(self) -> None:
        """Run a full memory barrier on every processor that runs a registered process."""
        self._call(self._number, _MEMBARRIER_GLOBAL_EXPEDITED, 0, 0)


_membarrier: _Membarrier | None = None


def _barrier() -> _Membarrier:
    global _membarrier
    if _membarrier is None:
        _membarrier = _Membarrier()
    return _membarrier


def load_barrier() -> None:
    """Import what barriers need, in the caller's thread.

    A Ctrl-C in an import of the main thread may leave CPython's import lock locked. A thread of ours that came to an
    import of its own then, and held the dispatcher's lock, would hold it for ever.
    """
    _barrier()


def run_barrier() -> None:
    """Make what this process has written visible to every worker, and theirs to it; does nothing where it cannot."""
    barrier = _barrier()
    if barrier.is_available:
        barrier.run()


def create_file(size: int = CELL_BYTES) -> int:
    """Return a new descriptor of `size` bytes of nameless memory, closed at exec."""
    if hasattr(os, "memfd_create") and not os.environ.get("CREW_EXECUTOR_NO_MEMFD"):
        fd = os.memfd_create("crew_executor")
    else:
        import tempfile  # late: not needed on Linux

        fd, path = tempfile.mkstemp(prefix="crew_executor-")
        os.unlink(path)
    os.ftruncate(fd, size)
    return fd


class Cell:
    """One side's view of the shared memory. close() it; the descriptor is closed with it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, CELL_BYTES)
        self._bytes = memoryview(self._map)
        self._slots = self._bytes[:PAGE_BYTES].cast("Q")
        self._clocks = self._bytes[:PAGE_BYTES].cast("d")
        self._outbox = self._bytes[PAGE_BYTES:]
        self._locks = False

    def close(self) -> None:
        """Unmap and close. Idempotent."""
        if self.fd < 0:
            return
        for view in (self._outbox, self._clocks, self._slots, self._bytes):
            view.release()
        self._map.close()
        os.close(self.fd)
        self.fd = -1

    def _try_lock(self) -> bool:
        """Lock the file for this process; False when the other side holds it for longer than it ever should."""
        import fcntl

        for _ in range(_LOCK_TRIES):
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.0001)
            else:
                return True
        return False

    def _unlock(self) -> None:
        import fcntl

        fcntl.lockf(self.fd, fcntl.LOCK_UN)

    # ------------------------------------------------------------------ the worker's side

    def adopt(self) -> None:
        """Choose the barrier; called once by the worker before it asks for work."""
        self._locks = not _barrier().register()
        self._slots[_NEEDS_LOCK] = self._locks

    def claim(self, ordinal: int) -> bool:
        """Mark a task as started; False when the client has withdrawn it: then it must not run."""
        slots = self._slots
        if self._locks:
            while not self._try_lock():
                continue  # the client decides under it: microseconds, unless it is stopped
            slots[_STARTED] = ordinal
            self._unlock()
        else:
            slots[_STARTED] = ordinal
        if ordinal > slots[_WITHDRAWN]:
            self._clocks[_STARTED_AT] = time.monotonic()
            return True
        while slots[_KEPT_FOR] < slots[_WITHDRAWN]:  # the client is between its two steps: microseconds
            time.sleep(0.00005)
        return ordinal <= slots[_KEPT]

    def end(self, ordinal: int) -> None:
        """Mark the started task's call as over: to hand over its outcome may take as long as it likes."""
        self._slots[_ENDED] = ordinal

    def finish(self, ordinal: int) -> None:
        """Mark the started task as finished; its outcome is in the outbox or sent."""
        self._slots[_FINISHED] = ordinal

    def put(self, item: bytes) -> bool:
        """Append an outcome to the outbox; False when it does not fit: then send what is there, or the item itself."""
        used = self._slots[_USED]
        end = used + len(item)
        if end > OUTBOX_BYTES:
            return False
        self._outbox[used:end] = item
        self._slots[_USED] = end  # after the bytes: a reader never sees half an item
        return True

    def peek(self) -> memoryview:
        """Return what is in the outbox, not a copy: it holds until more is put there after clear()."""
        return self._outbox[: self._slots[_USED]]

    def clear(self) -> None:
        """Empty the outbox, after it was sent: whoever reads in between sees an item twice, never not at all."""
        self._slots[_EPOCH] += 1
        self._slots[_USED] = 0
        self._slots[_EPOCH] += 1

    def set_deadline(self, ordinal: int, deadline: float) -> bool:
        """Say until when the started task may run; return whether the supervisor must be woken for it.

        The supervisor sleeps until the earliest deadline that it knows. Without a race for the worker's word:
            worker:     1 writes the deadline           2 reads when the supervisor will look
            supervisor: 1 writes when it will look      2 barrier; reads the deadlines again
        """
        self._clocks[_DEADLINE] = deadline
        self._slots[_DEADLINE_FOR] = ordinal
        look_at: float = self._clocks[_LOOK_AT]
        return deadline < look_at or look_at == 0.0 or self._locks

    def is_to_be_interrupted(self, ordinal: int) -> bool:
        """Answer whether this very task is to be interrupted."""
        return self._slots[_INTERRUPT] == ordinal

    # ------------------------------------------------------------------ the supervisor's side

    def interrupt(self, ordinal: int) -> None:
        """Name the task that the interrupt is for; the signal comes after it."""
        self._slots[_INTERRUPT] = ordinal

    def mark_timed_out(self, ordinal: int) -> None:
        """Leave word for the client that the worker is killed for this task's timeout."""
        self._slots[_TIMED_OUT] = ordinal

    def deadline(self) -> tuple[int, float]:
        """Return the running task and until when it may run; ordinal 0: no running task has a deadline."""
        slots = self._slots
        ordinal = slots[_DEADLINE_FOR]
        deadline = self._clocks[_DEADLINE]
        is_current = ordinal == slots[_STARTED] > slots[_ENDED] and ordinal == slots[_DEADLINE_FOR]
        return (ordinal, deadline) if is_current else (0, float("inf"))

    @property
    def ended(self) -> int:
        """The ordinal of the last task whose call is over, or 0; it is finished once its outcome is handed over."""
        return self._slots[_ENDED]

    def plan_look(self, at: float) -> None:
        """Say when the supervisor will look at the deadline again; see set_deadline()."""
        self._clocks[_LOOK_AT] = at

    # ------------------------------------------------------------------ the client's side

    @property
    def interrupted(self) -> int:
        """The ordinal of the last task that was to be interrupted, or 0."""
        return self._slots[_INTERRUPT]

    @property
    def timed_out(self) -> int:
        """The ordinal of the task for whose timeout the worker was killed, or 0."""
        return self._slots[_TIMED_OUT]

    @property
    def started(self) -> int:
        """The ordinal of the last task the worker started, or 0."""
        return self._slots[_STARTED]

    @property
    def finished(self) -> int:
        """The ordinal of the last task the worker finished, or 0."""
        return self._slots[_FINISHED]

    @property
    def started_at(self) -> float:
        """When the last task started: seconds of the machine's monotonic clock."""
        return self._clocks[_STARTED_AT]

    def withdraw(self, last_sent: int) -> int:
        """Withdraw every task up to `last_sent` that has not started; return the last ordinal the worker keeps.

        `started` inside the range of an earlier withdrawal is a task that the worker is about to skip, or has
        skipped: it stays withdrawn. Were it counted as kept now, the worker could still read this verdict and run it.
        """
        slots = self._slots
        is_locked = bool(slots[_NEEDS_LOCK]) or not _barrier().is_available
        if is_locked and not self._try_lock():
            return last_sent  # the worker stands still between lock and unlock: nothing can be said, nothing is taken
        earlier = slots[_WITHDRAWN]
        slots[_WITHDRAWN] = last_sent
        if not is_locked:
            _barrier().run()
        started = slots[_STARTED]
        if started > earlier:
            slots[_KEPT] = started
        if not is_locked:
            _barrier().run()  # the verdict before the word that it is there
        slots[_KEPT_FOR] = last_sent
        kept = slots[_KEPT]
        if is_locked:
            self._unlock()
        return kept

    def read_outbox(self) -> bytes:
        """Return the finished outcomes that may not have been sent, also while the worker lives. Never waits.

        Nothing is returned while the worker empties the outbox, or died doing so: what was in it had been sent.
        """
        for _ in range(_READS_MAX):
            epoch = self._slots[_EPOCH]
            if epoch % 2:
                return b""
            items = bytes(self._outbox[: self._slots[_USED]])
            if epoch == self._slots[_EPOCH]:
                return items
        return b""  # it is being emptied all the time: everything arrives by the link
