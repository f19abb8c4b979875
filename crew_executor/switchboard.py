"""The supervisor's ear for `ps` and `kill`: tells what it knows, passes questions on to its client, and answers back.

ps, kill --question--> supervisor --question--> client's executors
         <--answer----            <--answer----

Must not wait for the client, which may stand still: the supervisor has tasks to end in time.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import socket
from collections.abc import Callable
from typing import Any

from . import registry
from .supervisor_wire import recv_message, send_message

PATIENCE_SECONDS = 1.0
"""How long a caller may take in the middle of a message. A caller that says nothing costs nothing."""
QUESTIONS_MAX = 16
"""So many questions may wait for the client's answer. Then it does not answer, and who asks more is told so at once."""
RUN_LENGTH = 16
"""A run is so many digits. What is longer is none, and must not fill the client's socket."""


class Switchboard:
    """Serve callers one message at a time.

    Args:
        client_pid: whose supervisor this is.
        selector: waits for our descriptors, too.
        known: returns what the supervisor knows of its workers.
        ask_client: passes a question on, and returns whether it could; never waits.
        force: ends the workers of a run, without a word to the client.
    """

    def __init__(
        self, client_pid: int, selector: selectors.BaseSelector, known: Callable[[], dict[str, Any]],
        ask_client: Callable[[dict[str, Any]], bool], force: Callable[[str], int],
    ) -> None:  # fmt: skip
        self._client_pid = client_pid
        self._selector = selector
        self._known = known
        self._ask_client = ask_client
        self._force = force
        self._callers: dict[int, socket.socket] = {}  # by descriptor, while they are connected
        # By a number that is never used again, until the client answers, also if who has asked hangs up before: the
        # next caller has the same descriptor, and would get that answer to a question of its own.
        self._asking: dict[int, socket.socket] = {}
        self._numbers = itertools.count(1)
        self._listener = registry.listen(client_pid)
        if self._listener is not None:
            selector.register(self._listener, selectors.EVENT_READ)

    def serve(self, ready: set[int]) -> None:
        """Take calls and questions from those of these descriptors that are ours."""
        for descriptor in ready & self._callers.keys():
            caller = self._callers[descriptor]
            try:
                self._serve_caller(caller)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it does not speak our language
                self._hang_up(caller)
        # Last: a new caller may have the descriptor of one that has just hung up, and has said nothing yet.
        if self._listener is not None and self._listener.fileno() in ready:
            with contextlib.suppress(OSError):  # it has hung up
                caller, _address = self._listener.accept()
                caller.settimeout(PATIENCE_SECONDS)
                self._callers[caller.fileno()] = caller
                self._selector.register(caller, selectors.EVENT_READ)

    def _serve_caller(self, caller: socket.socket) -> None:
        received = recv_message(caller)
        if received is None:
            self._hang_up(caller)
            return
        question = received[0]
        if question["ask"] == "known":
            self._answer(caller, self._known())
        elif question["ask"] == "force":
            self._answer(caller, {"ended": self._force(question["run"])})
        elif question["ask"] in ("stats", "end"):
            self._pass_on(caller, question["ask"], str(question.get("run", ""))[:RUN_LENGTH])
        else:
            self._hang_up(caller)

    def _pass_on(self, caller: socket.socket, what: str, run: str) -> None:
        number = next(self._numbers)
        if len(self._asking) < QUESTIONS_MAX and self._ask_client({"ask": what, "run": run, "caller": number}):
            self._asking[number] = caller
        else:
            self._answer(caller, None)

    def client_answers(self, message: dict[str, Any]) -> None:
        """Pass an answer of the client on; who has asked may have hung up."""
        caller = self._asking.pop(message["caller"], None)
        if caller is not None and caller.fileno() >= 0:
            try:
                self._answer(caller, message["answer"])
            except OSError:
                self._hang_up(caller)

    def _answer(self, caller: socket.socket, answer: Any) -> None:
        send_message(caller, {"answer": answer})

    def _hang_up(self, caller: socket.socket) -> None:
        del self._callers[caller.fileno()]
        self._selector.unregister(caller)
        caller.close()

    def close(self) -> None:
        """Take no more calls; in the supervisor's end."""
        self.leave()
        if self._listener is not None:
            registry.remove(self._client_pid, os.getpid())

    def leave(self) -> None:
        """Close the descriptors; in a forked worker."""
        for caller in self._callers.values():
            caller.close()
        if self._listener is not None:
            self._listener.close()
