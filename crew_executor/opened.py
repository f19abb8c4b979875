"""What was opened lately, by the bytes that it was opened from: the same bytes come again. In the worker.

Bounded by number and by bytes: a global that the client changes before each call makes new bytes for each.
"""

from __future__ import annotations

from typing import Generic, TypeVar

OPENED_MAX = 1000
"""How many are remembered."""
OPENED_BYTES_MAX = 16_000_000
"""How many bytes all that they were opened from may have."""

T = TypeVar("T")


class Opened(Generic[T]):
    """Remember some, and forget all when there are too many."""

    def __init__(self) -> None:
        self._values: dict[bytes, T] = {}
        self._bytes = 0
        self.get = self._values.get
        """Return what was opened from these bytes, or None."""

    def __len__(self) -> int:
        return len(self._values)

    def add(self, data: bytes, value: T) -> None:
        """Remember what was opened from these bytes."""
        if len(self._values) >= OPENED_MAX or self._bytes + len(data) > OPENED_BYTES_MAX:
            self._values.clear()
            self._bytes = 0
        if data not in self._values:
            self._bytes += len(data)
        self._values[data] = value
