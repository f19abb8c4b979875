"""What a traceback's frames are as bytes and as text, remembered for each place that raises.

A task that fails is seldom the only one, and most of what an exception costs is in its frames: each is copied for
tblib, pickled, looked up in its source, and marked. The same lines of the same code give the same. How that is made is
not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, TracebackType
from typing import Generic, TypeVar

from .recent import Recent

FRAMES_MAX = 32
"""Of what has more frames nothing is remembered: it is seldom the same twice."""

Place = tuple[tuple[int, int, int, int, object, object], ...]
T = TypeVar("T", bytes, str)


class Remembered(Generic[T]):
    """Remember what was made of some frames."""

    def __init__(self) -> None:
        # With the codes, so that no other can have the number of one that is gone.
        self._recent: Recent[Place, tuple[T, list[CodeType]]] = Recent()

    def of(self, traceback: TracebackType, make: Callable[[], T | None]) -> T | None:
        """Return what was made of these frames, or make it; what is None is not remembered."""
        place, codes = _place_of(traceback)
        if place is None:
            return make()
        known = self._recent.get(place)
        if known is not None:
            return known[0]
        made = make()
        if made is not None:
            self._recent.add(place, (made, codes), len(made))
        return made


def _place_of(traceback: TracebackType | None) -> tuple[Place | None, list[CodeType]]:
    """Return what tells these frames from others, and their codes; None if there are too many, or it cannot be told."""
    place = []
    codes: list[CodeType] = []
    while traceback is not None:
        if len(codes) == FRAMES_MAX:
            return None, []
        frame = traceback.tb_frame
        code, names = frame.f_code, frame.f_globals
        module, file = names.get("__name__"), names.get("__file__")
        if not (type(module) in _TEXTS and type(file) in _TEXTS):
            return None, []
        codes.append(code)
        place.append((id(code), traceback.tb_lasti, traceback.tb_lineno, frame.f_lineno, module, file))
        traceback = traceback.tb_next
    return tuple(place), codes


_TEXTS = (str, type(None))
