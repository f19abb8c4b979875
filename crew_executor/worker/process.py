"""The life of one worker: become a process of its own, join, work through frames, leave.

One thread does everything: the main thread, where users' code expects to run. It reads its link only when it has
nothing to run; what must reach it sooner stands in the shared cell (withdrawals) or comes as a signal. An outcome is
in the cell's outbox before the next task starts, and is sent when the worker runs dry, after FLUSH_SECONDS, or before
a task that may take long. Of a task that came through the hatch, and whose client waits there, it says so first, and
then needs not hurry.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import inheritance, pools, serialize, transport
from ..cell import Cell
from ..channel import Channel
from ..core.messages import (
    CALL_ORDINAL,
    FLUSH_SECONDS,
    Frame,
    Kind,
    TaskFlag,
    TaskItem,
    decode_control,
    decode_tasks,
    encode_outcome,
)
from ..errors import ProtocolError
from ..framing import LinkClosed, LinkTimeout
from ..process_settings import adopt_settings
from ..segment_port import SegmentPort
from ..supervisor_wire import LOG_PLACE
from .call import CallRunner, dump_initializer_error
from .chunk import ChunkRunner
from .exchange import Exchange
from .log_setup import LogSetup
from .memory import MemoryLimits
from .outbox import Outbox
from .output import Output

if TYPE_CHECKING:
    from .front import WorkerFront


ANSWERED_SECONDS, LONG_SECONDS = 0.0003, 0.001
"""A worker that has answered through the hatch, and has nothing else to do, reports after the first time: who waits and
sends the next task takes 50 us for it, and if nobody has waited the report is all there is. What took longer than the
second is reported at once: by then the client may look after the task."""
MALLOC_BYTES = 8 << 20
"""Of one block, not touched, that each worker takes from malloc and gives back. From then on glibc keeps up to twice
that of freed memory, as it does in any process that has freed a large block: else each result of 100 kB would be
pickled into fresh pages, which take longer than all else, and tasks would make their arrays in fresh ones."""


class WorkerLoop:
    """Take frames, run tasks, answer."""

    def __init__(
        self, channel: Channel, cell: Cell, port: SegmentPort, name: str, idle_timeout: float | None,
        limits: MemoryLimits, output: Output, logs: LogSetup,
    ) -> None:  # fmt: skip
        self._channel = channel
        self._cell = cell
        self._idle_timeout = idle_timeout
        self._limits = limits
        self._is_retiring = False  # it has said that it starts nothing more
        self._supervisor_pid = os.getppid()
        self.runner = CallRunner(name, cell.is_to_be_interrupted, self._set_deadline, limits, output, port)
        self._carrier = self.runner.carrier
        self._exchange = Exchange(channel, self.runner, name, logs)
        pools.join(channel.run, partial(_make_front, self._exchange))
        self._outbox = Outbox(channel, cell)
        self._chunks = ChunkRunner(cell, self.runner, self._outbox, limits)
        self._last_ordinal = 0
        self._is_answered = False  # the last task, to who waits at the hatch

    def run(self) -> None:
        """Work until the client lets this worker go; raise LinkClosed when it vanishes."""
        # Now, not before: initializers often ignore SIGINT, so that a Ctrl-C is for the client; here it always is.
        self.runner.install_handler()
        while True:
            try:
                frame = self._wait_for_frame()
            except LinkTimeout:
                self._channel.send_control(Kind.LEAVE, {"reason": "idle"})
                continue
            if frame.kind == Kind.TASKS:
                self._work(frame)
                continue
            self._outbox.flush()
            if frame.kind == Kind.SHARE:
                self._carrier.receive_share(frame)
            elif frame.kind == Kind.CALL:
                self._call(frame)
            elif frame.kind == Kind.GO:
                fields, _ = decode_control(frame.body)
                if fields["ordinal"] != self._last_ordinal:
                    raise ProtocolError(f"told to go after task {fields['ordinal']}, having seen {self._last_ordinal}")
                self._channel.send_control(Kind.BYE)
                return
            else:
                raise ProtocolError(f"a worker has no use for a frame of kind {frame.kind}")

    def _wait_for_frame(self) -> Frame:
        """Return the next frame; raise LinkTimeout when the worker has been idle for long enough to ask to leave."""
        if not self._outbox.is_empty:
            try:
                return self._exchange.recv(ANSWERED_SECONDS)
            except LinkTimeout:
                self._outbox.flush()
        left = None if self._is_retiring else self._idle_timeout
        while (keep := self._carrier.trim()) is not None and (left is None or keep < left):
            try:
                return self._exchange.recv(keep)
            except LinkTimeout:
                left = None if left is None else left - keep
        return self._exchange.recv(left)

    def _work(self, frame: Frame) -> None:
        if self._outbox.is_empty:
            self._outbox.flushed_at = time.perf_counter()
        self._is_answered = False
        for item in decode_tasks(frame):
            if item.ordinal <= self._last_ordinal:
                self._skip(item)
                continue
            self._last_ordinal = item.ordinal + item.items - 1
            if not self._is_retiring:
                last = self._work_on(item)
                if self._limits.is_exceeded():
                    self._retire(last)
        if not self._is_answered:
            self._outbox.flush()

    def _skip(self, item: TaskItem) -> None:
        """Pass over what came through the hatch and over the link as well, or over the link after it was withdrawn.

        In the latter case this worker seemed idle to the client, and a later task was faster through the hatch.
        """
        if item.flags & TaskFlag.BESIDE:
            self._carrier.receive(item)
            self._carrier.forget()

    def _call(self, frame: Frame) -> None:
        """Run what every worker is to run."""
        fields, parts = decode_control(frame.body)
        with self._exchange.closed_to_tasks():
            outcome = self.runner.run(TaskItem(CALL_ORDINAL, 0, 1, 0, tuple(parts)))
        self._channel.send_control(Kind.CALLED, fields, [encode_outcome(outcome)])

    def _retire(self, last: int) -> None:
        """Ask for a successor: this process has grown too large. What was sent and not started goes back: all above."""
        self._outbox.flush()
        self._is_retiring = True
        self._channel.send_control(Kind.LEAVE, {"reason": "memory", "ordinal": last})

    def _work_on(self, item: TaskItem) -> int:
        """Run a task; return the ordinal of what was looked at last."""
        outbox, cell, ordinal, flags = self._outbox, self._cell, item.ordinal, item.flags
        is_parted = is_asked = bytes_sent = 0
        if flags:
            is_asked, bytes_sent = flags & TaskFlag.ANSWER, self._channel.bytes_sent
            if flags & TaskFlag.FLUSH_BEFORE and not outbox.is_empty:
                outbox.flush()
            is_parted = flags & TaskFlag.BESIDE
            if is_parted:
                item = self._carrier.receive(item)
            if flags & TaskFlag.ITEMS:
                return self._chunks.run(item)
        if not cell.claim(ordinal):
            if is_parted:
                self._carrier.forget()
            return ordinal
        outcome = self.runner.run(item)
        if is_parted:
            outcome = outcome._replace(flags=outcome.flags | self._carrier.forget())
        cell.end(ordinal)
        encoded = encode_outcome(outcome)
        if not outbox.put(encoded):
            outbox.flush()
            if not outbox.put(encoded):
                outbox.send(encoded)
        cell.finish(ordinal)
        if is_asked and not outcome.flags and bytes_sent == self._channel.bytes_sent:
            # Not where records or subtasks of the task are on the link: the client is to have those before.
            self._is_answered = self._answer(encoded) and outcome.seconds < LONG_SECONDS
        if time.perf_counter() - outbox.flushed_at > FLUSH_SECONDS:
            outbox.flush()
        return ordinal

    def _answer(self, encoded: bytes) -> bool:
        """Tell who waits at the hatch what has become of his task; return whether that was possible."""
        link = self._channel.link
        return isinstance(link, transport.HatchedLink) and link.answer(encoded)

    def _set_deadline(self, ordinal: int, seconds: float) -> None:
        """Give the running task so many seconds from now on; wake the supervisor if it would look too late."""
        is_too_late = self._cell.set_deadline(ordinal, time.monotonic() + seconds)
        if is_too_late and os.getppid() == self._supervisor_pid:  # else it is dead, and this process about to be
            os.kill(self._supervisor_pid, signal.SIGCHLD)


def serve(
    channel: Channel,
    cell: Cell,
    port: SegmentPort,
    settings: dict[str, Any],
    output: Output,
    on_joined: Callable[[], None],
) -> int:
    """Join the client behind the channel and work for it; return the exit code.

    Args:
        channel, cell, port: to the client.
        settings: name, secret, idle_timeout, max_worker_memory, max_task_memory: what the invitation and its launcher
            said.
        output: this process's streams.
        on_joined: called when the client has accepted this worker, before any user code.
    """
    name = settings["name"]
    cell.adopt()
    python, host = sys.version.split()[0], socket.gethostname()
    hello = {"name": name, "secret": settings["secret"], "pid": os.getpid(), "host": host, "python": python}
    channel.send_control(Kind.HELLO, hello)
    frame = channel.recv()
    if frame.kind != Kind.WELCOME:
        raise ProtocolError(f"expected to be welcomed, got a frame of kind {frame.kind}")
    fields, parts = decode_control(frame.body)
    on_joined()
    logs = LogSetup(channel, output, fields)
    logs.install()
    if not _initialize(channel, parts, name):
        return 0
    channel.send_control(Kind.READY)
    limits = MemoryLimits(settings["max_worker_memory"], settings["max_task_memory"])
    loop = WorkerLoop(channel, cell, port, name, settings["idle_timeout"], limits, output, logs)
    logs.runner = loop.runner
    loop.run()
    return 0


def _initialize(channel: Channel, parts: Sequence[Any], name: str) -> bool:
    """Run the initializer, and what other workers have run by run_on_all(); tell the client of a failure."""
    doing = "initializer"
    try:
        _origin, initializer, initargs = serialize.loads(parts[0])
        if initializer is not None:
            initializer(*initargs)
        for part in parts[1:]:
            doing = "call of run_on_all()"
            fn, args, kwargs = serialize.loads(part)
            fn(*args, **kwargs)
    except BaseException as error:
        import logging  # late: see LogSetup

        # As ProcessPoolExecutor's workers do: a user who redirects this logger in the initializer expects it.
        logging.getLogger("concurrent.futures").critical("Exception in %s:", doing, exc_info=True)
        channel.send_control(Kind.READY, {"doing": doing}, dump_initializer_error(error, name, doing))
        return False
    return True


# ---------------------------------------------------------------------- becoming a process of one's own


def start(message: dict[str, Any], descriptors: list[int]) -> int:
    """Turn a forked child of the supervisor into the worker that the message describes; return its exit code.

    The descriptors are those of supervisor_wire.py.
    """
    if message["python"] is not None:
        _exec(message, descriptors)
    tracker_fd, out_fd, err_fd, link_fd, cell_fd, log_fd, port_fd, hatch_fd, *inherited = descriptors
    inheritance.take_tracker(tracker_fd)
    null = os.open(os.devnull, os.O_RDONLY)
    _move(null, 0)
    _move(out_fd, 1)
    _move(err_fd, 2)
    for variable, value in message["own_env"].items():
        os.environ[variable] = value
    inheritance.received[:] = inherited
    return run_worker(message, link_fd, cell_fd, log_fd, port_fd, hatch_fd, lambda: None)


def start_after_exec(settings_fd: int, *descriptors: int) -> None:
    """Be the worker of a fresh interpreter: until it has joined, what it prints goes to its log alone."""
    with os.fdopen(settings_fd, "r") as file:
        message = json.load(file)
    for fd in descriptors:
        os.set_inheritable(fd, False)
    tracker_fd, out_fd, err_fd, link_fd, cell_fd, log_fd, port_fd, hatch_fd, *inherited = descriptors
    inheritance.take_tracker(tracker_fd)
    inheritance.received[:] = inherited

    def on_joined() -> None:
        _move(out_fd, 1)
        _move(err_fd, 2)

    os._exit(run_worker(message, link_fd, cell_fd, log_fd, port_fd, hatch_fd, on_joined))


def run_worker(
    message: dict[str, Any], link_fd: int, cell_fd: int, log_fd: int, port_fd: int, hatch_fd: int,
    on_joined: Callable[[], None],
) -> int:  # fmt: skip
    """Set this process up, serve, and end as an ordinary Python process would."""
    gc.freeze()  # or the first collection would write to, and so copy, every page that this process was forked with
    gc.enable()  # see boot_arguments()
    bytes(MALLOC_BYTES)
    sys.path[:] = message["sys_path"]
    with contextlib.suppress(OSError):  # a directory that was deleted: the client has the same trouble
        os.chdir(message["cwd"])
    if message["settings"] is not None:  # else it has them by the fork
        adopt_settings(message["settings"])
    signal.signal(signal.SIGINT, lambda *_: None)  # children that a task starts get the default back at exec
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    process = multiprocessing.current_process()
    process.name = message["name"]  # else it is "MainProcess", in the lines that tasks log, too
    process.authkey = bytes.fromhex(message["authkey"])  # manager proxies ask for it
    _forget_main(message["argv"], message["main"])
    output = Output(log_fd)
    output.install()
    if not sys.warnoptions:
        warnings.simplefilter("always")  # the client's filters decide what is shown
    cell = Cell(cell_fd)
    link = transport.HatchedLink(socket.socket(fileno=link_fd), socket.socket(fileno=hatch_fd))
    channel = Channel(link, message["run"])
    try:
        code = serve(channel, cell, SegmentPort(port_fd), message, output, on_joined)
    except LinkClosed:
        code = 1  # the client is gone; the supervisor is about to say so too
    if channel.has_own_reader:
        transport.leave_open()  # else pynng's exit function closes NNG under that thread, which panics
    else:
        link.free()
    _end_like_an_interpreter()
    return code


def load_rest() -> None:
    """Import what only some tasks need: those that submit tasks, log or fail."""
    import traceback  # noqa: F401

    from . import front, log_forwarder  # noqa: F401


def _make_front(exchange: Exchange, name: str, max_workers: int) -> WorkerFront:
    from .front import WorkerFront  # late: the first worker is up sooner

    return WorkerFront(exchange, name, max_workers)


def _end_like_an_interpreter() -> None:
    # A user's non-daemon threads and exit functions get their turn, as in a process that ends by itself.
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter itself calls at exit
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed by a task, or a pipe without a reader
            stream.flush()


def _exec(message: dict[str, Any], descriptors: list[int]) -> None:
    """Replace this process by the interpreter the message names."""
    log_fd = descriptors[LOG_PLACE]
    settings_fd = _settings_file(message)
    _move(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    numbers = [settings_fd, *descriptors]
    for fd in numbers:
        os.set_inheritable(fd, True)
    *boot, _arguments = message["boot"]
    argv = [message["python"], *message["python_args"], *boot, ascii(numbers)]
    try:
        os.execve(argv[0], argv, {**message["env"], **message["own_env"]})
    except OSError as error:
        os.write(2, f"cannot execute {argv[0]}: {error}\n".encode())
        os._exit(127)


def _settings_file(message: dict[str, Any]) -> int:
    import tempfile

    fd, path = tempfile.mkstemp(prefix="crew_executor-")
    os.unlink(path)
    os.write(fd, json.dumps(message).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _move(source: int, target: int) -> None:
    if source != target:
        os.dup2(source, target, inheritable=True)
        os.close(source)
    else:
        os.set_inheritable(target, True)


def _forget_main(argv: list[str], client: dict[str, str | None]) -> None:
    """Give the worker an empty `__main__`: what a task finds there must not depend on how workers are started."""
    import importlib.machinery
    import types

    # Under its second name, too, which multiprocessing gave to the supervisor's when it was imported.
    main = sys.modules["__main__"] = sys.modules["__mp_main__"] = types.ModuleType("__main__")
    if client["file"] is not None:
        main.__file__ = client["file"]
    if client["name"] is not None:
        main.__spec__ = importlib.machinery.ModuleSpec(client["name"], None)
    sys.argv = argv  # of the client, as with multiprocessing
