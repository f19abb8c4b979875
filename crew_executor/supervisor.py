"""The supervisor: a small process beside the client that forks local workers in milliseconds and outlives nobody.

Exec'ed once per client process. It has imported what workers need, runs no user code, starts no thread and opens no
NNG socket, so that forking is safe and cheap. It reports each exit, kills process groups on order, ends tasks that must
not go on (warden.py), and when the client vanishes, however it did, ends every worker and whatever escaped from one.

    client --launch (+ descriptors), kill, stop, bye--> supervisor --fork, signals--> worker
           <--started, failed, exited------------------            <--"I have a deadline": SIGCHLD

The messages are those of supervisor_wire.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import selectors
import signal
import socket
import sys
import termios
import time
from collections.abc import Callable
from typing import Any, NoReturn

from . import inheritance, namespace, tracebacks
from .oom import OomCounter
from .process_settings import current_settings, take_environment
from .supervisor_wire import CELL_PLACE, recv_message, send_message
from .switchboard import Switchboard
from .warden import NEVER, Warden, signal_worker
from .worker import process as worker_process
from .worker.memory import RSS_UNIT

PARENT_POLL = 1.0
"""Seconds between looks at the parent, where the kernel cannot tell of its death."""
PAUSE_MAX = 3600.0
"""Seconds: select() refuses very long ones, such as a timeout of a hundred years."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def _prctl() -> Callable[[int, int], None]:
    """Return prctl(2), or a function that does nothing where there is none."""
    if sys.platform != "linux" or os.environ.get("CREW_EXECUTOR_NO_PRCTL"):
        return lambda _option, _value: None
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).prctl
    return lambda option, value: call(option, value, 0, 0, 0)


