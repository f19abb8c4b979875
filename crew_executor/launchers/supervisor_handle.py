"""The client's end of the supervisor: one per client process, started at first use, replaced when it dies.

Imports no more than it needs to start one: the rest is imported while that comes up, which takes longer.
"""

from __future__ import annotations

import _socket  # socket itself, with enums and selectors, takes 3 ms: see __init__()
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from .. import late
from ..errors import LaunchError
from ..log import logger
from .base import WorkerExit

BYE_SECONDS = 5.0
"""How long the supervisor may take to go when told so, before it is killed."""

_BOOT = (
    "import gc, sys; gc.disable(); root, *paths = eval(sys.argv[1]); "
    "sys.path[:] = [p for p in sys.path if p]; "
    "sys.path.insert(0, root); import crew_executor; del sys.path[0]; "
    "sys.path += [p for p in paths if p not in sys.path]; "
    "from crew_executor.{module} import {function}; {function}(*eval(sys.argv[2]))"
)


def boot_arguments(module: str, function: str, arguments: list[Any]) -> list[str]:
    """Return the interpreter's arguments that run a function of ours, wherever the package was imported from.

    The interpreter's own path stays in front, the client's is appended: a `queue.py` beside the user's script must not
    break our imports. The package itself is that of the client, even where the path leads to another copy of it, which
    might speak another version of our messages. The garbage collector is off, which makes the imports an eighth faster:
    the function has to switch it on. What is told is told as Python literals: JSON would have to be imported first. The
    last is the function's arguments.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = [root, *map(str, filter(None, sys.path)), root]
    return ["-c", _BOOT.format(module=module, function=function), ascii(paths), ascii(arguments)]


def _apart() -> dict[str, Any]:
    """Return Popen's arguments for a process that a Ctrl-C in the terminal, or its hang-up, is not meant for.

    A process group is enough for that. A session would be a share of the CPU time of its own as well, where Linux
    divides it among sessions first: on two cores, a client that computes would have one of them (docs/adr/0023).
    """
    if sys.platform == "linux" and sys.version_info >= (3, 11):
        return {"process_group": 0}
    return {"start_new_session": True}


_ENDED_EARLY = "ended before it started the worker"


def interpreter_arguments() -> list[str]:
    """Return the options this interpreter was started with, as multiprocessing does for its children."""
    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]


class SupervisorHandle:
    """Talk to one supervisor process. Thread-safe."""

    def __init__(self) -> None:
        if not sys.executable:
            raise LaunchError(
                "sys.executable is empty, so no interpreter for workers is known: "
                "set it, or use LocalLauncher(python=...)"
            )
        self.client_pid = os.getpid()
        self._lock = threading.Lock()
        self._exits: dict[str, tuple[str, Callable[[WorkerExit], None]]] = {}
        self._pids: dict[str, int] = {}
        self._is_lost = False
        self._common: dict[str, Any] | None = None  # what the supervisor was told last
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        for sock in (ours, theirs):
            sock.setblocking(True)  # whatever the program's socket.setdefaulttimeout() says
        try:
            with contextlib.closing(theirs), open(os.devnull, "r+b") as null:
                command = [
                    sys.executable,
                    *interpreter_arguments(),
                    *boot_arguments("supervisor", "main", [theirs.fileno(), os.getpid(), patience]),
                ]
                self._process = subprocess.Popen(
                    command, stdin=null, stdout=_open_or(1, null), stderr=_open_or(2, null),
                    pass_fds=(theirs.fileno(),), cwd="/", **_apart(),  # the client's may be gone
                )  # fmt: skip
        except OSError as error:
            ours.close()
            raise LaunchError(f"the supervisor cannot be started with {sys.executable}: {error}") from error
        with late.imports():  # for all methods, and beside the supervisor's own imports
            import socket

            from .. import questions, registry, supervisor_wire  # noqa: F401
        self._socket = socket.socket(fileno=ours.detach())
        self._socket.setblocking(True)
        self._reader = threading.Thread(target=self._read, name="crew-supervisor", daemon=True)
        try:
            self._reader.start()
        except RuntimeError as error:  # no more threads, or the interpreter ends: nobody would hear of its workers
            self._process.kill()
            self._process.wait()
            self._socket.close()
            registry.remove(self.client_pid, self.pid)  # it could not
            raise LaunchError(f"the thread that hears the supervisor cannot be started: {error}") from error

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._process.pid

    @property
    def is_lost(self) -> bool:
        """Whether the supervisor is gone."""
        return self._is_lost

    def launch(
        self,
        launch_id: str,
        own: dict[str, Any],
        common: dict[str, Any],
        descriptors: tuple[int, ...],
        on_exit: Callable[[WorkerExit], None],
    ) -> None:
        """Order one worker; `on_exit` is called once, from another thread.

        Args:
            launch_id: names the launch.
            own: what the worker alone has.
            common: what it shares with others: is told only when it is another than in the last order.
            descriptors: those of supervisor_wire.py.
            on_exit: told how it ended.
        """
        with self._lock:
            self._exits[launch_id] = (own["name"], on_exit)
            news = None if common == self._common else common
            try:
                self._send(descriptors, op="launch", id=launch_id, own=own, common=news)
                self._common = common
            except OSError as error:
                # If it is gone, its reader will say so of every launch that is still in the table.
                if isinstance(error, ConnectionError) and not self._is_lost:
                    return
                del self._exits[launch_id]
                why = _ENDED_EARLY if self._is_lost else f"could not be told: {error}"
                raise LaunchError(f"the supervisor of local workers {why}") from None

    def kill(self, launch_id: str, signal_number: int) -> None:
        """Send a signal to a worker's process group."""
        with self._lock, contextlib.suppress(OSError):
            self._send(op="kill", id=launch_id, signal=int(signal_number))

    def stop(self, launch_id: str, ordinal: int) -> None:
        """Order the end of a running task: interrupt it, then kill its worker."""
        with self._lock, contextlib.suppress(OSError):
            self._send(op="stop", id=launch_id, ordinal=ordinal)

    def say_alive(self) -> None:
        """Tell the supervisor that this process does not stand still."""
        with self._lock, contextlib.suppress(OSError):
            self._send(op="alive")

    def _send(self, descriptors: tuple[int, ...] = (), /, **message: Any) -> None:
        """Send a message; under the lock."""
        from ..supervisor_wire import send_message

        send_message(self._socket, message, descriptors)

    def close(self) -> None:
        """Tell the supervisor to end everything and wait until it has."""
        with self._lock, contextlib.suppress(OSError):
            self._send(op="bye")
        try:
            self._process.wait(BYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        from ..supervisor_wire import recv_message

        while True:
            try:
                received = recv_message(self._socket)
            except (OSError, ValueError):
                received = None
            if received is None:
                break
            try:
                self._handle(received[0])
            except Exception:  # this supervisor is of no more use, and its workers must be accounted for
                logger.exception("a report of the supervisor of local workers cannot be understood: it is given up")
                self._process.kill()
                break
        self._lose()

    def _handle(self, event: dict[str, Any]) -> None:
        launch_id = event["id"]
        if event["event"] == "question":
            try:
                threading.Thread(target=self._answer, args=(event,), name="crew-question", daemon=True).start()
            except RuntimeError:  # no more threads, or the interpreter ends: who only asks must do no harm
                self._answer(event, may_wait=False)
            return
        if event["event"] == "started":
            self._pids[launch_id] = event["pid"]
            return
        with self._lock:
            name, on_exit = self._exits.pop(launch_id)
            pid = self._pids.pop(launch_id, None)
        if event["event"] == "failed":
            on_exit(WorkerExit(name, reason=event["error"]))
        else:
            on_exit(WorkerExit(name, pid, event["exitcode"], event["max_rss"], verdict=event["verdict"]))

    def _answer(self, question: dict[str, Any], may_wait: bool = True) -> None:
        """Answer `ps` and `kill`; in a thread of its own if it may wait, for an executor may take its time to end."""
        from .. import questions

        answer = questions.answer(question, may_wait=may_wait)
        with self._lock, contextlib.suppress(OSError):
            self._send(op="answer", caller=question["caller"], answer=answer)

    def _lose(self) -> None:
        """The supervisor is gone, and its workers with it: the kernel kills them (PDEATHSIG)."""
        from .. import registry

        with self._lock:
            self._is_lost = True
            exits, self._exits = self._exits, {}
            self._socket.close()
        registry.remove(self.client_pid, self.pid)  # if it was killed, it could not
        for launch_id, (name, on_exit) in exits.items():
            pid = self._pids.pop(launch_id, None)
            if pid is None:
                # Perhaps it cannot run at all: this must count, or it would be tried again for ever.
                on_exit(WorkerExit(name, reason=f"the supervisor of local workers {_ENDED_EARLY}"))
            else:
                # The kernel ends the worker, but nobody the processes that its tasks have started.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                on_exit(WorkerExit(name, pid, reason="its supervisor died", is_launchers_fault=True))


def _open_or(fd: int, null: Any) -> Any:
    """Return the descriptor, or /dev/null when the client has closed it."""
    try:
        os.fstat(fd)
    except OSError:
        return null
    return fd


patience: float | None = None
"""Seconds after which a supervisor ends all if nothing was heard of its client; see say_alive(). For agents, whose own
clients take them for lost then."""
_handle: SupervisorHandle | None = None
_handle_lock = threading.Lock()


def current() -> SupervisorHandle:
    """Return this process's supervisor, starting one if there is none or it has died."""
    global _handle
    with _handle_lock:
        if _handle is not None and _handle.is_lost:
            _handle.close()
            _handle = None
        if _handle is None:
            _handle = SupervisorHandle()
        return _handle


def running() -> SupervisorHandle | None:
    """Return this process's supervisor if it has one."""
    return _handle


def close() -> None:
    """End this process's supervisor, if there is one. Called when the interpreter exits, after all executors."""
    global _handle
    with _handle_lock:
        handle, _handle = _handle, None
    if handle is not None:
        handle.close()


def _after_fork_in_child() -> None:
    """A forked child has no supervisor: the parent's goes on serving the parent."""
    global _handle, _handle_lock
    _handle_lock = threading.Lock()
    handle, _handle = _handle, None
    if handle is not None:
        # The copy of the socket must not keep the supervisor waiting for an end of file; nor must Popen's destructor
        # complain about a child that is not ours.
        handle._socket.close()
        handle._process.returncode = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
