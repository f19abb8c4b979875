"""Sends log records that nobody in the worker handles to the client.

It takes the place of logging.lastResort, so a worker whose initializer or modules set up handlers keeps them, and the
client hears nothing. Must not block a task for longer than a send, nor let an interrupt tear a frame.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from ..channel import Channel
from ..core.messages import Kind
from ..framing import LinkClosed
from ..log_records import encode_record
from .output import Output

if TYPE_CHECKING:
    from .log_setup import LogSetup

_ORIGINAL = logging.lastResort
_original_basic_config = logging.basicConfig


def _basic_config(**options: Any) -> None:
    """Do what basicConfig() does for users, and nothing for logging itself.

    logging.info() and its like call it if the root logger has no handler; then that would have one, on stderr, and from
    the second record on nobody would ask for a handler of last resort.
    """
    if options or sys._getframe(1).f_globals is not vars(logging):
        _original_basic_config(**options)


class LogForwarder(logging.Handler):
    """Handle records by sending them, once it is connected."""

    _channel: Channel
    _output: Output
    _setup: LogSetup

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(logging.BASIC_FORMAT))

    def connect(self, channel: Channel, output: Output, setup: LogSetup) -> None:
        """Be the handler of last resort.

        Args:
            channel: to the client.
            output: keeps a line of each record for a post-mortem.
            setup: knows what runs tasks, and in which process.
        """
        self._channel = channel
        self._output = output
        self._setup = setup
        logging.lastResort = self
        logging.basicConfig = _basic_config

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record; in a process that a task has forked, and without a client, show it on stderr."""
        try:
            if os.getpid() != self._setup.pid or not self._send(record):
                self._show(record)
        except Exception:
            self.handleError(record)

    def _send(self, record: logging.LogRecord) -> bool:
        fields = encode_record(record)
        runner = self._setup.runner
        try:
            if runner is None:
                self._channel.send_control(Kind.LOG, {"task_id": 0, "record": fields})
            else:
                with runner.undisturbed():
                    self._channel.send_control(Kind.LOG, {"task_id": runner.task_id, "record": fields})
        except LinkClosed:
            return False
        self._output.keep(self.format(record) + "\n")
        return True

    @staticmethod
    def _show(record: logging.LogRecord) -> None:
        if _ORIGINAL is not None and record.levelno >= _ORIGINAL.level:
            _ORIGINAL.handle(record)


forwarder = LogForwarder()
"""The worker's: made with the module, which workers have from the supervisor, for that takes the most of the time."""
