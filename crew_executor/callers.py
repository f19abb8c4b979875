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
_GONE = "it has ended, and its supervisor, too"
_ENDS = {
    "over": "ended by its client",
    "begun": "its client has begun to end it, and is not done yet",
    "none": "had ended already",
}


class NoAnswer(Exception):
    """Nobody answered in time, or not as this version does."""


@dataclass
class Household:
    """A client on this machine, its executors, its supervisor, its workers.

    Attributes:
        client_pid, supervisor_pid: the processes.
        command: the client's; empty if it did not answer.
        executors: what it says of them; if it did not answer, what the supervisor knows.
        answers: who did: "client", "supervisor" (the client is stopped, or hangs), or nobody: what cannot be understood
            is no answer.
        is_agent: whether it is the agent of another client, and has no executors itself.
    """

    entry: registry.Entry
    client_pid: int
    supervisor_pid: int
    command: list[str] = field(default_factory=list)
    executors: list[dict[str, Any]] = field(default_factory=list)
    answers: str = ""
    is_agent: bool = False


def ask(entry: registry.Entry, question: dict[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any] | None:
    """Return the answer to a question; None if the supervisor is gone.

    Raises:
        NoAnswer: there is none.
    """
    try:
        peer = registry.connect(entry, seconds)
        if peer is None:
            return None
        with peer:
            send_message(peer, question)
            received = recv_message(peer)
            answer = None if received is None else received[0]["answer"]
    except ConnectionError:
        return None  # it ended meanwhile
    except (OSError, ValueError, KeyError, TypeError) as error:  # OSError: no time, or no room, is left
        raise NoAnswer from error
    if received is None:
        return None
    if not isinstance(answer, dict):  # None: the supervisor says that its client has not answered for a while
        raise NoAnswer
    return answer


def find() -> list[Household]:
    """Return all that there are now."""
    found = []
    for entry in registry.entries():
        household = Household(entry, entry.client_pid, entry.supervisor_pid)
        try:
            is_there = _learn(household)
        except (NoAnswer, KeyError, TypeError, AttributeError):
            is_there = True  # `answers` says what could be learnt
        if is_there:
            found.append(household)
    return found


def _learn(household: Household) -> bool:
    """Fill in what is to be learnt; answer whether the supervisor is there."""
    known = ask(household.entry, {"ask": "known"})
    if known is None:
        return False
    household.executors = _by_run(known["workers"])
    household.answers = "supervisor"
    told = ask(household.entry, {"ask": "stats"})
    if told is None:
        return False
    command = [str(word) for word in told["command"]]
    executors = [{**each, "run": str(each["run"]), "name": str(each["name"])} for each in told["executors"]]
    household.answers, household.command, household.executors = "client", command, executors
    household.is_agent = bool(told.get("is_agent"))  # earlier versions do not say it
    return True


def _by_run(workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    executors: dict[str, dict[str, Any]] = {}
    for worker in workers:
        name = worker["name"].rpartition("-")[0]
        executor = executors.setdefault(worker["run"], {"run": worker["run"], "name": name, "workers": []})
        executor["workers"].append({"name": worker["name"], "pid": worker["pid"], "state": "unknown"})
    return list(executors.values())


def end(household: Household, run: str) -> str:
    """End an executor; return how, in words. The client is asked first, then its supervisor, then nobody.

    Args:
        household: whose it is.
        run: which; empty if nobody has answered: then all that there are.
    """
    entry = household.entry
    if run:
        with contextlib.suppress(NoAnswer):
            # To one that did not answer a question, too: it will read this when it goes on.
            seconds = END_SECONDS if household.answers == "client" else ANSWER_SECONDS
            answer = ask(entry, {"ask": "end", "run": run}, seconds)
            return _GONE if answer is None else _ENDS.get(str(answer.get("end")), f"its client says {answer}")
        with contextlib.suppress(NoAnswer):
            return _force(entry, run)
    else:
        with contextlib.suppress(NoAnswer):
            known = ask(entry, {"ask": "known"})
            return _GONE if known is None else "its supervisor answers again: nothing was killed"
    return _end_supervisor(entry)


def _force(entry: registry.Entry, run: str) -> str:
    answer = ask(entry, {"ask": "force", "run": run})
    if answer is None:
        return _GONE
    number = answer.get("ended", 0)
    told = f"{number} workers were killed by their supervisor" if number else "its supervisor has no workers of it"
    return f"its client {entry.client_pid} does not answer: {told}"


def _end_supervisor(entry: registry.Entry) -> str:
    """Kill a supervisor that does not answer, if it certainly is one; return what was done, in words."""
    from . import processes

    try:
        peer = registry.connect(entry, ANSWER_SECONDS)
    except OSError:
        pid = None  # its queue is full, and the kernel does not say whose it is
    else:
        if peer is None:
            return _GONE
        with peer:
            pid = _listener_pid(peer)
    if pid is None and processes.is_supervisor(entry.supervisor_pid, entry.client_pid):
        pid = entry.supervisor_pid  # only now: the number in the file's name may be another's
    if not pid:
        return (
            "neither client nor supervisor answers, and no supervisor of this user is found behind "
            f"{entry.path}: nothing was killed"
        )
    has_client = processes.is_supervisor(pid, entry.client_pid)  # whose number may be another's if it is gone
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        os.kill(pid, signal.SIGKILL)
    told = f"neither client nor supervisor answers: supervisor {pid} was killed, and its workers with it"
    if has_client:
        told += (
            f"; its client {entry.client_pid} is still there and may start workers again: "
            f"`kill {entry.client_pid}` ends it"
        )
    return told


def _listener_pid(peer: socket.socket) -> int | None:
    """Return which process of this user listens there, from the kernel; None if it does not say, 0 if there is none.

    One in another container has no number here, which the kernel calls 0, too. As the target of a signal, that would be
    this process with its whole group.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    pid, uid, _gid = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid if uid == os.getuid() else 0
