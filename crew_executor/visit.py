"""The guest's side of the lobby: find the host at one of its addresses, and prove to have been invited.

Used by whoever dials in, when it comes and each time that it comes back. Tries; when to try again is the caller's.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from .core.admission import KNOCK_BYTES_MAX, NONCE_BYTES, Guest, Refusal
from .framing import LinkClosed
from .lobby import LENGTH_BYTES, with_length
from .network import Credentials, NetworkLink, Stream, dial

DIAL_SECONDS = 5.0
"""For each address: three packets of the system's, the second and third of which come after 1 and 3 s."""
TALK_SECONDS = 10.0
"""From the connection to the host's welcome."""

Address = tuple[str, int]


def call_on(addresses: Sequence[Address], key: Credentials, guest: Guest, received: int) -> tuple[NetworkLink, int]:
    """Return a link to the host, and the number of the last frame that it has received.

    Args:
        addresses: where it may be, tried one after the other.
        key: the credentials of TLS; None: plain tcp.
        guest: what to prove.
        received: the number of the last frame that came from it.

    Raises:
        LinkClosed: nobody is there, or whoever is does not talk; the text has all that was tried.
        Refusal: the host does not want this guest, or is not who sent the invitation.
    """
    tried = []
    for address in addresses:
        try:
            return call_at(address, key, guest, received)
        except LinkClosed as error:
            tried.append(str(error))
    raise unreached(tried)


def call_at(address: Address, key: Credentials, guest: Guest, received: int) -> tuple[NetworkLink, int]:
    """Do as call_on() with one address; the text of LinkClosed has the address and what came of it."""
    host, port = address
    try:
        stream = dial(host, port, key, DIAL_SECONDS)
        try:
            return NetworkLink(stream), _introduce(stream, guest, received)
        except BaseException:
            stream.free()
            raise
    except LinkClosed as error:
        raise LinkClosed(f"{host}:{port}: {error}") from error


def unreached(tried: Sequence[str]) -> LinkClosed:
    """Return what to raise when no address led to the host, from what call_at() said of each."""
    return LinkClosed(f"the client could not be reached; tried {'; '.join(tried) or 'no address'}")


def _introduce(stream: Stream, guest: Guest, received: int) -> int:
    deadline = time.monotonic() + TALK_SECONDS
    stream.write_later(with_length(guest.knock(os.urandom(NONCE_BYTES), received)))
    answer, there = guest.answer(_hear(stream, deadline))
    stream.write_later(with_length(answer))
    guest.welcomed(_hear(stream, deadline))
    return there


def _hear(stream: Stream, deadline: float) -> bytes:
    """Return what the host says next, and no byte more."""
    length = int.from_bytes(_hear_exactly(stream, LENGTH_BYTES, deadline), "little")
    if length > KNOCK_BYTES_MAX:
        raise Refusal("whoever listens there does not speak our language")
    return _hear_exactly(stream, length, deadline)


def _hear_exactly(stream: Stream, size: int, deadline: float) -> bytes:
    said = b""
    while len(said) < size:
        heard: list[bytes] = []
        is_heard = threading.Lock()
        is_heard.acquire()

        def take(data: bytes, heard: list[bytes] = heard, is_heard: threading.Lock = is_heard) -> None:
            heard.append(data)
            is_heard.release()

        stream.read_later(size - len(said), take)
        if not is_heard.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise LinkClosed("no answer came in time: the keys differ, perhaps, or it is somebody else")
        if not heard[0]:
            raise LinkClosed("closed before the end of the greeting: the keys differ, perhaps, or it is somebody else")
        said += heard[0]
    return said
