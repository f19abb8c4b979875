"""The supervisor's end, talked to without an executor: what it leaves, and what it does not, by how its client goes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

from crew_executor.supervisor_wire import send_message

from . import clients
from .helpers import wait_until

SCRIPT = """
import os, sys, time
from crew_executor.supervisor import main

if os.fork() == 0:
    os.setsid()  # as a process that a task has detached
    time.sleep(600)
    os._exit(0)
main(int(sys.argv[1]), int(sys.argv[2]))
"""
LAUNCH = {
    "op": "launch",
    "id": "one",
    "own": {"run": 1, "name": "local-1"},
    "common": {"python": None, "settings": None, "env": {"no=name": "for a variable"}},
}
"""It is refused at once, in words that somebody should read."""


@contextlib.contextmanager
def _supervisor() -> Iterator[tuple[socket.socket, subprocess.Popen[bytes], tuple[str, str]]]:
    mark = clients.new_mark()
    here, there = socket.socketpair()
    with here, there:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(there.fileno()), str(os.getpid())],
            pass_fds=[there.fileno()],
            env={**os.environ, **dict([mark])},
        )
        there.close()
        try:
            wait_until(lambda: len(clients.family_of(mark)) == 2, "the supervisor has a child")
            yield here, process, mark
        finally:
            clients.kill_family(mark)
            process.wait()


def test_a_client_that_goes_without_a_word_leaves_nothing() -> None:
    with _supervisor() as (control, process, mark):
        control.close()

        assert process.wait(10) == 0
        assert not clients.family_of(mark)


def test_a_client_that_goes_with_words_unread_leaves_nothing() -> None:
    """The kernel calls that a reset, not an end: who is killed while workers end has not read of all of them.

    This process, the client, lives on: a supervisor sees its client's sockets closed before it is dead.
    """
    with _supervisor() as (control, process, mark):
        send_message(control, LAUNCH)
        assert control.recv(1, socket.MSG_PEEK)
        control.close()

        assert process.wait(10) == 0
        assert not clients.family_of(mark)


def test_what_was_detached_lives_on_after_an_orderly_end() -> None:
    with _supervisor() as (control, process, mark):
        send_message(control, {"op": "bye"})

        assert process.wait(10) == 0
        assert len(clients.family_of(mark)) == 1
