"""The monkey: kills, freezes and stalls the processes of one client, at random, from outside.

Signals go through a process descriptor, taken before it is checked whose process it is: a number that was used again
would be somebody else's process. Must touch nothing but the client, its supervisor, and that one's workers; must leave
nothing frozen.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil

FDS_PER_WORKER = 3
"""Descriptors a supervisor may keep for each worker."""
_PAUSE_SECONDS = 0.03
"""The mean of the pauses between two actions."""
_YOUNG_SECONDS = 2.0
"""Ages of processes are known to a second."""
_AMBUSH_SECONDS = 0.25
_AMBUSH_LOOK_SECONDS = 0.002
_CLIENT_STALL_SECONDS = (0.5, 3.0)
_SUPERVISOR_FREEZE_SECONDS = (0.05, 2.0)
_FREEZES_SECONDS = ((0.01, 0.3), (0.3, 1.5), (1.0, 3.5))
_DEADLY = (signal.SIGKILL,) * 4 + (signal.SIGSEGV, signal.SIGTERM)


@dataclass(order=True)
class _Frozen:
    """A stopped process and when it goes on, or dies."""

    until: float
    order: int
    pid: int = field(compare=False)
    pidfd: int = field(compare=False)
    ending: signal.Signals = field(compare=False)


class Monkey:
    """Torture one client.

    Args:
        client_pid: its process; it must have been started by this one.
        seed: decides what happens; whom it hits is a matter of time, too.

    Attributes:
        counts: what was done.
        killed: workers that were sent a deadly signal.
        supervisor_fds_most: the most descriptors that any supervisor was seen with, FDS_PER_WORKER for each worker
            not counted.
    """

    def __init__(self, client_pid: int, seed: str) -> None:
        self.counts: Counter[str] = Counter()
        self.killed: set[int] = set()
        self.supervisors: set[int] = set()
        self.supervisor_fds_most = 0
        self._client_pid = client_pid
        self._random = random.Random(f"{seed}/monkey")
        self._frozen: list[_Frozen] = []
        self._order = itertools.count()
        self._pause = threading.Event()  # never set: something to wait for
        self._actions: tuple[tuple[Callable[[], None], float], ...] = (
            (self._kill_one, 70), (self._freeze_one, 10), (self._ambush, 4), (self._kill_all, 1.5),
            (self._kill_supervisor, 0.7), (self._freeze_supervisor, 1), (self._stall_client, 0.7), (self._rest, 1),
        )  # fmt: skip

    def run(self, seconds: float, is_over: Callable[[], bool]) -> None:
        """Go on for some time, or until there is nobody left to torture."""
        until = time.monotonic() + seconds
        actions, weights = zip(*self._actions, strict=True)
        while time.monotonic() < until and not is_over():
            self.counts["actions"] += 1
            self._random.choices(actions, weights)[0]()
            self._wait(self._random.expovariate(1 / _PAUSE_SECONDS))

    def release(self) -> None:
        """Let everything go on that is frozen."""
        while self._frozen:
            self._thaw(heapq.heappop(self._frozen))

    # ------------------------------------------------------------------ actions

    def _kill_one(self) -> None:
        workers = self._targets()
        if workers:
            self._kill(self._random.choice(workers), self._random.choice(_DEADLY))
        else:
            self.counts["found nobody"] += 1

    def _kill_all(self) -> None:
        self.counts["all workers at once"] += 1
        number = self._random.choice(_DEADLY)
        for pid in self._workers():
            self._kill(pid, number)

    def _ambush(self) -> None:
        """Kill the next worker soon after its birth."""
        known = set(self._workers())
        until = time.monotonic() + _AMBUSH_SECONDS
        while time.monotonic() < until:
            new = set(self._workers()) - known
            if new:
                self._wait(self._random.uniform(0, 0.03))
                self.counts["ambushes"] += 1
                self._kill(new.pop(), self._random.choice(_DEADLY))
                return
            self._wait(_AMBUSH_LOOK_SECONDS)

    def _freeze_one(self) -> None:
        workers = self._targets()
        if not workers:
            return
        pid = self._random.choice(workers)
        ending = signal.SIGKILL if self._random.random() < 0.3 else signal.SIGCONT
        if self._freeze(pid, self._random.uniform(*self._random.choice(_FREEZES_SECONDS)), ending):
            self.counts["workers frozen"] += 1
            if ending == signal.SIGKILL:
                self.counts["workers killed while frozen"] += 1
                self.killed.add(pid)

    def _kill_supervisor(self) -> None:
        for pid in self._supervisors():
            if self._signal(pid, self._random.choice(_DEADLY)):
                self.counts["supervisors killed"] += 1

    def _freeze_supervisor(self) -> None:
        ending = signal.SIGKILL if self._random.random() < 0.25 else signal.SIGCONT
        for pid in self._supervisors():
            if self._freeze(pid, self._random.uniform(*_SUPERVISOR_FREEZE_SECONDS), ending):
                self.counts["supervisors frozen"] += 1
                self.counts["supervisors killed"] += ending == signal.SIGKILL

    def _stall_client(self) -> None:
        if self._freeze(self._client_pid, self._random.uniform(*_CLIENT_STALL_SECONDS), signal.SIGCONT):
            self.counts["client stalled"] += 1

    def _rest(self) -> None:
        self._wait(self._random.uniform(0.3, 1.0))

    # ------------------------------------------------------------------ whom

    def _supervisors(self) -> list[int]:
        """Return the client's supervisor, if there is one."""
        found = [pid for pid in _living_children(self._client_pid) if os.getpgid(pid) == pid]
        self.supervisors.update(found)
        return found

    def _workers(self) -> list[int]:
        """Return the workers: those children of a supervisor that lead a group. Others are orphans of tasks."""
        workers = []
        for supervisor in self._supervisors():
            for pid in _living_children(supervisor):
                with contextlib.suppress(ProcessLookupError):
                    if os.getpgid(pid) == pid:
                        workers.append(pid)
            self._look_at_descriptors(supervisor)
        return workers

    def _targets(self) -> list[int]:
        """Return the workers, without every third that is young.

        When launches fail the pool waits longer and longer between them, up to a minute. On a busy machine, where a
        start takes several of our pauses, we would then kill each worker that comes, and see nothing but that.
        """
        return [pid for pid in self._workers() if pid % 3 or not _is_young(pid)]

    def _look_at_descriptors(self, supervisor: int) -> None:
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if psutil.Process(supervisor).cmdline() == psutil.Process(self._client_pid).cmdline():
                return  # between fork and exec: the descriptors are still the client's
            children = psutil.Process(supervisor).children()  # the dead ones, too: what was theirs goes when reaped
            fds = len(os.listdir(f"/proc/{supervisor}/fd")) - FDS_PER_WORKER * len(children)
            self.supervisor_fds_most = max(self.supervisor_fds_most, fds)

    # ------------------------------------------------------------------ how

    def _kill(self, pid: int, number: signal.Signals) -> None:
        if self._signal(pid, number):
            self.killed.add(pid)
            self.counts[f"workers {number.name}"] += 1

    def _signal(self, pid: int, number: signal.Signals) -> bool:
        with self._held(pid) as pidfd:
            if pidfd is None:
                return False
            signal.pidfd_send_signal(pidfd, number)
            return True

    def _freeze(self, pid: int, seconds: float, ending: signal.Signals) -> bool:
        """Stop a process; True when it was not stopped already."""
        if any(frozen.pid == pid for frozen in self._frozen):
            return False
        with self._held(pid) as pidfd:
            if pidfd is None:
                return False
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            until = time.monotonic() + seconds
            heapq.heappush(self._frozen, _Frozen(until, next(self._order), pid, os.dup(pidfd), ending))
            return True

    def _thaw(self, frozen: _Frozen) -> None:
        for number in (frozen.ending, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(frozen.pidfd, number)
        os.close(frozen.pidfd)

    @contextlib.contextmanager
    def _held(self, pid: int) -> Iterator[int | None]:
        """Yield a descriptor of the process if it is one of the client's, else None."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield pidfd if pid == self._client_pid or self._is_ours(pid) else None
        except ProcessLookupError:
            return  # it ended in the body: whatever was to be done with it was in vain
        finally:
            os.close(pidfd)

    def _is_ours(self, pid: int) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).ppid() in {self._client_pid, *self.supervisors}
        return False

    def _wait(self, seconds: float) -> None:
        """Wait, and let what is frozen go on when its time has come."""
        until = time.monotonic() + seconds
        while True:
            while self._frozen and self._frozen[0].until <= time.monotonic():
                self._thaw(heapq.heappop(self._frozen))
            next_thaw = self._frozen[0].until if self._frozen else until
            left = min(until, next_thaw) - time.monotonic()
            if left <= 0 and until <= time.monotonic():
                return
            self._pause.wait(max(0.0, left))


def _living_children(pid: int) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children() if _is_living(child)]
    return []


def _is_young(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return time.time() - psutil.Process(pid).create_time() < _YOUNG_SECONDS
    return False


def _is_living(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
