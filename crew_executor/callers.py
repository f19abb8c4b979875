"""The other end of the switchboard: what `ps` and `kill` ask the supervisors of this user. Prints nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

from . import registry
from .supervisor_wire import recv_message, send_message

ANSWER_SECONDS = 2.0
"""How long an answer may take; that of an executor that is to end, END_SECONDS."""
END_SECONDS = 10.0


@dataclass
class Household:
    """A client on this machine, its executors, its supervisor, its workers.

    Attributes:
        client_pid, supervisor_pid: the processes.
        command: the client's; empty if it did not answer.
        executors: what it says of them; if it did not answer, what the supervisor knows.
        answers: who did: "client", "supervisor" (the client is stopped, or hangs), or nobody.
    """

    entry: registry.Entry
    client_pid: int
    supervisor_pid: int
    command: list[str] = field(default_factory=list)
    executors: list[dict[str, Any]] = field(default_factory=list)
    answers: str = ""


def ask(entry: registry.Entry, question: dict[str, Any], seconds: float = ANSWER_SECONDS) -> Any:
    """Return the answer to a question; None if the supervisor is gone.

    Raises:
        TimeoutError: nobody answered in time.
    """
    try:
        peer = registry.connect(entry, seconds)
        if peer is None:
            return None
        with peer:
            send_message(peer, question)
            received = recv_message(peer)
    except (ConnectionError, ValueError):
        return None  # it ended meanwhile
    except BlockingIOError as error:
        raise TimeoutError from error
    return None if received is None else received[0]["answer"]


def find() -> list[Household]:
    """Return all that there are now."""
    found = []
    for entry in registry.entries():
        household = Household(entry, entry.client_pid, entry.supervisor_pid)
        try:
            known = ask(entry, {"ask": "known"})
            if known is None:
                continue
            household.answers = "supervisor"
            household.executors = _by_run(known["workers"])
            told = ask(entry, {"ask": "stats"})
            if told is None:
                continue
            household.answers, household.command, household.executors = "client", told["command"], told["executors"]
        except TimeoutError:
            pass  # `answers` says it
        found.append(household)
    return found


def _by_run(workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    executors: dict[str, dict[str, Any]] = {}
    for worker in workers:
        name = worker["name"].rpartition("-")[0]
        executor = executors.setdefault(worker["run"], {"run": worker["run"], "name": name, "workers": []})
        executor["workers"].append({"name": worker["name"], "pid": worker["pid"], "state": "unknown"})
    return list(executors.values())


def end(household: Household, run: str) -> str:
    """End an executor; return how, in words. The client is asked first, then its supervisor, then nobody."""
    entry = household.entry
    with contextlib.suppress(TimeoutError):
        # To one that did not answer a question, too: it will read this when it goes on.
        seconds = END_SECONDS if household.answers == "client" else ANSWER_SECONDS
        answer = ask(entry, {"ask": "end", "run": run}, seconds)
        return "ended by its client" if answer is None or answer["ended"] else "had ended already"
    with contextlib.suppress(TimeoutError):
        answer = ask(entry, {"ask": "force", "run": run})
        number = 0 if answer is None else answer["ended"]
        return f"its client {household.client_pid} does not answer: {number} workers were killed by their supervisor"
    pid = _listener_pid(entry)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    return f"neither client nor supervisor answers: supervisor {pid} was killed, and its workers with it"


def _listener_pid(entry: registry.Entry) -> int | None:
    """Return which process listens there, from the kernel: the number in the file's name may be another's by now."""
    try:
        peer = registry.connect(entry, ANSWER_SECONDS)
    except OSError:
        return entry.supervisor_pid  # its queue is full, so it lives, or the connection would be refused
    if peer is None:
        return None
    with peer:
        if not hasattr(socket, "SO_PEERCRED"):
            return entry.supervisor_pid
        pid: int = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid
