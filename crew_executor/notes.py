"""Notes on exceptions: where in the journey of a task it was raised."""

from __future__ import annotations

import contextlib


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, unless its class refuses; Python 3.10 keeps it but does not print it."""
    with contextlib.suppress(Exception):
        if hasattr(error, "add_note"):
            error.add_note(note)
            return
        notes = [*getattr(error, "__notes__", []), note]
        error.__dict__["__notes__"] = notes
