"""The second way to a worker: whole frames beside its link, in the right order, never in the middle of another."""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from crew_executor.framing import LinkClosed, LinkTimeout
from crew_executor.hatch import FRAME_BYTES_MAX, Hatch, hatch_pair
from crew_executor.transport import HatchedLink


def framed(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


class Ends:
    """A worker's link, and the client's ends of its two sockets."""

    def __init__(self) -> None:
        self.stream, theirs = socket.socketpair()
        self.hatch: Hatch | None
        self.hatch, their_hatch = hatch_pair()
        self.link = HatchedLink(theirs, their_hatch)

    def recv(self, timeout: float = 5.0) -> bytes:
        return bytes(self.link.recv(timeout=timeout))

    def send(self, content: bytes) -> bool:
        assert self.hatch is not None
        return self.hatch.send(framed(content))


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.hatch = None
    ends.link.free()
    ends.stream.close()


def test_frames_arrive_by_either_way(ends: Ends) -> None:
    assert ends.send(b"one")
    first = ends.recv()
    ends.stream.send(framed(b"two"))
    second = ends.recv()
    assert ends.send(b"three")

    assert [b"one", b"two", b"three"] == [first, second, ends.recv()]


def test_what_came_through_the_hatch_is_read_first(ends: Ends) -> None:
    # The client sends over the link only when it knows that what went through the hatch has gone.
    assert ends.send(b"earlier")
    ends.stream.send(framed(b"later") + framed(b"last"))

    assert [b"earlier", b"later", b"last"] == [ends.recv(), ends.recv(), ends.recv()]


def test_what_goes_through_the_hatch_after_the_reader_has_looked_there_is_read_first(ends: Ends) -> None:
    # 1. reader: wakes by the first frame, finds the hatch empty, and reads all that the stream has by then
    ends.stream.send(framed(b"first") + framed(b"third"))
    first = ends.recv()
    # 2. The client had sent this before the third; to the reader it is as if it came only now.
    assert ends.send(b"second")

    assert [b"first", b"second", b"third"] == [first, ends.recv(), ends.recv()]


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_frame_is_never_in_the_middle_of_another(size: int, ends: Ends) -> None:
    frame = framed(bytes(size))
    ends.stream.send(frame[:50])
    with pytest.raises(LinkTimeout):
        ends.recv(0.01)  # it has the first half now
    assert ends.send(b"beside")
    with pytest.raises(LinkTimeout):
        ends.recv(0.01)
    ends.stream.send(frame[50:])

    assert [b"beside", bytes(size)] == [ends.recv(), ends.recv()]


def test_a_hatch_never_waits(ends: Ends) -> None:
    sent = 0
    while ends.send(b"x"):
        sent += 1
        assert sent < 100_000

    assert sent
    assert b"x" == ends.recv()
    assert ends.send(b"y")


def test_what_is_sent_to_a_worker_that_is_gone_does_no_harm() -> None:
    ends = Ends()
    ends.link.free()
    while ends.send(b"x"):
        pass  # the worker's end has a copy here: see Hatch.release()

    ends.stream.close()
    ends.hatch = None


def test_who_waits_at_the_hatch_gets_the_answer(ends: Ends) -> None:
    assert ends.hatch is not None
    nothing = ends.hatch.recv(0)
    assert ends.link.answer(b"an answer")
    answers = [ends.hatch.recv(5)]
    assert ends.link.answer(b"another")
    answers.append(ends.hatch.recv(None))

    assert nothing is None
    assert [b"an answer", b"another"] == answers


def test_who_waits_at_the_hatch_is_woken_by_a_ring(ends: Ends) -> None:
    assert ends.hatch is not None
    ends.hatch.release()

    assert b"" == ends.hatch.recv(5)
    assert ends.hatch.recv(0) is None


def test_nobody_waits_for_who_does_not_read_at_the_hatch(ends: Ends) -> None:
    assert ends.hatch is not None
    while ends.link.answer(b"x"):
        pass
    ends.hatch.release()

    assert b"x" == ends.hatch.recv(5)
    assert ends.link.answer(b"y")


def test_a_waiter_is_expected_when_some_tasks_in_a_row_were_waited_for(ends: Ends) -> None:
    assert ends.hatch is not None
    expected = []
    for is_waited in (True, True, True, False, True, False, True, True):
        expected.append(ends.hatch.expects_waiter())
        ends.hatch.is_watched = is_waited
    expected.append(ends.hatch.expects_waiter())

    assert expected == [False, False, True, True, False, False, False, False, True]


def test_an_answer_that_is_too_long_for_the_hatch_is_not_given(ends: Ends) -> None:
    assert not ends.link.answer(bytes(FRAME_BYTES_MAX + 1))
    assert ends.link.answer(bytes(FRAME_BYTES_MAX))
    assert ends.hatch is not None
    assert bytes(FRAME_BYTES_MAX) == ends.hatch.recv(5)


def test_the_end_of_the_hatch_is_not_that_of_the_link(ends: Ends) -> None:
    ends.hatch = None
    ends.stream.send(framed(b"still here"))

    assert b"still here" == ends.recv()
    with pytest.raises(LinkTimeout):
        ends.recv(0.01)
    ends.stream.shutdown(socket.SHUT_RDWR)
    with pytest.raises(LinkClosed):
        ends.recv()


@pytest.mark.parametrize("lowest", [3, 1100])
def test_waits_may_be_shorter_than_a_millisecond_whatever_the_descriptors(lowest: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, limits[1]), limits[1]))
    try:
        pairs = socket.socketpair(), socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        stream, hatch = [socket.socket(fileno=fcntl.fcntl(pair[0], fcntl.F_DUPFD, lowest)) for pair in pairs]
        link = HatchedLink(stream, hatch)
        with pytest.raises(LinkTimeout):
            link.recv(timeout=0.0003)
        pairs[1][1].send(framed(b"in the hatch"))
        assert b"in the hatch" == bytes(link.recv(timeout=0.0003))
        link.free()
        for pair in pairs:
            for sock in pair:
                sock.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_hatch_for_which_there_is_no_descriptor_left_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_sock: socket.socket) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket.socket, "dup", fail)
    with pytest.raises(OSError, match="Too many open files"):
        hatch_pair()  # what it has opened is closed: the end of each test looks


def test_a_hatch_is_closed_with_its_last_reference(ends: Ends) -> None:
    gc.disable()
    try:
        assert ends.hatch is not None
        fd, sender = ends.hatch._fd, ends.hatch.send
        ends.hatch = None
        os.fstat(fd)  # a thread is about to write
        del sender
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    finally:
        gc.enable()
