"""What was made or opened lately, to be known again when the same comes again.

Bounded by number and by bytes: a global that the client changes before each call makes new bytes for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

RECENT_MAX = 1000
"""How many are remembered."""
RECENT_BYTES_MAX = 16_000_000
"""How many bytes all of them may have, but for one that has more."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Recent(Generic[K, T]):
    """Remember some, and forget all when there are too many."""

    def __init__(self) -> None:
        self._values: dict[K, tuple[T, int]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> T | None:
        """Return what was added with this key last, or None."""
        known = self._values.get(key)
        return None if known is None else known[0]

    def add(self, key: K, value: T, size: int) -> None:
        """Remember something that takes so many bytes."""
        self.remove(key)
        if len(self._values) >= RECENT_MAX or self._bytes + size > RECENT_BYTES_MAX:
            self._values.clear()
            self._bytes = 0
        self._bytes += size
        self._values[key] = value, size

    def remove(self, key: K) -> None:
        """Forget what has this key, if there is any."""
        known = self._values.pop(key, None)
        if known is not None:
            self._bytes -= known[1]

    def oldest(self, number: int) -> list[tuple[K, T]]:
        """Return those that were added or renewed first."""
        keys = list(itertools.islice(self._values, number))  # at once: other threads may add some meanwhile
        return [(key, known[0]) for key in keys if (known := self._values.get(key)) is not None]

    def renew(self, key: K) -> None:
        """Count one as added now."""
        known = self._values.pop(key, None)
        if known is not None:
            self._values[key] = known
