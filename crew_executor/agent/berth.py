"""One worker of an agent: to the worker it is the client, to the client it is the worker.

    client <--RELAY frames, one conversation for all--> agent <--frames, cell, port--> worker

Passes frames on as they are. What the client would do to a local worker's cell is done here when it says so. Decides
nothing, but that a worker which does not start what it was given, or does not end, is killed.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..core.messages import (
    CONTENT_BYTES,
    Buffer,
    Frame,
    Kind,
    TaskFlag,
    TaskItem,
    decode_control,
    decode_tasks,
    encode_content,
    encode_control,
    encode_first_ordinal,
    encode_task,
)
from ..core.worker import EXIT_GRACE, START_SECONDS
from ..ends import LocalEnds
from ..framing import FRAME_BYTES_MAX, LinkClosed
from ..launchers import Invitation, LocalLauncher, WorkerExit
from ..log import logger
from ..pump import INLINE_BYTES, Pump
from ..segment_port import is_number, unpack_number
from .contents import Contents

NOTICE_SECONDS = 0.5
"""So long an agent may take to hear a signal that its worker has had at the same time."""
LOG_BYTES = 1_000_000
"""As much of a worker's stderr is told when it is over: a task may have had its output caught."""

Tell = Callable[[int, Kind, Sequence[Buffer], int, object], None]
"""Worker's number, kind, pieces, items, and the owner of the pieces' memory."""


class _Entry(NamedTuple):
    kind: Kind
    pieces: Sequence[Buffer]
    items: int
    may_block: bool


