"""Which Constants one executor keeps, and when it does not try to make one. In the client.

To make one takes as long as to pickle a call, or twice as long. It pays if it is used again: so what could not be made,
or had changed each time before it was used, is left alone for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .constant import Constant
from .places import Key
from .recent import Recent

Make = Callable[[Any, Mapping[Key, Any]], "Constant | None"]
CALLS_LEFT_OUT = 30
"""Calls of a function for which none is made, after it was of no use."""
USELESS_MAX = 2
"""So often one may have changed, in a row, before it was used a second time."""
SWEPT = 2
"""So many others are looked at when one is made: those of functions that are gone are forgotten."""


class Constants:
    """Keep them by function, and by the names of more globals.

    Args:
        make: makes one of a function and more globals, or None, and may raise anything.
    """

    def __init__(self, make: Make) -> None:
        self._make = make
        self._kept: Recent[tuple[str, str, frozenset[Key]], _Kept] = Recent()

    def of(self, function: Any, values: Mapping[Key, Any], stale: Constant | None = None) -> Constant | None:
        """Return the one of a function, or of no function, with more globals; None if the ordinary way is as good.

        `stale`: this one is not current any more.
        """
        key = ("", "", frozenset(values)) if function is None else (
            function.__module__, function.__qualname__, frozenset(values)
        )  # fmt: skip
        kept = self._kept.get(key) or _Kept()
        constant = kept.constant
        if kept.calls_left_out:
            kept.calls_left_out -= 1
            return None
        is_of_this = constant is not None and constant.function is function and constant is not stale
        if is_of_this and constant.is_current():  # type: ignore[union-attr]  # it is not None
            kept.useless = 0
            return constant
        self._sweep()
        kept.useless += 1
        try:
            constant = self._make(function, values)
        except Exception:  # the ordinary way says what is wrong
            constant = None
        if constant is None or kept.useless > USELESS_MAX:
            kept.calls_left_out, kept.useless = CALLS_LEFT_OUT, 0
        kept.constant = constant
        self._kept.add(key, kept, 0 if constant is None else constant.size)
        return constant

    def _sweep(self) -> None:
        """Forget some whose functions or classes are gone: nobody will call them again, and they keep objects.

        Nothing of a user's is called: this is not about the function that is called now.
        """
        for key, kept in self._kept.oldest(SWEPT):
            if kept.constant is not None and not kept.constant.has_names():
                kept.constant = None
                self._kept.add(key, kept, 0)
            else:
                self._kept.renew(key)


class _Kept:
    """One of them, or the word that there is none."""

    def __init__(self) -> None:
        self.constant: Constant | None = None
        self.calls_left_out = 0  # from now on
        self.useless = 0  # how many were made in a row of which the last was not used again, or not yet
