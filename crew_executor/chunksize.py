"""The `chunksize` of map(), and what the standard library says of its arguments."""

from __future__ import annotations


class _DefaultChunksize(int):
    """1, but to be told from a 1 that the user has given: then each item is a task."""


DEFAULT_CHUNKSIZE = _DefaultChunksize(1)


def check_map_arguments(chunksize: int, buffersize: int | None) -> None:
    """Raise what the standard library raises for arguments of map() that are out of range."""
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
