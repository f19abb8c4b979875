"""What the thread does that reads from one worker: let it join, take its frames apart, pass on what they say.

Checks the protocol; decides nothing. Whatever happens, its listener hears that it has ended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from .connection import Connection
from .core.messages import Frame, Kind, Outcome, decode_control, decode_outcomes
from .errors import ProtocolError
from .framing import LinkClosed
from .log import logger
from .tracebacks import loads_error


class Listener(Protocol):
    """Who wants to know what workers say. Called by reader threads."""

    def welcome(self, connection: Connection) -> None:
        """The worker has proved who it is, and waits to be told what to begin with."""

    def worker_joined(self, connection: Connection) -> None:
        """The worker has run its initializer: it can be given tasks."""

    def initializer_failed(self, connection: Connection, error: BaseException) -> None:
        """The worker is of no use, and no other would be."""

    def outcomes_arrived(self, connection: Connection, sent_at: float, outcomes: Sequence[Outcome]) -> None:
        """Tasks are done; `sent_at` is the worker's monotonic clock."""

    def catch_up(self) -> None:
        """The worker is about to speak of its running task, which may have been sent and not noted: see ticket.py."""

    def subtask_asked(self, connection: Connection, frame: Frame) -> None:
        """A task submits a task, or cancels one that it has submitted."""

    def call_answered(self, connection: Connection, frame: Frame) -> None:
        """A call of run_on_all() is done."""

    def leave_requested(self, connection: Connection) -> None:
        """The worker has been idle and asks whether it may go."""

    def worker_retired(self, connection: Connection, ordinal: int) -> None:
        """The worker must be replaced; it starts nothing beyond this ordinal."""

    def protocol_broken(self, connection: Connection, error: ProtocolError) -> None:
        """The worker says what it should not."""

    def reader_failed(self, connection: Connection, error: BaseException) -> None:
        """Reading failed for a reason that is no fault of the worker."""

    def reader_ended(self, connection: Connection) -> None:
        """The last call, always: no frame will come any more."""


def serve(connection: Connection, listener: Listener) -> None:
    """Read from one worker until its link ends.

    Args:
        connection: the worker's.
        listener: told of everything.
    """
    reading = Reading(connection, listener)
    try:
        reading.take(connection.recv_first())
        recv = connection.receiver()
        while True:
            reading.take(recv())
    except BaseException as error:
        reading.fail(error)
    finally:
        listener.reader_ended(connection)


class Reading:
    """What one worker has said so far: it joins, then it works.

    Args:
        connection: the worker's.
        listener: told of everything.
    """

    def __init__(self, connection: Connection, listener: Listener) -> None:
        self._connection = connection
        self._listener = listener
        self.take = self._greet
        """Take the worker's next frame; raise ProtocolError if it does not belong here."""

    def fail(self, error: BaseException) -> None:
        """Tell what has ended the reading."""
        connection, listener = self._connection, self._listener
        if isinstance(error, LinkClosed):
            return  # the ordinary end; whether the worker is alive is told by others
        if isinstance(error, KeyboardInterrupt):
            raise error  # the main thread's: it only helps out as a reader
        if isinstance(error, ProtocolError):
            logger.error("worker %s broke the protocol and is killed: %s", connection.worker.name, error)
            listener.protocol_broken(connection, error)
        else:
            logger.error("the reader of worker %s failed", connection.worker.name, exc_info=error)
            listener.reader_failed(connection, error)

    def _greet(self, frame: Frame) -> None:
        self._connection.greet(frame)
        self.take = self._let_join
        self._listener.welcome(self._connection)

    def _let_join(self, frame: Frame) -> None:
        connection, listener = self._connection, self._listener
        if frame.kind == Kind.LOG:
            connection.show_log(frame)
            return
        if frame.kind != Kind.READY:
            raise ProtocolError(f"expected READY, got a frame of kind {frame.kind}")
        self.take = self._handle
        fields, parts = decode_control(frame.body)
        if not fields and not parts:
            listener.worker_joined(connection)
        elif "doing" not in fields or len(parts) != 2:
            raise ProtocolError(f"READY tells of a failure with {sorted(fields)} and {len(parts)} parts")
        else:
            connection.began_with = fields["doing"]
            listener.initializer_failed(connection, loads_error(bytes(parts[0]), json.loads(bytes(parts[1]))))

    def _handle(self, frame: Frame) -> None:
        connection, listener = self._connection, self._listener
        if frame.kind == Kind.OUTCOMES:
            sent_at, outcomes = decode_outcomes(frame)
            listener.outcomes_arrived(connection, sent_at, connection.with_buffers(outcomes))
        elif frame.kind == Kind.LEAVE:
            fields, _parts = decode_control(frame.body)
            if fields["reason"] == "memory":
                listener.worker_retired(connection, int(fields["ordinal"]))
            else:
                listener.leave_requested(connection)
        elif frame.kind == Kind.LOG:
            listener.catch_up()
            connection.show_log(frame)
        elif frame.kind in (Kind.SUBMIT, Kind.CANCEL):
            listener.catch_up()
            listener.subtask_asked(connection, frame)
        elif frame.kind == Kind.CALLED:
            listener.call_answered(connection, frame)
        elif frame.kind != Kind.BYE:
            raise ProtocolError(f"a client has no use for a frame of kind {frame.kind}")
