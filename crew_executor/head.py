"""What heads look like: pickles of functions, made by hand, so that a worker knows what they are before it opens them.

A head names a function of a module, or brings a table of globals with a function that is among them, or uses them, or
with none. Nothing is pickled here, and nothing opened.
"""

from __future__ import annotations

import struct

_PROTOCOL = b"\x80\x05"
_TEXT = b"\x8c"  # a short string; its size is behind it
_GLOBAL = b"\x93."  # what has the last two strings as module and name; the end
TEXT_BYTES_MAX = 255

_BYTES = struct.Struct("<cI")
_OPEN = b"\x80\x05ccrew_executor.namespace\nopen_function\n"  # a global
_CLOSE = b"\x85R."  # a tuple of one, the call, the end


def named_head(module: str, name: str) -> bytes:
    """Return the pickle of what has a name in a module; both have TEXT_BYTES_MAX bytes at most."""
    return b"".join((_PROTOCOL, _text(module), _text(name), _GLOBAL))


def _text(word: str) -> bytes:
    data = word.encode()
    return _TEXT + bytes([len(data)]) + data


def name_in(head: bytes) -> tuple[str, str] | None:
    """Return the module and the name of which a head consists; None: it is of another kind."""
    words = []
    at = len(_PROTOCOL)
    while head[at : at + 1] == _TEXT:
        start, at = at + 2, at + 2 + head[at + 1]
        words.append(head[start:at].decode())
    return (words[0], words[1]) if len(words) == 2 and head[at:] == _GLOBAL else None


def table_head(blob: bytes) -> bytes:
    """Return the pickle of what namespace.open_function() makes of these bytes."""
    return b"".join((_OPEN, _BYTES.pack(b"B", len(blob)), blob, _CLOSE))


def blob_in(head: bytes) -> bytes | None:
    """Return what table_head() was given; None: it is of another kind."""
    return head[len(_OPEN) + _BYTES.size : -len(_CLOSE)] if head.startswith(_OPEN) else None
