"""The functions that are called: many calls have the same head, which names a function or brings it along.

A head is opened once, and then it is only looked whether it means the same as before. In the worker. Must not unpickle
arguments, nor keep a function that a name does not stand for any more.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

from .. import namespace, serialize
from ..head import blob_in, name_in
from ..recent import Recent


class _Found(Protocol):
    """Where a function was found."""

    def is_current(self) -> bool:
        """Answer whether it is to be looked for there."""

    def function(self) -> Any:
        """Return what is there now."""


class _Named:
    """A name in a module that this worker can import."""

    def __init__(self, head: bytes, module: str, name: str) -> None:
        self._head, self._module, self._name = head, module, name

    def is_current(self) -> bool:
        """Answer that it is."""
        return True

    def function(self) -> Any:
        """Return what pickle would find."""
        try:
            return getattr(sys.modules[self._module], self._name)
        except (KeyError, AttributeError):  # not imported yet; or the words of the error are pickle's business
            return serialize.loads(self._head)


_found: Recent[bytes, _Found] = Recent()


def function_of(head: bytes) -> Any:
    """Return the function of which this is the pickle; None if it only brings what the rest of the call needs."""
    found = _found.get(head)
    if found is None or not found.is_current():
        found = _find(head)
        if found is None:
            return serialize.loads(head)
        _found.add(head, found, len(head))
    return found.function()


def _find(head: bytes) -> _Found | None:
    blob = blob_in(head)
    if blob is not None:
        return namespace.Brought(blob)
    named = name_in(head)
    return None if named is None else _Named(head, *named)
