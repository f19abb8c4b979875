"""Messages between a client and its supervisor: JSON objects behind a length of 4 bytes.

The descriptors of a launch ride on the length. Both ends are on one machine and trust each other: the socket is a
pair that only they hold.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("<I")
DESCRIPTORS_MAX = 64
CELL_PLACE, LOG_PLACE = 4, 5
"""The descriptors of a launch: resource tracker, stdout, stderr, link, cell, log, port for segments, hatch, and those
that the initializer's arguments need."""


def send_message(sock: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """Send one message; the socket blocks.

    Raises:
        ConnectionError: nobody will read it, or anything else that is sent.
        OSError: nothing was sent, as where too many descriptors of this user are on their way.
    """
    text = json.dumps(message).encode()
    data = _LENGTH.pack(len(text)) + text
    sent = socket.send_fds(sock, [data], descriptors)
    if sent == len(data):
        return  # sendall() of nothing is a system call too: it fails if the reader has answered and closed meanwhile
    try:
        sock.sendall(data[sent:])
    except OSError as error:  # half a message is out, and nothing must follow it
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError(f"half a message was sent: {error}") from error


def recv_message(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Receive one message and its descriptors; None at the end of the stream.

    Raises:
        ConnectionResetError: that end, too, after all messages: the other one has gone without reading all it was sent.
    """
    head, descriptors, _flags, _address = socket.recv_fds(sock, _LENGTH.size, DESCRIPTORS_MAX)
    while head and len(head) < _LENGTH.size:
        more = sock.recv(_LENGTH.size - len(head))
        head = head + more if more else b""
    if not head:
        return None
    (left,) = _LENGTH.unpack(head)
    pieces = []
    while left:
        piece = sock.recv(min(left, 1 << 16))
        if not piece:
            return None
        pieces.append(piece)
        left -= len(piece)
    message: dict[str, Any] = json.loads(b"".join(pieces))
    return message, descriptors
