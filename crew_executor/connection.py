"""The client's side of one worker: what it is to be sent, what it has sent, and what is known of its process.

Sends what the scheduler decided, in the order it decided it, from whichever thread comes along; reads in a thread of
its own. Decides nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from .core.horizon import FRAME_BYTES, FRAME_TASKS
from .core.messages import (
    FLUSH_SECONDS,
    HEADS_MAX,
    Buffer,
    Frame,
    Kind,
    Outcome,
    OutcomeFlag,
    TaskFlag,
    decode_control,
    decode_outcome_items,
    encode_control,
    encode_first_ordinal,
    encode_task,
    number_head,
)
from .core.task import Task
from .core.worker import Worker
from .ends import Ends, LocalEnds
from .errors import ProtocolError
from .far_ends import FarEnds
from .framing import FRAME_BYTES_MAX, UNTRUSTED_BYTES_MAX, LinkTimeout
from .futures import WorkerFacts
from .launchers import Invitation, WorkerExit
from .log import logger
from .log_records import current_levels, show_record
from .pump import INLINE_BYTES, Pump
from .segment_port import is_number, pack_number, unpack_number
from .segments import Segment
from .shares import Beside, Share
from .stats import WorkerStats
from .ticket import LateOutcome, Ticket

LOG_TAIL_BYTES = 4000
SIGNAL_LOOK = 0.1
"""Seconds between looks for a Ctrl-C, when the main thread reads because no other can be started."""
WHOLE_BYTES = 64 * 1024
"""A constant with a longer pickle crosses a network once for all workers of a host."""


class _Entry(NamedTuple):
    """A frame to be written."""

    kind: Kind
    ordinal: int = 0
    tasks: Sequence[tuple[int, int, int, bytes, Any, float, Beside | None]] = ()
    body: bytes = b""
    share: int = 0  # that is to be forgotten
    ticket: Ticket | None = None  # of its task, which its submitter may have sent
    may_block: bool = False  # for as long as the worker does not read


class Connection:
    """One worker as the dispatcher sees it, from the invitation to the grave.

    Attributes:
        worker: the scheduler's view of it.
        facts: name, host and pid, for records.
        launched_at: when it was ordered, monotonic seconds; `expected_from`: since when its start takes time, inf as
            long as that is somebody else's business; `leaves_at`: when it is told to leave.
        exit: how its process ended, or None while that is not known.
        is_joined: it has proved who it is, and was welcomed; `is_ready`: and its initializer has run.
        initializer_error: what has ended its start; `began_with`: what failed then, in words.
        set_number: of its set of GPUs; None: it has none of its own.
        is_reader_done: the reader thread has seen the end of the link.
        subtasks: open tasks that its tasks have submitted, by the numbers that it gave them.
        calls: what it was sent by run_on_all() and has not answered, by number; changed under the dispatcher's lock.
    """

    def __init__(self, worker: Worker, run: int, launched_at: float, ends: Ends) -> None:
        self.worker = worker
        self.facts = WorkerFacts(worker.name)
        self.launched_at = launched_at
        self.expected_from = self.leaves_at = float("inf")
        self.busy_seconds = 0.0
        self.exit: WorkerExit | None = None
        self.is_joined = False
        self.is_ready = False
        self.is_reader_done = False
        self.initializer_error: BaseException | None = None
        self.began_with = "initializer"
        self.killed_because = ""
        self.set_number: int | None = None
        self.kill_at: float | None = None
        self.kills = 0
        self.subtasks: dict[int, Any] = {}
        self.calls: dict[int, Task] = {}
        self._unstarted_since: float | None = None
        self._spare_since: float | None = None
        self._run = run
        self._secret = os.urandom(32).hex()
        self.ends = ends
        self.cell = ends.cell
        self._port = ends.port
        self._writer = ends.writer
        self.is_far = ends.is_far
        self._pump: Pump[_Entry] = Pump(worker.name, self._writer, self._write, never_blocks=self.is_far)
        self._put = self._pump.put
        self.pump = self._pump.pump
        self.is_recall_asked = False
        self._ticket: Ticket | None = None  # the last one for it
        self._lends = False  # it has lent something, at any time
        self._shares: set[int] = set()  # that the worker has; for whoever holds the writer's send_lock
        self.reader: threading.Thread | None = None

    # ------------------------------------------------------------------ the invitation

    def invitation(
        self,
        idle_timeout: float | None = None,
        environment: dict[str, str] | None = None,
        descriptors: tuple[int, ...] = (),
    ) -> Invitation:
        """Return what a launcher needs to bring the worker here, or to find it again."""
        return Invitation(self.worker.name, self._run, self._secret, idle_timeout, environment or {}, descriptors)

    # ------------------------------------------------------------------ sending

    def put_tasks(self, tasks: list[Task]) -> None:
        """Queue tasks in frames; called under the dispatcher's lock, so that frames keep the order of decisions."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            if not ticket.has(tasks[0]):
                ticket = None
            elif ticket.ordinal_sent >= tasks[0].ordinal:
                return
        number, size = len(tasks), sum([task.payload_bytes for task in tasks])
        frames = max(-(-number // FRAME_TASKS), -(-size // FRAME_BYTES))
        if number == 1 or frames == 1:
            self._put_frame(tasks, size, ticket)
            return
        in_each = -(-number // frames)
        for start in range(0, number, in_each):
            some = tasks[start : start + in_each]
            self._put_frame(some, sum([task.payload_bytes for task in some]))

    def _put_frame(self, tasks: list[Task], size: int, ticket: Ticket | None = None) -> None:
        """Queue a frame of tasks, of so many bytes.

        The parts are taken here: by the time the frame is written, a task may have been withdrawn, sent elsewhere,
        finished there and emptied.
        """
        entries = [
            (
                task.task_id,
                task.attempt,
                task.flags | TaskFlag.FLUSH_BEFORE if task.estimate > FLUSH_SECONDS * task.items else task.flags,
                task.head,
                task.handle.parts(task.first, task.items) if task.flags & TaskFlag.ITEMS else task.payload,
                0.0 if task.budget is None else task.budget.timeout,
                None if task.beside is None else self._lent(task.beside),
            )
            for task in tasks
        ]
        size += sum(map(len, {task.head for task in tasks}))
        may_block = size > INLINE_BYTES or any(task.beside for task in tasks)  # its content, perhaps: see _write()
        self._put(_Entry(Kind.TASKS, tasks[0].ordinal, entries, may_block=may_block, ticket=ticket))

    def make_ticket(self, late: deque[LateOutcome]) -> Ticket | None:
        """Return a ticket for the worker's next tasks, if there can be one; called under the dispatcher's lock.

        Outcomes go into `late` if they are known only when it is closed.
        """
        if not isinstance(self.ends, LocalEnds) or self.ends.hatch is None:
            return None
        self._ticket = ticket = Ticket(self.worker, self.ends.hatch, self._run, self.facts, late)
        return ticket

    def _lent(self, beside: Beside) -> Beside:
        """Note that the worker may read a segment from now on."""
        if beside.segment is not None:
            self._lends = True
            beside.segment.borrowers += 1
        return beside

    def put_go(self, ordinal: int) -> None:
        """Queue the word to leave after a task; called under the dispatcher's lock."""
        self._put(_Entry(Kind.GO, body=encode_control({"ordinal": ordinal})))

    def put_recall(self, ordinal: int) -> None:
        """Queue the question what a worker on another host keeps, all up to the ordinal being withdrawn; as above."""
        self._put(_Entry(Kind.RECALL, body=encode_control({"ordinal": ordinal})))

    def put_stop(self, ordinal: int) -> None:
        """Queue the order to end a task's run, for the agent of a worker on another host. Behind its recall."""
        self._put(_Entry(Kind.STOP, body=encode_control({"ordinal": ordinal})))

    def put_welcome(self, parts: Sequence[bytes]) -> None:
        """Queue the welcome: the initializer, and the calls that all workers have run; under the dispatcher's lock."""
        self._put_control(Kind.WELCOME, encode_control(current_levels(), parts))

    def put_call(self, task: Task, data: bytes) -> None:
        """Queue a call of run_on_all(); called under the dispatcher's lock."""
        self.calls[task.task_id] = task
        self._put_control(Kind.CALL, encode_control({"number": task.task_id}, (data,)))

    def _put_control(self, kind: Kind, body: bytes) -> None:
        self._put(_Entry(kind, body=body, may_block=len(body) > INLINE_BYTES))

    def forget_share(self, number: int) -> None:
        """Let the worker forget a constant, if it has it."""
        self._put(_Entry(Kind.SHARE, share=number))
        self.pump()

    def answer(self, fields: dict[str, Any], parts: tuple[bytes, ...] = ()) -> None:
        """Tell the worker what has become of a subtask."""
        self._put_control(Kind.SUBTASK, encode_control(fields, parts))
        self.pump()

    @property
    def has_failed_to_start(self) -> bool:
        """Whether the launch of this worker, which has exited, came to nothing.

        Also if it had joined, but ended by itself before it started a task: what made it do so would make the next one
        do so, too, and each would be given the same task. Who killed it from outside has nothing to do with that.
        """
        if self.exit is None or self.exit.is_launchers_fault:
            return False
        has_ended_by_itself = self.exit.exitcode is not None and self.exit.exitcode > 0
        return not self.is_ready or (has_ended_by_itself and not self.cell.started)

    @property
    def timed_out(self) -> int:
        """The ordinal of the task for whose timeout the worker, which has exited, was ended; or 0."""
        is_interrupt = self.exit is not None and self.exit.exitcode == -signal.SIGINT  # the task took our handler away
        return self.cell.timed_out or (self.cell.interrupted if is_interrupt else 0)

    def _write(self, entry: _Entry) -> None:
        if entry.share:
            if entry.share in self._shares:
                self._shares.remove(entry.share)
                self._writer.send_locked(Kind.SHARE, [encode_control({"share": entry.share})])
            return
        if entry.ticket is not None and entry.ticket.ordinal_sent >= entry.ordinal:
            return
        if entry.kind is not Kind.TASKS:
            self._writer.send_locked(entry.kind, [entry.body])
            return
        # All shares before any segment of this frame: what takes a share gives up what was lent before it.
        for *_, beside in entry.tasks:
            for share in () if beside is None else beside.shares:
                self._write_share(share)
        pieces: list[Buffer] = [encode_first_ordinal(entry.ordinal)]
        heads: dict[bytes, int] = {}
        for task_id, attempt, flags, head, payload, timeout, beside in entry.tasks:
            if beside is not None and beside.segment is not None:
                parts = (payload,) if type(payload) is bytes else payload
                flags, payload = flags | TaskFlag.BESIDE, (*parts, self._part_for(beside.segment))  # noqa: PLW2901
            if head:
                number = heads.get(head)
                if number is None:
                    if len(heads) == HEADS_MAX:
                        heads.clear()
                    number = heads[head] = len(heads)
                    flags |= TaskFlag.HEAD  # noqa: PLW2901
                    payload = (head, payload) if type(payload) is bytes else (head, *payload)  # noqa: PLW2901
                else:
                    flags |= TaskFlag.SAME_HEAD  # noqa: PLW2901
                flags |= number_head(number)  # noqa: PLW2901
            pieces += encode_task(task_id, attempt, flags, payload, timeout)
        self._writer.send_locked(Kind.TASKS, pieces, len(entry.tasks))

    def _write_share(self, share: Share) -> None:
        """Send a constant, unless the worker has it."""
        if share.number in self._shares:
            return
        fields, parts = {"share": share.number}, list[Buffer]([share.data])
        if isinstance(self.ends, FarEnds) and share.whole.size > WHOLE_BYTES:
            number = self.ends.send_content(share.whole)
            if number is not None:
                fields["data"], parts[0] = number, b""  # once for all workers of a host
        if share.content is not None:
            content = share.content
            parts.append(content if isinstance(content, bytes) else self._part_for(content, is_constant=True))
        self._writer.send_locked(Kind.SHARE, [encode_control(fields, parts)])
        self._shares.add(share.number)

    def _part_for(self, segment: Segment, *, is_constant: bool = False) -> Buffer:
        """Hand a segment over and return its number; if that cannot be done, its content."""
        number = self._port.lend(segment, is_constant=is_constant)
        return segment.view() if number is None else pack_number(number)

    # ------------------------------------------------------------------ reading

    def greet(self, frame: Frame) -> None:
        """Check who has come.

        Raises:
            ProtocolError: it is not the invited worker.
        """
        if frame.kind != Kind.HELLO:
            raise ProtocolError(f"expected a hello from {self.worker.name}, got a frame of kind {frame.kind}")
        hello, _parts = decode_control(frame.body)
        if hello.get("secret") != self._secret:  # how long that takes tells nobody anything: there is one try
            raise ProtocolError(f"whoever dialled in as {self.worker.name} does not know its secret")
        self.facts = self.facts._replace(host=str(hello["host"]), pid=int(hello["pid"]))

    def recv_first(self) -> Frame:
        """Return the first frame of whoever has come, who has proved nothing yet; for the reader thread."""
        return self._recv(UNTRUSTED_BYTES_MAX)

    def recv(self) -> Frame:
        """Return the next frame of the worker; for its reader thread."""
        return self._recv(FRAME_BYTES_MAX)

    def receiver(self) -> Callable[[], Frame]:
        """Return what the calling thread is to read with after the first frame, as recv() would."""
        if isinstance(self.ends, LocalEnds) and threading.current_thread() is not threading.main_thread():
            return self.ends.channel.recv
        return self.recv

    def _recv(self, limit: int) -> Frame:
        """Wait for a frame; in the main thread come up now and then, for NNG's waits keep signals waiting."""
        timeout = SIGNAL_LOOK if threading.current_thread() is threading.main_thread() else None
        while True:
            with contextlib.suppress(LinkTimeout):
                assert isinstance(self.ends, LocalEnds)  # who is far has no reader of its own
                return self.ends.recv(limit=limit, timeout=timeout)

    def show_log(self, frame: Frame) -> None:
        """Let the client's handlers have what the worker has logged."""
        fields, _parts = decode_control(frame.body)
        task = self.worker.held.get(fields["task_id"])
        future = None if task is None else task.handle
        show_record(fields["record"], self.worker.name, None if future is None else future.name())

    def start_reader(self, serve: Callable[[Connection], None]) -> bool:
        """Start the thread that reads from the worker; False when the interpreter starts no threads any more."""
        name = f"crew-reader-{self.worker.name}"
        reader = threading.Thread(target=serve, args=(self,), name=name, daemon=True)
        try:
            reader.start()
        except RuntimeError:  # Python 3.12 at its end
            return False
        self.reader = reader
        return True

    def drain(self) -> None:
        """Let the reader finish with what has arrived: the worker is dead."""
        self.ends.drain()

    # ------------------------------------------------------------------ the end

    def extend_deadlines(self, seconds: float) -> None:
        """Give the worker more time: the client itself stood still."""
        self.launched_at += seconds
        self.expected_from += seconds
        if self._unstarted_since is not None:
            self._unstarted_since += seconds
        if self.kill_at is not None:
            self.kill_at += seconds

    def unsent_outcomes(self) -> list[Outcome]:
        """Return what the worker has finished and perhaps not sent, from its cell.

        A task can write into the cell, too, by way of a child that it forked: what makes no sense is left out. What has
        been handed over for them is kept until their frame comes, for they may be of no use yet:

        1. worker: sends an item of a map(), empties the outbox, and puts the next one there
        2. reader: has that frame, and waits for the lock   3. recaller, which has it: reads the outbox
        4. scheduler: drops what it was told, for the item before is missing
        """
        try:
            return self.with_buffers(decode_outcome_items(self.cell.read_outbox()), are_kept=True)
        except ProtocolError as error:
            logger.error("the outbox of worker %s is damaged and was left out: %s", self.worker.name, error)
            return []

    def with_buffers(self, outcomes: list[Outcome], *, are_kept: bool = False) -> list[Outcome]:
        """Give outcomes the large buffers that the worker has handed over for them; if kept, they come again."""
        for place, outcome in enumerate(outcomes):
            if outcome.flags and outcome.flags & OutcomeFlag.BESIDE and is_number(outcome.parts[-1]):
                arrival = self._port.find(unpack_number(outcome.parts[-1]), is_kept=are_kept)
                outcomes[place] = outcome._replace(parts=outcome.parts[:-1], beside=arrival)
        return outcomes

    def take_back_segments(self, outcomes: Iterable[Outcome]) -> None:
        """Note which segments the worker has let go of; under the dispatcher's lock, before their tasks are done."""
        if not self._lends:
            return
        for outcome in outcomes:
            if self.is_far or outcome.flags & OutcomeFlag.RELEASED:  # who is far reads a copy
                task = self.worker.held.get(outcome.task_id)
                beside = None if task is None or task.attempt != outcome.attempt else task.beside
                if beside is not None and beside.segment is not None:
                    beside.segment.borrowers -= 1

    def unstarted_seconds(self, now: float) -> float:
        """Return for how long the worker's next task has reached it and was not started, as far as was looked at."""
        if self.is_far:
            return 0.0  # its agent looks
        held = self.worker.held
        next_ordinal = next(iter(held.values())).ordinal if held else 0
        is_sending = self._pump.is_moving()
        if next_ordinal <= (self.cell.started or 0) or is_sending or self.calls:
            self._unstarted_since = None
            return 0.0
        if self._unstarted_since is None:
            self._unstarted_since = now
        return now - self._unstarted_since

    def is_spare(self, now: float, are_there_spares: bool, seconds: float) -> bool:
        """Answer whether the worker is one too many, and has been idle for so long, as far as was looked at."""
        if not are_there_spares or self.worker.state != "idle":
            self._spare_since = None
        elif self._spare_since is None:
            self._spare_since = now
        return self._spare_since is not None and now - self._spare_since >= seconds

    def stats(self) -> WorkerStats:
        """Return a snapshot of the worker; under the dispatcher's lock."""
        facts, worker = self.facts, self.worker
        return WorkerStats(facts.name, facts.host, facts.pid, worker.state, worker.tasks_done, self.busy_seconds)

    def log_tail(self, bytes_max: int = LOG_TAIL_BYTES) -> str:
        """Return the last lines that the worker wrote to its stderr, or the task whose output was caught to both."""
        return self.ends.log_tail(bytes_max)

    def close(self) -> None:
        """Free everything; for the dispatcher, after the reader is done. Joins the threads of this connection."""
        self._ticket = None
        self.ends.shut()
        self._pump.close()
        if self.reader is not None:
            self.reader.join()
        self.ends.close()


class Census(NamedTuple):
    """How many workers are on their way, how many are on their way out, and the tasks that these still hold."""

    starting: int
    leaving: int
    tasks_leaving: int


def take_census(connections: Iterable[Connection]) -> Census:
    """Count workers for the scaler; under the dispatcher's lock."""
    starting = leaving = tasks_leaving = 0
    for connection in connections:
        worker = connection.worker
        if not connection.is_ready:
            starting += 1  # also one that has just failed, until that is counted: nothing is launched in between
        elif worker.is_leaving or connection.exit is not None or connection.killed_because:
            leaving += 1
        if worker.is_leaving:
            tasks_leaving += worker.held_items
    return Census(starting, leaving, tasks_leaving)
