"""Checks switchboard.py without a supervisor around it: who gets which answer, and what a silent client costs.

And the sockets of registry.py, which it listens on.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crew_executor import registry
from crew_executor.supervisor_wire import recv_message, send_message
from crew_executor.switchboard import QUESTIONS_MAX, Switchboard


class Board:
    """A switchboard, whose client says what a test says."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.asked: list[dict[str, Any]] = []
        self.has_room = True
        self.switchboard = Switchboard(1, self.selector, lambda: {"known": True}, self._ask_client, lambda _run: 0)

    def _ask_client(self, question: dict[str, Any]) -> bool:
        if self.has_room:
            self.asked.append(question)
        return self.has_room

    def turn(self) -> None:
        ready = {key.fd for key, _ in self.selector.select(10)}
        assert ready, "nobody has said anything"
        self.switchboard.serve(ready)

    def connect(self) -> socket.socket:
        caller = registry.connect(registry.entries()[0], 10)
        assert caller is not None
        self.turn()
        return caller

    def ask(self, caller: socket.socket, **question: Any) -> None:
        send_message(caller, question)
        self.turn()

    def client_answers(self, question: dict[str, Any], answer: Any) -> None:
        self.switchboard.client_answers({"caller": question["caller"], "answer": answer})


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "registry"))
    board = Board()
    yield board
    board.switchboard.close()
    board.selector.close()


def answer_to(caller: socket.socket) -> Any:
    received = recv_message(caller)
    assert received is not None
    return received[0]["answer"]


def test_an_answer_reaches_nobody_but_who_has_asked(board: Board) -> None:
    with board.connect() as gone:
        descriptors = set(board.switchboard._callers)
        board.ask(gone, ask="stats")
    board.turn()  # it has hung up
    with board.connect() as caller:
        assert set(board.switchboard._callers) == descriptors, "the case under test: the descriptor is used again"
        board.ask(caller, ask="stats")
        board.client_answers(board.asked[0], "for the one that is gone")
        board.client_answers(board.asked[1], "for this one")

        assert answer_to(caller) == "for this one"


def test_a_new_caller_is_not_mistaken_for_one_that_hangs_up_at_the_same_moment(board: Board) -> None:
    with board.connect() as gone:
        board.ask(gone, ask="stats")
    caller = registry.connect(registry.entries()[0], 10)
    assert caller is not None
    with caller:
        ready = {key.fd for key, _ in board.selector.select(10)}
        assert len(ready) == 2
        board.client_answers(board.asked[0], "nobody takes it, which ends the connection")
        board.switchboard.serve(ready)
        assert ready & board.switchboard._callers.keys(), "the case under test: the descriptor is used again"
        board.ask(caller, ask="known")

        assert answer_to(caller) == {"known": True}


def test_a_client_is_asked_only_so_much_before_it_answers(board: Board) -> None:
    callers = [board.connect() for _ in range(QUESTIONS_MAX + 1)]
    for caller in callers:
        board.ask(caller, ask="stats")

    assert len(board.asked) == QUESTIONS_MAX
    assert answer_to(callers[-1]) is None
    board.client_answers(board.asked[0], "at last")
    assert answer_to(callers[0]) == "at last"
    board.ask(callers[-1], ask="stats")
    assert len(board.asked) == QUESTIONS_MAX + 1
    for caller in callers:
        caller.close()


def test_a_question_that_cannot_be_passed_on_has_no_answer(board: Board) -> None:
    board.has_room = False
    with board.connect() as caller:
        board.ask(caller, ask="end", run="1")
        assert answer_to(caller) is None


def test_a_question_is_small_whatever_was_asked(board: Board) -> None:
    with board.connect() as caller:
        board.ask(caller, ask="end", run="1" * 10_000, more="2" * 10_000)
        assert board.asked == [{"ask": "end", "run": "1" * 16, "caller": 1}]


# ---------------------------------------------------------------------- where it listens


def found() -> list[tuple[int, int]]:
    return [(one.client_pid, one.supervisor_pid) for one in registry.entries()]


def test_all_folders_are_looked_into_and_the_first_that_will_do_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, other = tmp_path / "of_the_session" / "registry", tmp_path / "registry"
    monkeypatch.setenv(registry.FOLDER_VARIABLE, f"{best}:{other}")
    for client_pid in (1, 2):
        server = registry.listen(client_pid)
        assert server is not None
        server.close()
        best.parent.mkdir(exist_ok=True)  # it comes with a login

    assert [path.name for path in other.iterdir()] == [f"1-{os.getpid()}"]
    assert [path.name for path in best.iterdir()] == [f"2-{os.getpid()}"]
    assert found() == [(2, os.getpid()), (1, os.getpid())]
    registry.remove(1, os.getpid())
    registry.remove(2, os.getpid())
    assert found() == []


def test_a_socket_has_its_name_only_when_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, it refuses connections, and who finds it removes it."""
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "registry"))
    seen = []

    def listen(server: socket.socket) -> None:
        seen.append(found())
        socket.SocketType.listen(server)

    monkeypatch.setattr(socket.socket, "listen", listen, raising=False)
    server = registry.listen(1)
    assert server is not None
    server.close()

    assert seen == [[]]
    assert found() == [(1, os.getpid())]
