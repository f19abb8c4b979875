"""A function of a script with all that it uses, or what some call uses: the same for many calls. In the client.

Its bytes are one object as long as nothing of that has changed, and so can be sent once for many calls. Must not know
how the pickle of a function is made.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

from . import serialize
from .places import Key
from .witness import Witness

_BYTES = struct.Struct("<cI")
# The pickle of open_function(blob), by hand: protocol, global, bytes, a tuple of one, the call, the end.
_OPEN, _CLOSE = b"\x80\x05ccrew_executor.namespace\nopen_function\n", b"\x85R."


class Constant:
    """Globals, and perhaps a function that is one of them, or uses them.

    Args:
        function: the function, or None.
        place: where it is, or None.
        own: its pickle, if it is not in a place; else nothing.
        table: the globals, pickled.
        witness: watches them.
    """

    def __init__(self, function: Any, place: Key | None, own: bytes, table: list[Any], witness: Witness) -> None:
        self.function = function
        self.is_current = witness.is_current
        """Answer whether all is as it was."""
        blob = pickle.dumps((place, table, own), serialize.PROTOCOL)
        self.head = b"".join((_OPEN, _BYTES.pack(b"B", len(blob)), blob, _CLOSE))
        """The pickle of the function, or of None."""


def blob_of(head: bytes) -> bytes | None:
    """Return what the pickle of a Constant gives to open_function(); None if it is another's."""
    return head[len(_OPEN) + _BYTES.size : -len(_CLOSE)] if head.startswith(_OPEN) else None
