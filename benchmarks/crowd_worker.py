"""Many light workers in one process, for crowd.py: each has a link and a cell of its own, and runs its tasks here.

A light worker speaks a worker's protocol and nothing more: no initializer, no output, no children, one thread for all.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
import time
from typing import Any, NamedTuple

from crew_executor import serialize
from crew_executor.cell import Cell
from crew_executor.channel import Channel
from crew_executor.core.messages import Kind, Outcome, decode_tasks, encode_clock, encode_outcome
from crew_executor.framing import LinkClosed
from crew_executor.supervisor_wire import recv_message, send_message
from crew_executor.transport import HatchedLink


class LightLink(HatchedLink):
    """A link whose reader may not wait: it serves others too."""

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        """The sockets, to wait for."""
        return self._socket, self._hatch

    @property
    def has_more(self) -> bool:
        """Whether recv() has read more than the frame it returned: select() would not tell."""
        return self._kept is not None or self._end > self._start


class LightWorker(NamedTuple):
    """One of them."""

    name: str
    link: LightLink
    channel: Channel
    cell: Cell


class Crowd:
    """Serve all of them."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the launcher is gone."""
        while True:
            for key, _events in self._selector.select():
                if key.data is None:
                    received = recv_message(self._control)
                    if received is None:
                        return
                    self._admit(*received)
                elif self._serve(key.data):
                    while key.data.link.has_more and self._serve(key.data):
                        pass

    def _admit(self, message: dict[str, Any], descriptors: list[int]) -> None:
        link_fd, cell_fd, log_fd, port_fd, hatch_fd = descriptors
        os.close(log_fd)
        os.close(port_fd)
        link = LightLink(socket.socket(fileno=link_fd), socket.socket(fileno=hatch_fd))
        worker = LightWorker(message["name"], link, Channel(link, message["run"]), Cell(cell_fd))
        worker.cell.adopt()
        hello = {"name": worker.name, "secret": message["secret"], "pid": 0, "host": "crowd", "python": ""}
        worker.channel.send_control(Kind.HELLO, hello)
        for sock in link.sockets:
            self._selector.register(sock, selectors.EVENT_READ, worker)

    def _serve(self, worker: LightWorker) -> bool:
        """Read one frame, and answer; return whether the worker is still there."""
        channel = worker.channel
        try:
            frame = channel.recv()
            if frame.kind == Kind.WELCOME:
                channel.send_control(Kind.READY)
            elif frame.kind == Kind.TASKS:
                done = [self._run(worker, item) for item in decode_tasks(frame)]
                outcomes = [outcome for outcome in done if outcome]
                if outcomes:
                    channel.send(Kind.OUTCOMES, [encode_clock(time.monotonic()), *outcomes], len(outcomes))
            elif frame.kind == Kind.GO:
                channel.send_control(Kind.BYE)
                self._dismiss(worker)
                return False
        except LinkClosed:
            self._dismiss(worker)
            return False
        return True

    def _run(self, worker: LightWorker, item: Any) -> bytes:
        """Run a task; return its outcome, or nothing if it was taken back, or has come by both ways."""
        if item.ordinal <= (worker.cell.started or 0) or not worker.cell.claim(item.ordinal):
            return b""
        began, started = time.perf_counter(), time.time()
        function = serialize.loads(item.head)
        args, kwargs = serialize.loads(item.parts[0])
        result = serialize.dumps(function(*args, **kwargs))
        seconds = time.perf_counter() - began
        worker.cell.end(item.ordinal)
        worker.cell.finish(item.ordinal)
        return encode_outcome(Outcome(item.task_id, item.attempt, 0, (result,), started, seconds, seconds, 0))

    def _dismiss(self, worker: LightWorker) -> None:
        for sock in worker.link.sockets:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(sock)
        worker.link.free()
        worker.cell.close()
        send_message(self._control, {"gone": worker.name})


if __name__ == "__main__":
    Crowd(socket.socket(fileno=int(sys.argv[1]))).run()
