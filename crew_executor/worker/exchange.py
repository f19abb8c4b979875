"""A worker's conversation with its client: frames for the worker itself, and those about the subtasks of its tasks.

Calls go to the client over the worker's link; outcomes come back over it. While a worker has none of this it reads its
link in its main thread; with the first subtask a thread takes the reading over for good, and hands on what is not about
subtasks. Must not write to the link where an interrupt of the running task could tear a frame. What only subtasks need
is imported late.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import errors, late, table, tracebacks
from ..buffers import NEVER, Buffers
from ..channel import Channel
from ..core.messages import Frame, Kind, OutcomeFlag, decode_control, decode_outcome_items
from ..framing import LinkClosed, LinkTimeout
from ..surroundings import Surroundings
from .call import CallRunner

if TYPE_CHECKING:
    from ..callbacks import CallbackThread
    from ..futures import CrewFuture
    from .log_setup import LogSetup


class _Sent:
    """What a future knows of its task."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.attempt = 0


class Exchange:
    """This worker's conversation with its client: frames for the worker itself, and those about subtasks.

    Args:
        channel: to the client.
        runner: runs the tasks that submit.
        worker: the worker's name.
        logs: knows the level of the root logger.
    """

    def __init__(self, channel: Channel, runner: CallRunner, worker: str, logs: LogSetup) -> None:
        self.run = channel.run
        self._channel = channel
        self._runner = runner
        self._pid = os.getpid()
        self._worker = worker
        self._surroundings = Surroundings(logs)
        self._numbers = itertools.count(1)
        self._open: dict[int, CrewFuture[Any]] = {}
        self._asked: dict[int, threading.Event] = {}
        self._callbacks: CallbackThread | None = None  # with the first subtask
        self._turn = threading.Lock()
        self._is_main_reading = False
        self._frames: queue.SimpleQueue[Frame | BaseException] | None = None
        self._is_closed_to_tasks = False

    # ------------------------------------------------------------------ for the worker's loop

    def recv(self, timeout: float | None) -> Frame:
        """Return the next frame that is not about subtasks; raise what Channel.recv() raises."""
        with self._turn:
            self._is_main_reading = self._frames is None
        if self._is_main_reading:
            try:
                return self._channel.recv(timeout=timeout)
            finally:
                self._is_main_reading = False
        assert self._frames is not None
        try:
            frame = self._frames.get(timeout=timeout)
        except queue.Empty:
            raise LinkTimeout("no frame came in time") from None
        if isinstance(frame, BaseException):
            raise frame
        return frame

    @contextlib.contextmanager
    def closed_to_tasks(self) -> Iterator[None]:
        """Let nothing be submitted meanwhile: the worker would wait for it, and no other stand in."""
        self._is_closed_to_tasks = True
        try:
            yield
        finally:
            self._is_closed_to_tasks = False

    # ------------------------------------------------------------------ for tasks

    def submit(self, future: CrewFuture[Any], parts: tuple[bytes, ...], fields: dict[str, Any]) -> None:
        """Send a subtask; raise LinkClosed if there is no client any more."""
        if self._is_closed_to_tasks:
            raise RuntimeError("a function given to run_on_all() cannot submit tasks: it is no task itself")
        with self._runner.undisturbed():
            self._start()
            number = next(self._numbers)
            future._task = _Sent(number)
            self._open[number] = future
            fields |= {"number": number, "parent_id": self._runner.task_id}
            self._channel.send_control(Kind.SUBMIT, fields, parts)

    def cancel(self, future: CrewFuture[Any], is_running_included: bool) -> None:
        """Cancel a subtask if that is possible, and wait until it is known."""
        sent = future._task
        if sent is None or sent.number not in self._open:
            return
        number = sent.number
        answered = self._asked.setdefault(number, threading.Event())
        with contextlib.suppress(LinkClosed):  # then its reader has seen that, too, and failed the future
            with self._runner.undisturbed():
                fields = {"number": number, "is_running_included": is_running_included}
                self._channel.send_control(Kind.CANCEL, fields)
            answered.wait()

    def pickle(self, call: Any) -> bytes:
        """Pickle a call for another worker of the pool."""
        buffers = Buffers(beside_bytes_min=NEVER)  # there is no port to another worker
        return self._surroundings.attach(table.dumps_call(call, buffers=buffers, is_relayed=True))

    def is_a_parents(self) -> bool:
        """Answer whether this is a process that a task has forked."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raise RuntimeError in a process that a task has forked."""
        if self.is_a_parents():
            raise RuntimeError(
                f"process {os.getpid()} was forked by a task of worker {self._worker}, and has no link to the pool: "
                "submit in the task itself"
            )

    # ------------------------------------------------------------------ reading

    def _start(self) -> None:
        with self._turn:
            if self._frames is not None:
                return
            if self._is_main_reading:
                raise RuntimeError(f"no task runs in worker {self._worker}: only a running task can submit to its pool")
            with late.imports():
                from ..callbacks import CallbackThread

            self._callbacks = CallbackThread(self._worker)
            self._channel.has_own_reader = True
            self._frames = queue.SimpleQueue()
            threading.Thread(target=self._read, args=(self._frames,), name="crew-subtasks", daemon=True).start()

    def _read(self, frames: queue.SimpleQueue[Frame | BaseException]) -> None:
        try:
            while True:
                frame = self._channel.recv()
                if frame.kind == Kind.SUBTASK:
                    self._take_answer(frame)
                else:
                    frames.put(frame)
        except BaseException as error:
            lost = errors.BrokenCrewError(f"worker {self._worker} has lost its client: {error}")
            for number in list(self._open):
                self._open.pop(number)._finish_lost(lost, callbacks=self._callbacks)
            for event in list(self._asked.values()):
                event.set()
            frames.put(error)

    def _take_answer(self, frame: Frame) -> None:
        fields, parts = decode_control(frame.body)
        number, how = fields["number"], fields["how"]
        if how == "asked":
            event = self._asked.pop(number, None)
            if event is not None:
                event.set()
            return
        future = self._open.pop(number, None)
        if future is None:
            return
        future._task.attempt = fields["attempt"]
        future._failed_attempts = tuple(fields["failures"])
        future._output = fields["output"]
        with late.imports():
            from ..futures import WorkerFacts

        worker = WorkerFacts(*fields["worker"])
        if how == "outcome":
            (outcome,) = decode_outcome_items(parts[0])
            if outcome.flags & OutcomeFlag.BESIDE:
                outcome = outcome._replace(parts=outcome.parts[:-1], beside=bytearray(outcome.parts[-1]))
            future._finish(outcome, worker, self._callbacks)
        elif how == "lost":
            error = tracebacks.loads_error(bytes(parts[0]), json.loads(bytes(parts[1])))
            times = fields["times"]
            future._finish_lost(error, worker, None if times is None else tuple(times), self._callbacks)
        else:
            future._finish_cancelled(self._callbacks)
