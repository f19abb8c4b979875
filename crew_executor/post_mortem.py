"""What can be done for a task that has failed: tell its story in words, and run its call again here. Prints nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import namespace, table, tracebacks
from .core.messages import Outcome

if TYPE_CHECKING:
    from .futures import CrewFuture
    from .records import TaskRecord

_ENDS = {
    None: "is not done", "success": "has succeeded", "error": "has failed", "crash": "was lost with its worker",
    "timeout": "took too long", "cancel": "was cancelled",
}  # fmt: skip

ATTEMPT_NOTE = re.compile(r"attempt \d+ failed, too: ")
"""How the notes of CrewFuture begin that are about earlier attempts."""


def tell(record: TaskRecord, failed_attempts: Sequence[Outcome | str], *, is_running: bool = False) -> str:
    """Return the story of a task.

    Args:
        record: what is known of it.
        failed_attempts: how earlier runs ended: outcomes, or words on a lost worker.
        is_running: whether a worker has it, begun or sent ahead; of one that is not done.
    """
    return "\n".join(_lines(record, failed_attempts, is_running))


def _lines(record: TaskRecord, failed_attempts: Sequence[Outcome | str], is_running: bool) -> Iterator[str]:
    called = "" if record.name == record.command else f", a call of {record.command},"
    times = f", in attempt {record.attempts}" if record.attempts > 1 else ""
    if record.status is None:
        times = ": it runs, or is the next at its worker" if is_running else ": it waits for a worker"
    yield f"task {record.name}{called} {_ENDS[record.status]}{times}"
    yield from _times(record)
    for number, how in enumerate(failed_attempts, 1):
        yield f"  attempt {number}: {_words(how)}"
    if record.seed is not None:
        yield f"  its random numbers began at seed {record.seed}"
    for warning in record.warnings:
        yield f"  {warning.category}: {warning.message} ({warning.filename}:{warning.lineno})"
    yield from _block("it has written", record.output)
    error = record.error
    if record.status in ("crash", "timeout", "cancel") and error is not None:
        yield from _block("why", _why(record, str(error)))  # with the end of the worker's stderr
        told = _notes_on_attempts(error)
        yield from _block("more", "\n".join(note for note in getattr(error, "__notes__", ()) if note not in told))
    elif record.traceback is not None:
        text = f"{record.traceback}\n"
        for note in _notes_on_attempts(error):
            text = text.replace(f"\n{note}\n", "\n", 1)
        yield from _block("its error", text)


def _why(record: TaskRecord, text: str) -> str:
    """Return what an error of ours says beside that which the first line of the story has said."""
    name = re.escape(record.name)
    rest = re.sub(rf"\A(task )?{name}( \(attempt \d+\))?:? ", "", tracebacks.without_worker(text))
    return "" if rest == _ENDS[record.status] else rest


def _notes_on_attempts(error: BaseException | None) -> list[str]:
    """Return what an error says of earlier attempts, which the story has told."""
    return [note for note in getattr(error, "__notes__", ()) if ATTEMPT_NOTE.match(note)]


def _times(record: TaskRecord) -> Iterator[str]:
    if record.submitted is not None:
        yield f"  submitted at {_clock(record.submitted)}"
    if record.started is not None:
        waited = "" if record.queue_seconds is None else f", {record.queue_seconds:.3f} s later"
        yield f"  started at {_clock(record.started)}{waited}"
    if record.seconds is not None:
        cpu = "" if record.cpu_seconds is None else f", with {record.cpu_seconds:.3f} s of CPU time"
        yield f"  ran for {record.seconds:.3f} s{cpu}"
    if record.worker:
        memory = "" if record.max_rss is None else f"; it has had at most {record.max_rss / 1e6:.0f} MB of memory"
        yield f"  at worker {record.worker} (pid {record.pid} on {record.host}){memory}"


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f"{seconds % 1:.3f}"[1:]


def _words(how: Outcome | str) -> str:
    if isinstance(how, str):
        return how
    report = json.loads(how.parts[-1])
    return f"{report['type_name']}: {report['text']} (after {how.seconds:.3f} s)"


def _block(title: str, text: str | None) -> Iterator[str]:
    if text:
        yield f"  {title}:"
        yield from (f"    {line}" for line in text.rstrip("\n").split("\n"))


def replay(future: CrewFuture[Any]) -> Any:
    """Run the call of a failed task again; see CrewFuture.replay()."""
    if not future.done() or future.cancelled() or future.exception() is None:
        state = "is not done" if not future.done() else "was cancelled" if future.cancelled() else "has not failed"
        raise RuntimeError(f"task {future.name()} {state}: only a failed one is run again")
    data = future._call
    if data is None:
        raise RuntimeError(
            f"the call of task {future.name()} is not kept: it could not be pickled, was above 1 MB, or had large "
            "buffers or shared constants beside it; call the function yourself"
        )
    fn, args, kwargs = namespace.load_at_home(table.join(future._head, data))
    return fn(*args, **kwargs)
