"""The words between a client and its supervisor, on real sockets."""

from __future__ import annotations

import socket

import pytest

from crew_executor.supervisor_wire import recv_message, send_message


class Overtaken(socket.socket):
    """A socket whose reader has read, and is gone, before a call that sends returns."""

    reader: socket.socket
    got: object = None

    def sendmsg(self, *words: object) -> int:  # type: ignore[override]  # what send_fds() calls
        sent = super().sendmsg(*words)  # type: ignore[arg-type]
        self.got = recv_message(self.reader)
        self.reader.close()
        return sent


def test_who_has_read_all_may_go_at_once() -> None:
    here, there = socket.socketpair()
    with Overtaken(fileno=here.detach()) as sender, there:
        sender.reader = there
        send_message(sender, {"ask": "known"})
        assert sender.got == ({"ask": "known"}, [])


class Narrow(socket.socket):
    """A socket that takes four bytes at first."""

    def sendmsg(self, buffers: list[bytes], *words: object) -> int:  # type: ignore[override]
        return super().sendmsg([buffers[0][:4]], *words)  # type: ignore[arg-type]


def test_what_did_not_go_at_once_goes_then() -> None:
    here, there = socket.socketpair()
    with Narrow(fileno=here.detach()) as sender, there:
        send_message(sender, {"ask": "known"}, (sender.fileno(),))
        received = recv_message(there)
        assert received is not None
        message, descriptors = received
        assert message == {"ask": "known"}
        with socket.socket(fileno=descriptors[0]) as copy:
            assert copy.family == socket.AF_UNIX


def test_nothing_follows_half_a_message() -> None:
    here, there = socket.socketpair()

    class Cut(Narrow):
        def sendall(self, *_words: object) -> None:  # type: ignore[override]
            raise TimeoutError("timed out")

    with Cut(fileno=here.detach()) as sender, there:
        with pytest.raises(ConnectionError, match="half a message was sent: timed out"):
            send_message(sender, {"ask": "known"})
        assert recv_message(there) is None
        with pytest.raises(ConnectionError):
            sender.send(b"more")
