"""The client's side of one agent: one conversation for all its workers, whose frames it sorts out.

Reads in a thread of its own, in which what workers say is reported to the dispatcher as reader.py does for local ones.
Decides nothing.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .connection import Connection
from .conversation import Conversation
from .core.messages import (
    CONTENT_BYTES,
    Buffer,
    Frame,
    Kind,
    decode_content,
    decode_control,
    decode_relay,
    encode_content,
    encode_control,
    encode_relay,
)
from .errors import ProtocolError
from .far_ends import FarCell, FarEnds
from .framing import LinkClosed
from .launchers import Launcher, WorkerExit
from .launchers.local import main_module, working_directory
from .log import logger
from .process_settings import current_settings
from .reader import Listener, Reading
from .recaller import Recaller
from .reserve import AnyThread
from .segments import Segment
from .shares import Whole


class Home(Listener, Protocol):
    """What is asked of the dispatcher."""

    recaller: Recaller


class AgentLink:
    """Talk to one agent.

    Args:
        round_trip: seconds to the agent and back, as it was when that came.
        seat: of the agent, with its number if there are several.
        host, pid: where it says that it is, and its process.
        conversation: with it.
        home: the dispatcher.
        on_notice: called with words when the agent's host is about to be taken away.
        make_thread: called with a target and a name.
        on_lost: called when the conversation is over, with the reason, "" if it was silent for too long; the last call.
    """

    def __init__(
        self, round_trip: float, seat: str, host: str, pid: int, conversation: Conversation, home: Home,
        on_notice: Callable[[AgentLink, str], None], on_lost: Callable[[AgentLink, str], None],
        make_thread: Callable[..., AnyThread],
    ) -> None:  # fmt: skip
        self.round_trip = round_trip
        self.seat = seat
        self.host = host
        self.pid = pid
        self.conversation = conversation
        self.connections: dict[int, Connection] = {}
        self.is_ending = False
        self.why_lost = ""
        self.was_noticed = False  # its host is about to be taken away
        self.is_taken_away = True  # as far as is known: a host that is lost was not lost by its tasks
        self._home = home
        self._on_notice = on_notice
        self._on_lost = on_lost
        self._on_exits: dict[int, Callable[[Connection, WorkerExit], None]] = {}
        self._readings: dict[int, Reading | None] = {}
        # What the agent has of large buffers. A finaliser of a segment must take no lock: it leaves the number.
        self._contents: weakref.WeakKeyDictionary[Segment | Whole, int] = weakref.WeakKeyDictionary()
        self._content_numbers = 0
        self._content_lock = threading.Lock()
        self._forgotten: deque[int] = deque()
        self._reader = make_thread(self._read, f"crew-reader-agent-{seat}")

    def start(self, settings: dict[str, Any]) -> None:
        """Tell the agent what this process is like, and begin to read."""
        self.conversation.send(Kind.SETTLE, [encode_control(settings)])
        self._reader.start()

    # ------------------------------------------------------------------ to the agent

    def hire(
        self, connection: Connection, fields: dict[str, Any], on_exit: Callable[[Connection, WorkerExit], None]
    ) -> None:
        """Have a worker started there; `on_exit` is called once, when it is over or its agent is lost."""
        ends = connection.ends
        assert isinstance(ends, FarEnds)
        number = ends.number
        self.connections[number] = connection
        self._readings[number] = Reading(connection, self._home)
        self._on_exits[number] = on_exit
        ends.relay = self
        self.relay(number, Kind.HIRE, [encode_control(fields)], 0)

    def let_leave(self, at: float) -> None:
        """Let the workers there leave from then on, monotonic seconds."""
        for connection in list(self.connections.values()):
            connection.leaves_at = at

    def judge(self, end: WorkerExit) -> WorkerExit:
        """Return a worker's end with what is known of its host's: all processes of a job that is over are killed.

        Its agent may be so a moment later than the worker.
        """
        if not self.was_noticed:
            return end
        if not (end.is_launchers_fault or end.exitcode in (-signal.SIGKILL, -signal.SIGTERM)):
            return end
        why = "" if self.why_lost in end.describe() else f"; {self.why_lost}"
        return end._replace(reason=f"{end.describe()}{why}", is_taken_away=True)

    def signal(self, connection: Connection, signal_number: int) -> None:
        """Send a signal to a worker's processes."""
        ends = connection.ends
        assert isinstance(ends, FarEnds)
        with contextlib.suppress(LinkClosed):  # lost: its workers are about to be judged
            self.relay(ends.number, Kind.SIGNAL, [encode_control({"signal": int(signal_number)})], 0)

    def relay(
        self, number: int, kind: Kind, pieces: Sequence[Buffer], count: int, *, has_content: bool = False
    ) -> None:
        """Send a frame for a worker; raise LinkClosed."""
        head = encode_relay(number, kind, has_content=has_content)
        self.conversation.send(Kind.RELAY, [head, *pieces], count)

    def content_number(self, content: Segment | Whole) -> int:
        """Return the number of content there; send it, unless the agent has it. Any thread."""
        with self._content_lock:
            return self._content_number(content)

    def _content_number(self, content: Segment | Whole) -> int:
        self._forget_contents()
        number = self._contents.get(content)
        if number is not None:
            return number
        self._content_numbers += 1
        number = self._content_numbers
        view = content.view()
        for start in range(0, content.size, CONTENT_BYTES):
            piece = view[start : start + CONTENT_BYTES]
            head = encode_content(number, content.size, start)
            self.conversation.send(Kind.CONTENT, [head, piece], owner=content)
        self._contents[content] = number
        weakref.finalize(content, self._forgotten.append, number).atexit = False
        return number

    def _forget_contents(self) -> None:
        while self._forgotten:
            number = self._forgotten.popleft()
            self.conversation.send(Kind.CONTENT, [encode_content(number)])

    def end(self) -> None:
        """Tell the agent that it is over."""
        self.is_ending = True
        with contextlib.suppress(LinkClosed):
            self.conversation.send(Kind.END, [encode_control({})])

    def close(self) -> None:
        """End the conversation, and wait for the thread."""
        self.conversation.close()
        self._reader.wait_over()

    def tick(self) -> None:
        """Keep the link alive; let the agent forget what nobody needs."""
        self.conversation.tick()
        with contextlib.suppress(LinkClosed), self._content_lock:
            self._forget_contents()

    # ------------------------------------------------------------------ from the agent

    def _read(self) -> None:
        reason = ""
        try:
            while True:
                self._take(self.conversation.recv())
        except LinkClosed:
            reason = self.why_lost
        except ProtocolError as error:
            reason = f"its agent broke the protocol: {error}"
            logger.error("the agent on %s broke the protocol and is given up: %s", self.host, error)
        except BaseException as error:
            reason = f"reading from its agent failed: {error!r}"
            logger.exception("reading from the agent on %s failed", self.host)
        self.conversation.close()
        self._on_lost(self, reason)

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.NOTICE:
            self._on_notice(self, str(decode_control(frame.body)[0]["signal"]))
            return
        if frame.kind != Kind.RELAY:
            raise ProtocolError(f"a client has no use for a frame of kind {frame.kind} of an agent")
        number, inner, _has_content = decode_relay(frame)
        connection = self.connections.get(number)
        if connection is None:
            return  # given up
        if inner.kind == Kind.EXITED:
            self._exited(connection, number, inner)
        elif inner.kind == Kind.RECALLED:
            fields, parts = decode_control(inner.body)
            assert isinstance(connection.cell, FarCell)
            connection.cell.outbox = bytes(parts[0])
            self._home.recaller.answered(connection, int(fields["kept"]))
        elif inner.kind == Kind.CONTENT:
            assert isinstance(connection.ends, FarEnds)
            connection.ends.take_content(*decode_content(inner.body))
        else:
            self._hear(number, inner)

    def _hear(self, number: int, frame: Frame) -> None:
        reading = self._readings[number]
        if reading is None:
            return  # it has broken the protocol, and is being killed
        try:
            reading.take(frame)
        except Exception as error:
            self._readings[number] = None
            reading.fail(error)

    def _exited(self, connection: Connection, number: int, frame: Frame) -> None:
        fields, parts = decode_control(frame.body)
        ends = connection.ends
        assert isinstance(ends, FarEnds)
        ends.cell.take_report(fields, bytes(parts[0]))
        ends.log = str(fields["log"])
        end = WorkerExit(**fields["exit"])
        del self.connections[number], self._readings[number]
        self._on_exits.pop(number)(connection, end)

    def abandon(self, end: Callable[[Connection], WorkerExit]) -> None:
        """Tell those who wait for workers here that they are lost; after on_lost()."""
        for number, connection in list(self.connections.items()):
            del self.connections[number]
            self._on_exits.pop(number)(connection, end(connection))


def settings_of(launcher: Launcher) -> dict[str, Any]:
    """Return what an agent must know of this process, and of its own job."""
    own = current_settings()
    return {
        "cwd": working_directory(), "sys_path": [os.path.abspath(path) for path in map(str, sys.path)],
        "argv": list(map(str, getattr(sys, "argv", [""]))), "main": main_module(),
        "workers": launcher.workers_per_job, "gpus": launcher.gpus,
        "recursion_limit": own["recursion_limit"], "umask": own["umask"],
        "authkey": bytes(multiprocessing.current_process().authkey).hex(),
    }  # fmt: skip


def loss_of(reason: str, is_taken_away: bool, connection: Connection) -> WorkerExit:
    """Return the end of a worker whose host is lost."""
    return WorkerExit(
        connection.worker.name, connection.facts.pid, reason=reason, is_launchers_fault=connection.is_ready,
        is_taken_away=is_taken_away,
    )  # fmt: skip
