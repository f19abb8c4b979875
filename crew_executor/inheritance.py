"""multiprocessing's own objects in initargs: locks, queues, values and pipes travel as they do to a new Process.

They refuse to be pickled unless a process is being spawned, and hand their descriptors to the Popen that spawns it.
While an initializer is pickled, a Courier stands in for that Popen: it keeps copies of the descriptors, which go to
each worker beside its link; in the pickle stands their place in that row. Objects of the fork context cannot travel:
their semaphores have no name.

multiprocessing's resource tracker, a process, unlinks the shared memory and semaphores that a program leaves behind. It
also counts what was only opened by name. With a tracker of its own a worker would take everybody's shared memory along
when it leaves; so workers share that of the client, as spawned children of multiprocessing do.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from typing import Any

from . import on_import, table

received: list[int] = []
"""In a worker: the descriptors that came with it, in the order of the Courier's."""

DESCRIPTORS_MAX = 48


class InheritedDescriptor:
    """A descriptor on its way; unpickled in a worker, it gives out a copy of the one that arrived."""

    def __init__(self, place: int) -> None:
        self.place = place

    def detach(self) -> int:
        """Return a descriptor that belongs to the caller."""
        return os.dup(received[self.place])


class Courier:
    """Stand in for multiprocessing's Popen while something is pickled; keeps the descriptors."""

    DupFd = InheritedDescriptor

    def __init__(self) -> None:
        self.value: Any = None  # what was pickled: a lock that is collected here takes its semaphore along
        self.descriptors: list[int] = []
        self.is_bound = False  # to this machine, whose semaphores it names
        weakref.finalize(self, _close_all, self.descriptors)

    def duplicate_for_child(self, fd: int) -> int:
        """Keep a copy of a descriptor and return its place."""
        if len(self.descriptors) >= DESCRIPTORS_MAX:
            raise ValueError(f"initargs hold more than {DESCRIPTORS_MAX} descriptors of queues and pipes")
        self.descriptors.append(os.dup(fd))
        return len(self.descriptors) - 1


def tracker_fd() -> int:
    """Return the descriptor of this process's resource tracker; -1 if it has none and does not seem to need one."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    if module is None:
        return -1
    if "multiprocessing.shared_memory" in sys.modules:
        return int(module.getfd())  # starts it
    fd = module._resource_tracker._fd
    return -1 if fd is None else fd


def load() -> None:
    """Import what take_tracker() waits for, so that workers that are forked from now on share it."""
    with contextlib.suppress(ImportError):  # where nothing is tracked
        import multiprocessing.resource_tracker  # noqa: F401


def take_tracker(fd: int) -> None:
    """In a worker: use the tracker behind this descriptor. It may be /dev/null: then nothing is tracked."""

    def take(module: Any) -> None:
        module._resource_tracker._fd = fd

    on_import.when_imported("multiprocessing.resource_tracker", take)


def _close_all(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
    descriptors.clear()


def dumps(value: Any) -> tuple[bytes, Courier | None]:
    """Pickle an initializer and its arguments.

    Returns:
        The bytes, and who keeps the descriptors that must travel beside them: alive as long as workers are launched.
    """
    if "multiprocessing.synchronize" not in sys.modules and "multiprocessing.connection" not in sys.modules:
        return table.dumps_call(value), None  # nobody can have made such an object
    from multiprocessing import context
    from multiprocessing.reduction import ForkingPickler

    synchronize = sys.modules.get("multiprocessing.synchronize")
    reducers = ForkingPickler._extra_reducers  # type: ignore[attr-defined]

    def reduce(item: Any) -> Any:
        is_semaphore = synchronize is not None and isinstance(item, synchronize.SemLock)
        courier.is_bound = courier.is_bound or is_semaphore
        if is_semaphore and item._semlock.name is None:
            # Python 3.10 would send its address, and the worker would crash with it.
            raise RuntimeError(
                f"{type(item).__name__} of the fork context, alone or in a Queue, Event or the like, cannot reach "
                "workers, which are not forked from this process: make it with multiprocessing.get_context('spawn')"
            )
        reducer = reducers.get(type(item))
        return NotImplemented if reducer is None else reducer(item)

    courier = Courier()
    courier.value = value
    context.set_spawning_popen(courier)  # type: ignore[arg-type]  # it does what is asked of one
    try:
        return table.dumps_call(value, reduce), courier
    finally:
        context.set_spawning_popen(None)