class Supervisor:
    """Serve one client until it says bye or is gone."""

    def __init__(self, control: socket.socket, client_pid: int, patience: float | None) -> None:
        self._control = control
        self._client_pid = client_pid
        self._workers: dict[int, str] = {}  # pid -> the client's id of the launch
        self._names: dict[int, tuple[str, str]] = {}  # pid -> its run and name
        self._patience = patience
        self._heard_at = time.monotonic()
        self._warden = Warden()
        self._oom = OomCounter()
        self._next_look = NEVER
        self._is_dismissed = False  # a client that goes without a bye has died, or its sockets have, which comes first
        self._prctl = _prctl()
        self._prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._pid = os.getpid()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        self._client_fd = -1
        if hasattr(os, "pidfd_open") and not os.environ.get("CREW_EXECUTOR_NO_PIDFD"):
            with contextlib.suppress(OSError):
                self._client_fd = os.pidfd_open(client_pid)
        self._is_loaded = False
        self._common: dict[str, Any] = {}  # what workers were last said to have in common
        self._refusal = ""  # why none can have it
        self._selector = selectors.DefaultSelector()
        self._switchboard = Switchboard(client_pid, self._selector, self._known, self._ask_client, self._force)

    def run(self) -> None:
        """Serve until the end, then leave nothing behind."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._patience is not None:  # a scheduler's warnings are for the agent, which says what is to be done
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to make the wake-up descriptor work
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for fd in (self._control.fileno(), self._wake_read, self._client_fd):
            if fd >= 0:
                self._selector.register(fd, selectors.EVENT_READ)
        try:
            while os.getppid() == self._client_pid and self._serve_once():
                pass
        finally:
            self._end_all()

    def _serve_once(self) -> bool:
        ready = {key.fd for key, _ in self._selector.select(self._pause())}
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        self._reap()
        if self._client_fd in ready:
            return False
        if self._control.fileno() in ready:
            self._heard_at = time.monotonic()
            received = recv_message(self._control)
            if received is None:
                return False
            message, descriptors = received
            if message["op"] == "bye":
                self._is_dismissed = True
                return False
            if message["op"] == "launch":
                self._launch(message, descriptors)
            elif message["op"] == "kill":
                self._kill(message["id"], message["signal"])
            elif message["op"] == "stop":
                self._stop(message["id"], message["ordinal"])
            elif message["op"] == "answer":
                self._switchboard.client_answers(message)
        elif self._patience is not None and time.monotonic() - self._heard_at > self._patience:
            return False  # it stands still, and is taken for lost by those it works for
        self._switchboard.serve(ready)
        self._next_look = self._warden.look(time.monotonic())
        return True

    def _pause(self) -> float | None:
        """Return how long to sleep at most: until the warden's next look, and the next look at the parent."""
        pause = max(0.0, self._next_look - time.monotonic())
        if self._patience is not None:
            pause = min(pause, max(0.0, self._heard_at + self._patience - time.monotonic()) + 0.01)
        if self._client_fd < 0:
            pause = min(pause, PARENT_POLL)
        return None if pause == NEVER else min(pause, PAUSE_MAX)

    def _tell(self, **message: Any) -> None:
        # A client that is gone is found out by the loop; its reports are of no use to anybody.
        with contextlib.suppress(OSError):
            send_message(self._control, message)

    def _launch(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if message["common"] is not None:
            self._take_over(message["common"])
        own, common = message["own"], self._common
        cell_fd = gate_read = gate_write = pid = -1
        try:
            if self._refusal:
                raise OSError(self._refusal)
            cell_fd = os.dup(descriptors[CELL_PLACE])
            gate_read, gate_write = os.pipe()
            pid = os.fork()
        except OSError as error:  # no memory, too many processes: the launch fails, not the supervisor
            self._tell(event="failed", id=message["id"], error=f"fork: {error}")
        if pid == 0:
            os.close(cell_fd)
            os.close(gate_write)
            self._become_worker({**common, **own}, descriptors, gate_read)
        for fd in (*descriptors, gate_read, *((cell_fd, gate_write) if pid < 0 else ())):
            if fd >= 0:
                os.close(fd)
        if pid > 0:
            with contextlib.suppress(OSError):  # the child does it too: whoever comes first
                os.setpgid(pid, pid)
            self._workers[pid] = message["id"]
            self._names[pid] = f"{own['run']:016x}", own["name"]
            self._warden.admit(pid, cell_fd)
            self._oom.rebase()
            self._tell(event="started", id=message["id"], pid=pid)
            with contextlib.suppress(OSError):  # it has died already
                os.write(gate_write, b"!")
            os.close(gate_write)
        if not self._is_loaded:
            self._is_loaded = True
            _load()

    def _take_over(self, common: dict[str, Any]) -> None:
        """Note what workers have in common, and take of it what all of them can have by the fork.

        To write what is there already would copy 160 pages in each of them, 0.5 ms.
        """
        self._common, self._refusal = common, ""
        if common["python"] is not None:
            return  # it begins anew: see _exec() of the worker
        try:
            take_environment(common["env"])
        except (OSError, ValueError) as error:  # in this process's locale a name or value cannot be said
            self._refusal = f"the client's environment cannot be had here: {error}"
        if common["settings"] == current_settings():
            common["settings"] = None

    def _become_worker(self, message: dict[str, Any], descriptors: list[int], gate: int) -> NoReturn:
        """Be a worker.

        It waits at the gate until the client has been told of it. If this supervisor were killed before that, nobody
        would know the process that runs a task.
        """
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)  # a Ctrl-C in the terminal is for the client; a kill takes the task's children along
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._pid:  # the supervisor died before the kernel was told
                os._exit(1)
            self._selector.close()
            self._switchboard.leave()
            self._warden.close()
            for fd in (self._wake_read, self._wake_write, self._client_fd):
                if fd >= 0:
                    os.close(fd)
            self._control.close()
            if not os.read(gate, 1):
                os._exit(1)
            os.close(gate)
            code = worker_process.start(message, descriptors)
        except BaseException:  # nothing may unwind into the supervisor's frames
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def _kill(self, launch_id: str, signal_number: int) -> None:
        for pid, known in self._workers.items():
            if known == launch_id:
                signal_worker(pid, signal_number)

    def _stop(self, launch_id: str, ordinal: int) -> None:
        for pid, known in self._workers.items():
            if known == launch_id:
                self._warden.order_stop(pid, ordinal)

    def _known(self) -> dict[str, Any]:
        """Return what can be told without the client."""
        workers = [{"run": run, "name": name, "pid": pid} for pid, (run, name) in self._names.items()]
        return {"client": self._client_pid, "supervisor": self._pid, "workers": workers}

    def _ask_client(self, question: dict[str, Any]) -> bool:
        """Pass a question on, and answer whether that was possible at once.

        A client that stands still reads nothing. If this waited for it, no task would be ended when its time is over.
        """
        poll = select.poll()
        poll.register(self._control, select.POLLOUT)
        has_room = bool(poll.poll(0))  # for much more than one question
        if has_room:
            self._tell(event="question", id="", **question)
        return has_room

    def _force(self, run: str) -> int:
        pids = [pid for pid, (of, _name) in self._names.items() if of == run]
        for pid in pids:
            signal_worker(pid, signal.SIGKILL)
        return len(pids)

    def _reap(self) -> None:
        """Report workers that ended; collect what was orphaned to us."""
        while True:
            try:
                if hasattr(os, "waitid"):
                    # Look before reaping: while the dead leader is not reaped, its group's number is not reused.
                    seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    if seen is None:
                        return
                    if seen.si_code != os.CLD_EXITED or seen.si_status != 0:
                        self._kill_group(seen.si_pid)
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if status:
                self._kill_group(pid)
            launch_id = self._workers.pop(pid, None)
            self._names.pop(pid, None)
            if launch_id is not None:
                self._warden.dismiss(pid)
                exitcode, max_rss = os.waitstatus_to_exitcode(status), usage.ru_maxrss * RSS_UNIT
                verdict = self._oom.verdict() if exitcode == -signal.SIGKILL else ""
                self._tell(event="exited", id=launch_id, pid=pid, exitcode=exitcode, max_rss=max_rss, verdict=verdict)

    def _kill_group(self, pid: int) -> None:
        """Kill what a crashed worker's tasks have left in its process group."""
        if pid in self._workers:
            signal_worker(pid, signal.SIGKILL)

    def _end_all(self) -> None:
        self._switchboard.close()
        for pid in self._workers:
            signal_worker(pid, signal.SIGKILL)
        if self._is_dismissed and os.getppid() == self._client_pid:
            return  # an orderly end: a process that a task detached on purpose may live on
        from .processes import kill_descendants  # late: it imports psutil, needed once in a life

        kill_descendants()


