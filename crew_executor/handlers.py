"""Tell what a signal handler has raised from what the code has raised that it interrupted. Installs no handler."""

from __future__ import annotations

import functools
import signal
import threading
from types import CodeType, FrameType
from typing import Any


def is_from_handler(error: BaseException) -> bool:
    """Answer whether an exception comes out of a signal handler; of one that is installed now, and written in Python.

    Handlers run in the main thread, wherever that is: a `TimeoutError` for SIGALRM may come out of any line.
    """
    frames: list[FrameType] = []
    entry = error.__traceback__
    while entry is not None:
        frames.append(entry.tb_frame)
        entry = entry.tb_next
    if len(frames) < 2 or threading.current_thread() is not threading.main_thread():
        return False  # what is raised by C code that the caller has called has one
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    return any(frame.f_code in codes for frame in frames)


def _code_of(handler: Any) -> CodeType | None:
    """Return the code that runs when a handler is called; None if that is not Python's, or not called at all."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not callable(handler):
        return None  # SIG_DFL and SIG_IGN are of an Enum: the code that its class is called by is many others', too
    code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None
