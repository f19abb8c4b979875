"""Log records of workers, shown by the client's handlers: how they travel, and which are worth it.

A worker has no handlers, so what is logged there would go to stderr in another form, without levels and filters. It
sends what passes the levels that the client's loggers have, as JSON: nothing a worker says is unpickled to be shown.
Must not decide where a record goes: that is the business of the client's handlers.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

TEXT_MAX = 100_000
"""Characters of a message, or of any other text of a record."""

_LEFT_OUT = frozenset({"args", "asctime", "exc_info", "message", "msg", "relativeCreated"})
_formatter = logging.Formatter()


def current_levels() -> dict[str, Any]:
    """Return the levels that were set in this process: by name of logger, "" for the root."""
    root = logging.root
    levels = {"": root.level}
    for name, other in list(root.manager.loggerDict.items()):
        if isinstance(other, logging.Logger) and other.level != logging.NOTSET:
            levels[name] = other.level
    return {"levels": levels, "disable": root.manager.disable}


_adopted: dict[str, Any] = current_levels()


def adopt_levels(wanted: dict[str, Any]) -> None:
    """Set levels as the client has them. What was done to them here stays until the client changes its own."""
    global _adopted
    before, _adopted = _adopted, wanted
    levels = dict.fromkeys(before["levels"], logging.NOTSET) | wanted["levels"]
    for name, level in levels.items():
        if before["levels"].get(name) != level:
            logging.getLogger(name).setLevel(level)
    if before["disable"] != wanted["disable"]:
        logging.disable(wanted["disable"])


def encode_record(record: logging.LogRecord) -> dict[str, Any]:
    """Return a record as what JSON can say; raises what a bad format string raises."""
    fields = {name: _plain(value) for name, value in record.__dict__.items() if name not in _LEFT_OUT}
    fields["msg"] = record.getMessage()[:TEXT_MAX]
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = _formatter.formatException(record.exc_info)[:TEXT_MAX]
    return fields


def _plain(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float):
        return value
    return (value if type(value) is str else repr(value))[:TEXT_MAX]


def show_record(fields: dict[str, Any], worker: str, task: str | None) -> None:
    """Let the client's logger of that name have a record of a worker.

    Args:
        fields: as encode_record() gave them.
        worker: the worker's name; also the record's processName.
        task: the name of the task that logged, or None: an initializer, or a thread between tasks.
    """
    record = logging.makeLogRecord({"name": "crew_executor", "levelno": logging.ERROR})
    try:
        record = logging.makeLogRecord(fields | {"processName": worker, "worker": worker, "task": task})
        here = logging.getLogger(record.name)
        if here.isEnabledFor(record.levelno):
            here.handle(record)
    except Exception:  # a handler or filter of the user's, a broken record: the reader of a worker must live
        # Not by a logger: it would come to the same handler.
        with contextlib.suppress(Exception):
            logging.Handler().handleError(record)
