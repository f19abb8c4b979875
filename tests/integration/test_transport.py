"""Links: what arrives in pieces, late, or not at all."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Iterator

import pytest

from crew_executor import transport
from crew_executor.core.horizon import FRAME_BYTES
from crew_executor.pump import INLINE_BYTES
from crew_executor.transport import Link, LinkClosed, LinkTimeout

from .helpers import wait_until


@pytest.fixture
def ends() -> Iterator[tuple[Link, socket.socket]]:
    """A link, and the bare socket of its peer."""
    ours, theirs = socket.socketpair()
    link = Link(ours)
    yield link, theirs
    theirs.close()
    link.free()


@pytest.mark.parametrize("size", [6_000, 60_000, 64 * 1024, 1_000_000])
@pytest.mark.parametrize("cut", [0, 3, 8, 9, 5_000])
def test_a_frame_interrupted_by_a_timeout_is_whole_at_last(
    ends: tuple[Link, socket.socket], size: int, cut: int
) -> None:
    """The sender stands still in the middle of a frame for longer than the receiver waits; more than once."""
    link, peer = ends
    frame = struct.pack("<Q", size) + bytes(range(256)) * (size // 256 + 1)
    frame = frame[: 8 + size]
    peer.sendall(frame[:cut])
    with pytest.raises(LinkTimeout):
        link.recv(timeout=0.01)
    peer.sendall(frame[cut : cut + 1])
    with pytest.raises(LinkTimeout):
        link.recv(timeout=0.01)
    rest = threading.Thread(target=peer.sendall, args=(frame[cut + 1 :] + struct.pack("<Q", 2) + b"ok",))
    rest.start()

    assert bytes(link.recv()) == frame[8:]
    assert bytes(link.recv()) == b"ok"
    rest.join()


def test_a_closed_link_neither_sends_nor_receives(ends: tuple[Link, socket.socket]) -> None:
    link, _peer = ends
    link.close()
    link.close()
    with pytest.raises(LinkClosed):
        link.send([struct.pack("<Q", 1), b"x"])
    with pytest.raises(LinkClosed):
        link.recv()


def test_close_ends_a_waiting_reader(ends: tuple[Link, socket.socket]) -> None:
    link, _peer = ends
    ended = threading.Event()

    def read() -> None:
        with pytest.raises(LinkClosed):
            link.recv()
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    link.close()

    assert ended.wait(30)
    reader.join()


@pytest.mark.parametrize("size", [2, 6_000, 200_000])
@pytest.mark.parametrize("is_reading", [False, True])
def test_what_a_peer_sent_before_it_died_with_our_frames_unread_arrives(size: int, is_reading: bool) -> None:
    """The kernel resets such a connection, and hands over what it holds all the same."""
    for _round in range(20):
        ours, theirs = socket.socketpair()
        link = Link(ours)
        frames = [bytes([number]) * size for number in range(3)]
        received: list[bytes] = []
        reader = threading.Thread(target=_read_all, args=(link, received))
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
        link.send([struct.pack("<Q", 6), b"unread"])
        if is_reading:
            reader.start()
        for frame in frames:
            theirs.sendall(struct.pack("<Q", size) + frame)
        theirs.close()
        if not is_reading:
            with pytest.raises(LinkClosed):  # noqa: PT012  sooner or later
                while True:
                    link.send([struct.pack("<Q", 6), b"in vain"])
            reader.start()
        reader.join(30)
        link.free()

        assert received == frames


def _read_all(link: Link, received: list[bytes]) -> None:
    with pytest.raises(LinkClosed):  # noqa: PT012  after the last
        while True:
            received.append(bytes(link.recv()))


def test_a_link_that_cannot_finish_a_frame_is_closed(
    ends: tuple[Link, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a frame is out: the peer would wait for the rest for ever, and take the next frame for it."""

    def fail(_sock: socket.socket) -> None:
        raise OSError("too many open files")

    link, peer = ends
    monkeypatch.setattr(transport, "_Stream", fail)
    with pytest.raises(LinkClosed, match="too many open files"):
        link.send([bytes(10_000_000)])
    with pytest.raises(LinkClosed):
        link.send([b"next"])
    while peer.recv(1_000_000):
        pass


def test_a_program_with_a_default_timeout_for_its_sockets_waits_all_the_same() -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.01)
    try:
        ours, theirs = socket.socketpair()
    finally:
        socket.setdefaulttimeout(before)
    theirs.setblocking(True)
    link = Link(ours)
    late = threading.Timer(0.1, theirs.sendall, (struct.pack("<Q", 2) + b"ok",))
    late.start()

    assert bytes(link.recv()) == b"ok"
    late.join()
    theirs.close()
    link.free()


def test_a_link_that_nng_writes_to_as_well_waits_for_what_comes(ends: tuple[Link, socket.socket]) -> None:
    """NNG takes the waiting away from a socket that it adopts."""
    link, peer = ends
    size = 4_000_000
    sender = threading.Thread(target=link.send, args=([struct.pack("<Q", size), bytes(size)],))
    sender.start()
    wait_until(lambda: link._stream is not None, "the frame does not fit into the socket")
    left = 8 + size
    while left:
        left -= len(peer.recv(1 << 20))
    sender.join()
    late = threading.Timer(0.1, peer.sendall, (struct.pack("<Q", 2) + b"ok",))
    late.start()

    assert bytes(link.recv()) == b"ok"
    late.join()


def _received(peer: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        got += peer.recv(100_000)
    return bytes(got)


@pytest.mark.parametrize(
    "sizes",
    [(10, 20_000, 7, 300_000, 5), (1_000_000, 1, 1_000_000), 300 * (20_000,), (transport.IOV_MAX + 10) * (16_500,)],
    ids=["a few", "larger than the socket", "many", "more than one call takes"],
)
def test_pieces_arrive_whole_and_in_order(ends: tuple[Link, socket.socket], sizes: tuple[int, ...]) -> None:
    """What is large is not joined; the socket takes a part of it at once, and NNG writes the rest."""
    link, peer = ends
    pieces: list[bytes | memoryview] = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    pieces[-1] = memoryview(pieces[-1])
    sender = threading.Thread(target=lambda: [link.send(pieces), link.send([b"after"])])
    sender.start()
    whole = b"".join(pieces) + b"after"

    assert _received(peer, len(whole)) == whole
    sender.join()
    assert link.bytes_sent == len(whole)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have smaller buffers: there NNG waits for the peer")
@pytest.mark.parametrize("size", [1, 3_000, FRAME_BYTES, INLINE_BYTES])
def test_a_link_that_has_room_takes_what_whoever_comes_along_may_write(
    ends: tuple[Link, socket.socket], size: int
) -> None:
    """Else a user's thread would wait in submit() until the worker reads."""
    link, _peer = ends
    while link.has_room():
        link.send([bytes(size)])

    assert link._stream is None


@pytest.mark.skipif(sys.platform != "linux", reason="as above")
@pytest.mark.parametrize("size", [1, 700, 5_000, 40_000])
def test_so_it_is_with_as_much_in_the_socket_as_there_may_be(ends: tuple[Link, socket.socket], size: int) -> None:
    link, peer = ends
    while link.has_room():
        link.send([bytes(size)])
    peer.recv(size)  # the last of them was one too many

    assert link.has_room()
    link.send([bytes(INLINE_BYTES)])
    assert link._stream is None
