"""Threads that were started while that was possible, for when it is not any more.

Python 3.12 starts no thread once its main thread has come to its end, and that is when the work of a short script is
done. Who will need threads then, for workers that are yet to come, has them started before. What they do is not known
here.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

from .thread import Thread


class Reserve:
    """Keep idle threads.

    Args:
        name: of the executor.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Callable[[], object], str, threading.Event] | None] = queue.SimpleQueue()
        self._started = 0
        self._idle = 0
        self._is_closed = False
        self._lock = threading.Lock()

    def fill(self, number: int) -> None:
        """Start so many threads in all, as far as the system gives some.

        In a user's thread, which a Ctrl-C may interrupt anywhere: each thread counts itself, so none is forgotten.
        """
        with contextlib.suppress(RuntimeError):  # too many threads; or it is too late
            while self._started < number:
                Thread(self._wait, f"crew-reserve-{self._name}").start()
                self._started += 1

    def make(self, target: Callable[[], object], name: str) -> ReservedThread:
        """Return a thread that is yet to be started, as Thread(target, name) does."""
        return ReservedThread(self, target, name)

    def give(self, target: Callable[[], object], name: str, is_over: threading.Event) -> bool:
        """Let an idle thread do something; False when there is none."""
        with self._lock:
            if not self._idle:
                return False
            self._idle -= 1
        self._jobs.put((target, name, is_over))
        return True

    def close(self) -> None:
        """Let the idle threads go."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._jobs.put(None)

    def _wait(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._idle += 1
        job = self._jobs.get()
        if job is None:
            return
        target, name, is_over = job
        threading.current_thread().name = name
        try:
            target()
        finally:
            is_over.set()


class ReservedThread:
    """A thread of its own if the system gives one, else one of the reserve.

    Args:
        reserve: has idle ones.
        target: what it does.
        name: its name.
    """

    def __init__(self, reserve: Reserve, target: Callable[[], object], name: str) -> None:
        self._reserve = reserve
        self._target = target
        self._name = name
        self._own: Thread | None = None
        self._is_over = threading.Event()
        self._is_over.set()

    def start(self) -> None:
        """Start it; raise RuntimeError if there is no thread for it."""
        own = Thread(self._target, self._name)
        try:
            own.start()
        except RuntimeError:
            self._is_over.clear()
            if not self._reserve.give(self._target, self._name, self._is_over):
                self._is_over.set()
                raise
        else:
            self._own = own

    def wait_over(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; return whether it has."""
        if self._own is not None:
            return self._own.wait_over(timeout)
        return self._is_over.wait(timeout)


AnyThread = Thread | ReservedThread
"""What can be started, and waited for by wait_over()."""