class Berth:
    """Start a worker, and stand between it and the client.

    Args:
        number: the worker's, of the client's.
        run: the executor's.
        fields: of HIRE.
        environment: defaults for the worker.
        launcher: starts processes here.
        contents: what the client has sent to this host.
        tell: sends the client a frame of this worker's.
        on_end: called when nothing is left of it.
        place: its number among the workers here, from 0: the lowest that is free.
        devices: the GPUs that it is to see, or None: whatever this process sees.
        noticed: set when the client has been told that this host will be taken away.
    """

    def __init__(
        self, number: int, run: int, fields: dict[str, Any], environment: dict[str, str], launcher: LocalLauncher,
        contents: Contents, tell: Tell, on_end: Callable[[Berth], None], place: int, devices: tuple[str, ...] | None,
        noticed: threading.Event,
    ) -> None:  # fmt: skip
        self.number = number
        self.name = str(fields["name"])
        self.place = place
        self.is_leaving = False
        self._launcher = launcher
        self._contents = contents
        self._tell = tell
        self._on_end = on_end
        self._noticed = noticed
        self._is_signalled = False
        self._ends = ends = LocalEnds(run)
        self._cell = ends.cell
        self._pump: Pump[_Entry] = Pump(self.name, ends.channel, self._write)
        self._lock = threading.Lock()
        self._exit: WorkerExit | None = None
        self._is_reader_done = self._is_over = False
        self._kill_at = float("inf")
        self._ordinal = self._withdrawn = 0  # the last ones sent, and withdrawn
        self._unstarted_since: float | None = None
        self._invitation = Invitation(
            self.name, run, str(fields["secret"]), fields["idle_timeout"], environment, ends.descriptors, devices
        )
        self._reader = threading.Thread(target=self._read, name=f"crew-reader-{self.name}", daemon=True)
        try:
            self._reader.start()
        except RuntimeError:  # no more threads
            ends.shut()
            ends.close()
            raise

    def start(self) -> None:
        """Have the worker come."""
        try:
            self._launcher.launch(self._invitation, self._exited)
        except Exception as error:  # whatever it is, the client hears of it
            self._exited(WorkerExit(self.name, reason=f"could not be launched: {error}"))
        finally:
            self._ends.handed_over()

    # ------------------------------------------------------------------ from the client, in the agent's reading thread

    def take(self, frame: Frame, has_content: bool) -> None:
        """Do what the client says, or pass it on."""
        if frame.kind == Kind.RECALL:
            self._recall(int(decode_control(frame.body)[0]["ordinal"]))
        elif frame.kind == Kind.STOP:
            ordinal = int(decode_control(frame.body)[0]["ordinal"])
            with self._lock:  # its cell is closed once it is over
                has_started = not self._is_over and self._cell.started >= ordinal
            if has_started:  # else it was withdrawn by the recall that came before
                self._launcher.stop(self._invitation, ordinal)
        elif frame.kind == Kind.SIGNAL:
            self.signal(int(decode_control(frame.body)[0]["signal"]))
        else:
            self.is_leaving = self.is_leaving or frame.kind == Kind.GO
            pieces = self._with_content(frame) if has_content else [frame.body]
            may_block = has_content or len(frame.body) > INLINE_BYTES
            self._pump.put(_Entry(Kind(frame.kind), pieces, frame.items, may_block))
            self._pump.pump()

    def _write(self, entry: _Entry) -> None:
        if entry.kind == Kind.TASKS:
            self._note_tasks(entry)
        self._ends.channel.send_locked(entry.kind, entry.pieces, entry.items)

    def _note_tasks(self, entry: _Entry) -> None:
        first = int.from_bytes(bytes(entry.pieces[0][:8]), "little")
        self._ordinal = max(self._ordinal, first)

    def _with_content(self, frame: Frame) -> list[Buffer]:
        """Return a frame's body that names content by the numbers of this worker's port."""
        port = self._ends.port
        if frame.kind == Kind.SHARE:
            fields, (data, *rest) = decode_control(frame.body)
            parts: list[Buffer] = [self._contents.whole(fields.pop("data")) if "data" in fields else data]
            for part in rest:
                number = unpack_number(part)
                parts.append(self._contents.part_for(number, port, is_constant=True))
            return [encode_control(fields, parts)]
        items = decode_tasks(frame)
        pieces: list[Buffer] = [encode_first_ordinal(items[0].ordinal)]
        for item in items:
            flags = item.flags | TaskFlag.HEAD if item.head else item.flags
            pieces += encode_task(item.task_id, item.attempt, flags, self._parts_of(item), item.timeout)
        return pieces

    def _parts_of(self, item: TaskItem) -> Sequence[Buffer]:
        parts: list[Buffer] = [item.head, *item.parts] if item.head else [*item.parts]
        if item.flags & TaskFlag.BESIDE and is_number(item.parts[-1]):
            parts[-1] = self._contents.part_for(unpack_number(item.parts[-1]), self._ends.port)
        return parts

    def _recall(self, ordinal: int) -> None:
        with self._lock:
            if self._is_over:
                return  # the client has been told all
            kept = self._cell.withdraw(ordinal)
            outbox = self._cell.read_outbox()
        self._withdrawn = max(self._withdrawn, ordinal)
        self._send_contents()
        self._tell(self.number, Kind.RECALLED, [encode_control({"kept": kept}, [outbox])], 0, None)

    def signal(self, signal_number: int) -> None:
        """Send a signal to the worker and what its tasks have started."""
        if self._exit is None:
            self._is_signalled = True
            self._launcher.kill(self._invitation, signal_number)

    # ------------------------------------------------------------------ from the worker

    def _read(self) -> None:
        try:
            while True:
                frame = self._ends.recv(limit=FRAME_BYTES_MAX, timeout=None)
                self._send_contents()
                self._tell(self.number, Kind(frame.kind), [frame.body], frame.items, None)
        except LinkClosed:
            pass
        except Exception:
            logger.exception("the reader of worker %s failed", self.name)
        with self._lock:
            self._is_reader_done = True
            if self._exit is None:
                self._kill_at = time.monotonic() + EXIT_GRACE  # the end of a link is only a hint
        self._bury_if_over()

    def _send_contents(self) -> None:
        """Send what the worker has handed over, which it has done before it named that in a frame or its outbox."""
        for number, arrival in self._ends.port.take_all():
            try:
                view = arrival.view()
            except OSError as error:  # it could not be mapped: whoever looks for it does not find it
                logger.error("large buffers of worker %s are lost: %s", self.name, error)
                continue
            for start in range(0, len(view), CONTENT_BYTES):
                head = encode_content(number, len(view), start)
                self._tell(self.number, Kind.CONTENT, [head, view[start : start + CONTENT_BYTES]], 0, arrival)

    def _exited(self, end: WorkerExit) -> None:
        """Note the worker's end; in the thread that hears the supervisor.

        Whoever takes this host away may tell all its processes at once, and the client must hear of that first, or the
        task is taken for the culprit: 1. scheduler: signals worker and agent  2. worker: is over
        3. agent: has not come to its own signal yet, and tells of the worker
        """
        if end.exitcode == -signal.SIGTERM and not self._is_signalled:
            self._noticed.wait(NOTICE_SECONDS)
        with self._lock:
            self._exit = end
        self._ends.drain()
        self._bury_if_over()

    def _bury_if_over(self) -> None:
        with self._lock:
            end = self._exit
            if end is None or not self._is_reader_done or self._is_over:
                return
            self._is_over = True
        cell = self._cell
        seconds = max(0.0, time.monotonic() - cell.started_at)
        fields = {
            "exit": end._asdict(), "started": cell.started, "seconds": seconds, "timed_out": cell.timed_out,
            "interrupted": cell.interrupted, "log": self._ends.log_tail(LOG_BYTES),
        }  # fmt: skip
        with contextlib.suppress(LinkClosed):  # then nobody is there to be told
            self._send_contents()
            self._tell(self.number, Kind.EXITED, [encode_control(fields, [cell.read_outbox()])], 0, None)
        self._on_end(self)

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Kill the worker if it does not end, or does not start what it was given."""
        if now >= self._kill_at:
            self._kill_at = now + EXIT_GRACE
            self.signal(signal.SIGKILL)
        with self._lock:
            if self._is_over:
                return
            is_idle = self._cell.finished >= self._cell.started
            is_unstarted = self._ordinal > max(self._cell.started, self._withdrawn)
        if self._pump.is_moving() or not (is_idle and is_unstarted):
            self._unstarted_since = None
        elif self._unstarted_since is None:
            self._unstarted_since = now
        elif now - self._unstarted_since >= START_SECONDS:
            logger.warning("worker %s did not start its task within %g s and is killed", self.name, START_SECONDS)
            self._unstarted_since = now
            self.signal(signal.SIGKILL)

    def close(self) -> None:
        """Give everything back; not in its own reader."""
        self._ends.shut()
        self._pump.close()
        self._reader.join()
        with self._lock:
            self._is_over = True
        self._ends.close()
