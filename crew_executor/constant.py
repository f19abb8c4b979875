"""Globals that calls use, and perhaps the function that is called: the same for many calls. In the client.

Its bytes are one object as long as nothing of that has changed, and so can be sent once for many calls. Must not know
how the pickle of a function is made.
"""

from __future__ import annotations

import pickle
from typing import Any

from . import serialize
from .head import table_head
from .places import Key
from .witness import Witness


class Constant:
    """Globals, and perhaps a function that is one of them, or uses them.

    Args:
        function: the function, or None.
        place: where it is, or None.
        own: its pickle, if it is not in a place; else nothing.
        is_own_kept: whether a worker may call one copy of it again and again, for it holds nothing that a call changes.
        table: the globals, pickled.
        witness: watches them.

    Attributes:
        size: bytes that it takes.
    """

    def __init__(
        self, function: Any, place: Key | None, own: bytes, table: list[Any], witness: Witness, *, is_own_kept: bool
    ) -> None:
        self.function = function
        self.is_current = witness.is_current
        """Answer whether all is as it was."""
        self.has_names = witness.has_names
        """Answer whether its globals have their names: else nobody will ask for it."""
        self.head = table_head(pickle.dumps((place, table, own, is_own_kept), serialize.PROTOCOL))
        """The pickle of the function, or of None."""
        self.size = len(self.head) + witness.size
