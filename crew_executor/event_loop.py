"""Say so when submit() is about to wait in a thread that runs an event loop: the whole loop would wait with it.

Only a line in the log (docs/adr/0014): the wait is what `max_pending` was asked for. Code that a notebook or another
shell runs within its own loop, but that was written to wait, is left in peace. Imports no asyncio: where nobody else
has, no loop runs.
"""

from __future__ import annotations

import sys
from types import FrameType

from .log import logger

_OPTIMIZED = 0x01  # the code of a function; not that of a module or of a notebook's cell
_ASYNCHRONOUS = 0x80 | 0x100 | 0x200  # that of a coroutine, old or new, or of an asynchronous generator

_TEXT = (
    "%s:%d: submit() waits for room under max_pending, and the event loop of this thread waits with it: let coroutines "
    "take turns by an asyncio.Semaphore, or submit by asyncio.to_thread(executor.submit, ...)"
)


def mention_wait() -> bool:
    """Log a warning if this thread runs an event loop whose coroutines or callbacks have called submit(); return so."""
    events = sys.modules.get("asyncio.events")
    if events is None or events._get_running_loop() is None:
        return False
    caller = sys._getframe(1)
    if not _is_the_loops(caller):
        return False
    while _is_in(caller, "crew_executor.", "asyncio.") and caller.f_back is not None:
        caller = caller.f_back
    logger.warning(_TEXT, caller.f_code.co_filename, caller.f_lineno)
    return True


def _is_the_loops(caller: FrameType) -> bool:
    """Answer whether a coroutine or asyncio comes before the top of a module or cell, from here to the callers."""
    frame: FrameType | None = caller
    while frame is not None:
        flags = frame.f_code.co_flags
        if flags & _ASYNCHRONOUS or _is_in(frame, "asyncio."):
            return True
        if not flags & _OPTIMIZED:
            return False
        frame = frame.f_back
    return False


def _is_in(frame: FrameType, *packages: str) -> bool:
    return str(frame.f_globals.get("__name__")).startswith(packages)
