"""Ends tasks that must not go on: those past their deadline, and those the client wants stopped.

Part of the supervisor, so that a deadline holds while the client is busy or stands still. Reads the workers' cells,
sends signals; how a task is stopped, and when its worker may be killed, decides core/stopping.py. Sleeps until the
earliest deadline: a worker that starts a task with an earlier one wakes the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import signal

from .cell import Cell, run_barrier
from .core.stopping import Action, Stop

NEVER = float("inf")


class Warden:
    """Watch over the workers of one supervisor."""

    def __init__(self) -> None:
        self._cells: dict[int, Cell] = {}
        self._stops: dict[int, Stop] = {}
        self._timed_out: set[int] = set()  # workers whose stop is for a timeout

    def admit(self, pid: int, cell_fd: int) -> None:
        """Watch over a worker; the descriptor of its cell is the warden's from now on."""
        self._cells[pid] = Cell(cell_fd)

    def dismiss(self, pid: int) -> None:
        """Forget a worker that has ended."""
        cell = self._cells.pop(pid, None)
        if cell is not None:
            cell.close()
        self._forget_stop(pid)

    def close(self) -> None:
        """Forget all workers: in a forked child, which must not hold on to its siblings' cells."""
        for pid in list(self._cells):
            self.dismiss(pid)

    def order_stop(self, pid: int, ordinal: int) -> None:
        """Begin to stop a task, unless it is being stopped."""
        stop = self._stops.get(pid)
        if stop is not None:
            if stop.ordinal >= ordinal:
                return
            if stop.has_frozen:  # for a task that is over: a later one has started
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGCONT)
        self._stops[pid] = Stop(ordinal)
        self._timed_out.discard(pid)

    def look(self, now: float) -> float:
        """Do what is due, and return when to look again."""
        next_look = min([self._look_at(pid, now) for pid in self._cells], default=NEVER)
        for cell in self._cells.values():
            cell.plan_look(next_look)
        run_barrier()
        # A deadline set while this was written: its worker may have seen the former plan and woken nobody.
        return min([next_look, *(self._deadline(pid) for pid in self._cells)])

    def _deadline(self, pid: int) -> float:
        ordinal, deadline = self._cells[pid].deadline()
        stop = self._stops.get(pid)
        return NEVER if stop is not None and stop.ordinal == ordinal else deadline

    def _look_at(self, pid: int, now: float) -> float:
        ordinal, deadline = self._cells[pid].deadline()
        if ordinal and now >= deadline and pid not in self._timed_out:
            self.order_stop(pid, ordinal)
            self._timed_out.add(pid)
        self._step(pid, now)
        stop = self._stops.get(pid)
        return stop.due if stop is not None else self._deadline(pid)

    def _step(self, pid: int, now: float) -> None:
        """Carry the stop of a task on, if there is one."""
        stop, cell = self._stops.get(pid), self._cells[pid]
        if stop is None:
            return
        action = stop.step(now, started=cell.started, ended=cell.ended, is_frozen=_is_frozen(pid))
        with contextlib.suppress(ProcessLookupError, PermissionError):  # ended meanwhile, or not ours any more
            if action is Action.INTERRUPT:
                cell.interrupt(stop.ordinal)
                os.kill(pid, signal.SIGINT)
            elif action is Action.FREEZE:
                os.kill(pid, signal.SIGSTOP)
            elif action is Action.THAW:
                os.kill(pid, signal.SIGCONT)
            elif action is Action.KILL:
                if pid in self._timed_out:
                    cell.mark_timed_out(stop.ordinal)
                signal_worker(pid, signal.SIGKILL)
        if action in (Action.THAW, Action.KILL, Action.FORGET):
            self._forget_stop(pid)

    def _forget_stop(self, pid: int) -> None:
        self._stops.pop(pid, None)
        self._timed_out.discard(pid)


def signal_worker(pid: int, signal_number: int) -> None:
    """Send a signal to a worker and to what its tasks have started; no error if they are gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal_number)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) != pid:  # a task has moved it to another group
            os.kill(pid, signal_number)


def _is_frozen(pid: int) -> bool:
    """Answer whether a child is known to stand still; where that cannot be asked, time has to tell."""
    if not hasattr(os, "waitid"):
        return False
    try:
        seen = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return seen is not None