def _load() -> None:
    """Import what workers need sooner or later, when the first is under way: it is up sooner, and the others share it.

    What was imported is shared for good: keep the collector from touching (copying) it.
    """
    for load in (namespace.load, tracebacks.load, worker_process.load_rest, inheritance.load):
        with contextlib.suppress(Exception):  # a task that needs it says why; a supervisor that dies here would return
            load()
    gc.collect()
    gc.freeze()
    gc.enable()


def _leave_terminal() -> None:
    """Have no terminal, as if in a session of one's own: a task that reads from it gets an error.

    As a member of a group in the background, it would be stopped, and never go on.
    """
    if os.getsid(0) == os.getpid():
        return
    with contextlib.suppress(OSError):  # there is none
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        try:
            fcntl.ioctl(terminal, termios.TIOCNOTTY)
        finally:
            os.close(terminal)


def main(control_fd: int, client_pid: int, patience: float | None = None) -> None:
    """Run the supervisor on an inherited socket.

    Args:
        control_fd: the socket.
        client_pid: the client's.
        patience: seconds after which a client that says nothing is taken for gone; None: only its death counts.
    """
    _leave_terminal()
    control = socket.socket(fileno=control_fd)
    control.setblocking(True)  # a sitecustomize may have said socket.setdefaulttimeout()
    os.set_inheritable(control_fd, False)
    with control, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Supervisor(control, client_pid, patience).run()
