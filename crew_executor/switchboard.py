"""The supervisor's ear for `ps` and `kill`: tells what it knows, passes questions on to its client, and answers back.

ps, kill --question--> supervisor --question--> client's executors
         <--answer----            <--answer----
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable
from typing import Any

from . import registry
from .supervisor_wire import recv_message, send_message

PATIENCE_SECONDS = 1.0
"""How long a caller may take in the middle of a message. A caller that says nothing costs nothing."""


class Switchboard:
    """Serve callers one message at a time.

    Args:
        client_pid: whose supervisor this is.
        selector: waits for our descriptors, too.
        known: returns what the supervisor knows of its workers.
        ask_client: passes a question on.
        force: ends the workers of a run, without a word to the client.
    """

    def __init__(
        self, client_pid: int, selector: selectors.BaseSelector, known: Callable[[], dict[str, Any]],
        ask_client: Callable[[dict[str, Any]], None], force: Callable[[str], int],
    ) -> None:  # fmt: skip
        self._client_pid = client_pid
        self._selector = selector
        self._known = known
        self._ask_client = ask_client
        self._force = force
        self._callers: dict[int, socket.socket] = {}
        self._listener = registry.listen(client_pid)
        if self._listener is not None:
            selector.register(self._listener, selectors.EVENT_READ)

    def serve(self, ready: set[int]) -> None:
        """Take calls and questions from those of these descriptors that are ours."""
        if self._listener is not None and self._listener.fileno() in ready:
            with contextlib.suppress(OSError):  # it has hung up
                caller, _address = self._listener.accept()
                caller.settimeout(PATIENCE_SECONDS)
                self._callers[caller.fileno()] = caller
                self._selector.register(caller, selectors.EVENT_READ)
        for number in ready & self._callers.keys():
            try:
                self._serve_caller(number)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it does not speak our language
                self._hang_up(number)

    def _serve_caller(self, number: int) -> None:
        received = recv_message(self._callers[number])
        if received is None:
            self._hang_up(number)
            return
        question = received[0]
        if question["ask"] == "known":
            self._answer(number, self._known())
        elif question["ask"] == "force":
            self._answer(number, {"ended": self._force(question["run"])})
        else:
            self._ask_client({**question, "caller": number})

    def client_answers(self, message: dict[str, Any]) -> None:
        """Pass an answer of the client on; who has asked may have hung up."""
        if message["caller"] in self._callers:
            try:
                self._answer(message["caller"], message["answer"])
            except OSError:
                self._hang_up(message["caller"])

    def _answer(self, number: int, answer: Any) -> None:
        send_message(self._callers[number], {"answer": answer})

    def _hang_up(self, number: int) -> None:
        caller = self._callers.pop(number)
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
