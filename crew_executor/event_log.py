"""CREW_EXECUTOR_LOG=debug: the package's log on stderr without a line of code, and at that level all that happens.

For those who look for what goes wrong. What workers log arrives with their own times, so all is on one axis. A program
that configures logging by itself leaves the variable alone, and sets the level of the logger "crew_executor".
"""

from __future__ import annotations

import logging
import os
import time

from .events import Event, EventStream, PoolEvent, Successes, TaskEvent
from .log import logger

VARIABLE = "CREW_EXECUTOR_LOG"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(processName)s %(message)s"

_handler: logging.Handler | None = None


def begin(name: str, events: EventStream) -> None:
    """Do what the variable says, for a new executor; what it does not know it says once, as a warning."""
    word = os.environ.get(VARIABLE, "").strip().lower()
    level = LEVELS.get(word)
    if level is None:
        logger.warning("%s=%s is none of %s: nothing is changed", VARIABLE, word, ", ".join(LEVELS))
        return
    _show(level)
    if level <= logging.DEBUG:
        events.listen(lambda told: _log(name, told))


def _show(level: int) -> None:
    global _handler
    if _handler is None:
        _handler = logging.StreamHandler()
        _handler.setFormatter(logging.Formatter(_FORMAT, "%H:%M:%S"))
        logger.addHandler(_handler)
        logger.propagate = False  # the root's handlers would show it once more
        logger.setLevel(level)


def _log(name: str, told: Event | Successes) -> None:
    if logger.isEnabledFor(logging.DEBUG):
        for event in told.each() if isinstance(told, Successes) else (told,):
            logger.debug("%s: %s", name, describe(event))


def describe(event: Event) -> str:
    """Return an event in words."""
    if isinstance(event, TaskEvent):
        return _describe_task(event)
    if isinstance(event, PoolEvent):
        decision = f"; {event.decision}" if event.decision else ""
        workers = f"{event.ready} workers ready, {event.starting} starting"
        return f"{event.queued} tasks queued, {event.running} at workers; {workers}{decision}"
    where = f" (pid {event.pid} on {event.host})" if event.pid else ""
    return f"worker {event.worker}{where} {event.kind}" + (f": {event.words}" if event.words else "")


def _describe_task(event: TaskEvent) -> str:
    what = f"{event.items} items of {event.name}" if event.items > 1 else f"task {event.name}"
    words = [f"{what}: {event.status}"]
    if event.worker:
        words.append(f"at {event.worker}")
    if event.started is not None:
        clock = time.strftime("%H:%M:%S", time.localtime(event.started))
        words.append(f"began {clock}{f'{event.started % 1:.3f}'[1:]}")
    if event.seconds is not None:
        words.append(f"ran {event.seconds:.6f} s")
    if event.attempt > 1 or not event.is_last:
        words.append(f"attempt {event.attempt}" + ("" if event.is_last else ", to be run again"))
    return ", ".join(words) + (f": {event.error}" if event.error else "")
