"""Many light agents in one process, for network.py: their number, how many call at a time, the invitation as stdin.

A light agent dials in as a real one does, beats as often, and is its only worker, too: tasks run here, in the thread
that reads, and are answered at once. It has no supervisor, no cell, and one link: when that breaks, it is over, and
says so. A refusal is not the end: it tries again, with the other secret (see core/admission.py). At the end the process
says how often its agents have called in vain.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
from collections import Counter
from typing import Any

from crew_executor import invitations, serialize
from crew_executor.agent.process import BEAT, RETRY_FIRST, RETRY_LONGEST
from crew_executor.core.admission import Guest, Refusal
from crew_executor.core.messages import (
    Buffer,
    Frame,
    Kind,
    Outcome,
    decode_control,
    decode_frame,
    decode_relay,
    decode_tasks,
    encode_clock,
    encode_control,
    encode_header,
    encode_outcome,
    encode_relay,
)
from crew_executor.framing import LinkClosed
from crew_executor.invitations import AgentInvitation
from crew_executor.launchers import WorkerExit
from crew_executor.network import NetworkLink
from crew_executor.visit import call_on

DESCRIPTORS_EACH = 8


class LightAgent:
    """One of them, in a thread of its own."""

    def __init__(self, invitation: AgentInvitation, turn: contextlib.AbstractContextManager[Any]) -> None:
        self._invitation = invitation
        self._turn = turn  # to call
        name = f"{invitation.seat}/{os.urandom(8).hex()}" if invitation.places > 1 else invitation.seat
        python = ".".join(map(str, sys.version_info[:2]))
        self._guest = Guest(invitation.run, name, invitation.secret, python, {"host": "light", "pid": os.getpid()})
        self._link: NetworkLink | None = None
        self._sending = threading.Lock()  # the numbers of frames, and their order
        self._sent = self._received = 0
        self._names: dict[int, str] = {}  # of workers, by number
        self._ordinal = 0
        self.tries = Counter[str]()  # in vain, by what came of them
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        link = None
        try:
            link = self._link = self._come()
            while self._take(decode_frame(link.recv())):
                pass
        except (LinkClosed, Refusal) as error:
            print(f"a light agent is over: {error}", file=sys.stderr)
        finally:
            if link is not None:
                with self._sending:
                    self._link = None
                link.free()

    def _come(self) -> NetworkLink:
        """Find the client."""
        invitation = self._invitation
        until = time.monotonic() + invitation.startup_timeout
        pause = RETRY_FIRST
        while True:
            try:
                with self._turn:
                    return call_on(invitation.addresses, invitation.key, self._guest, 0)[0]
            except (LinkClosed, Refusal) as error:
                self.tries[type(error).__name__] += 1
                if time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, RETRY_LONGEST)

    # ------------------------------------------------------------------ to the client

    def beat(self) -> None:
        """Tell the client that this agent is there."""
        with self._sending:
            if self._link is not None:
                self._write([encode_header(Kind.BEAT, self._invitation.run, 0, self._received, 0, 0)])

    def _relay(self, number: int, kind: Kind, pieces: list[Buffer], count: int = 0) -> None:
        pieces = [encode_relay(number, kind), *pieces]
        with self._sending:
            self._sent += 1
            size = sum(map(len, pieces))
            header = encode_header(Kind.RELAY, self._invitation.run, self._sent, self._received, count, size)
            self._write([header, *pieces])

    def _write(self, pieces: list[Buffer]) -> None:
        assert self._link is not None
        try:
            self._link.send(pieces)
        except LinkClosed:
            self._link.close()  # the reader hears of it

    # ------------------------------------------------------------------ from the client

    def _take(self, frame: Frame) -> bool:
        """Do what the client says; return False at the end."""
        if frame.kind == Kind.BEAT:
            return True
        self._received = frame.sequence
        if frame.kind == Kind.RELAY:
            number, inner, _has_content = decode_relay(frame)
            self._order(number, inner)
        return frame.kind != Kind.END

    def _order(self, number: int, frame: Frame) -> None:
        if frame.kind == Kind.HIRE:
            fields = decode_control(frame.body)[0]
            self._names[number] = str(fields["name"])
            hello = {"name": fields["name"], "secret": fields["secret"], "pid": os.getpid(), "host": "light"}
            self._relay(number, Kind.HELLO, [encode_control(hello | {"python": ""})])
        elif frame.kind == Kind.WELCOME:
            self._relay(number, Kind.READY, [encode_control({})])
        elif frame.kind == Kind.TASKS:
            outcomes = [self._outcome(item) for item in decode_tasks(frame)]
            self._relay(number, Kind.OUTCOMES, [encode_clock(time.monotonic()), *outcomes], len(outcomes))
        elif frame.kind == Kind.RECALL:  # too late: all that came before it has run
            self._relay(number, Kind.RECALLED, [encode_control({"kept": self._ordinal}, [b""])])
        elif frame.kind == Kind.GO:
            self._relay(number, Kind.BYE, [encode_control({})])
            self._exited(number, 0)
        elif frame.kind == Kind.SIGNAL and number in self._names:
            self._exited(number, -int(decode_control(frame.body)[0]["signal"]))

    def _exited(self, number: int, exitcode: int) -> None:
        end = WorkerExit(self._names.pop(number), os.getpid(), exitcode)._asdict()
        fields = {"exit": end, "started": self._ordinal, "seconds": 0.0, "timed_out": 0, "interrupted": 0, "log": ""}
        self._relay(number, Kind.EXITED, [encode_control(fields, [b""])])

    def _outcome(self, item: Any) -> bytes:
        began, started = time.perf_counter(), time.time()
        function, args, kwargs = serialize.loads(item.parts[0])
        result = serialize.dumps(function(*args, **kwargs))
        seconds = time.perf_counter() - began
        self._ordinal = item.ordinal
        return encode_outcome(Outcome(item.task_id, item.attempt, 0, (result,), started, seconds, seconds, 0))


def main() -> None:
    """Run so many until all are over."""
    number, callers = map(int, sys.argv[1:])
    invitation = invitations.decode(sys.stdin.buffer.readline())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(DESCRIPTORS_EACH * number + 1_000, hard)), hard))
    turn = threading.Semaphore(callers or number)
    agents = [LightAgent(invitation, turn) for _ in range(number)]
    for agent in agents:
        agent.thread.start()
    beat_seconds = invitation.lost_after * BEAT
    while any(agent.thread.is_alive() for agent in agents):
        began = time.monotonic()
        for agent in agents:
            agent.beat()
            time.sleep(beat_seconds / (2 * number))  # not all at a time
        time.sleep(max(0.0, began + beat_seconds - time.monotonic()))
    tries = sum((agent.tries for agent in agents), Counter())
    print(f"{number} light agents called in vain: {dict(tries)}", file=sys.stderr)


if __name__ == "__main__":
    main()
