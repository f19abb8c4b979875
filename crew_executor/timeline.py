"""The recording of a run: what each worker did and when, to be looked at in a browser. Takes events, and saves them.

The page is timeline_page.html with the figures in it: one file, which needs nothing else. The other form is Chrome's
trace format, which Perfetto opens (https://ui.perfetto.dev).
"""

from __future__ import annotations

import html
import json
import os
import time
from importlib import metadata
from typing import Any

from .events import Event, Successes, TaskEvent, WorkerEvent

EVENTS_MAX = 2_000_000
"""What comes after so many is counted, not kept: some 600 MB."""
STATUSES = ("success", "error", "crash", "timeout", "cancel")
_PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "timeline_page.html")
_MICROSECONDS = 1e6


class Timeline:
    """A recording; made by CrewExecutor.timeline().

    Args:
        name, run, max_workers: the executor's.

    Attributes:
        dropped: how many events came when there were EVENTS_MAX.
    """

    def __init__(self, name: str, run: int, max_workers: int) -> None:
        self._told: list[Event | Successes] = []
        self._number = 0
        self.dropped = 0
        self._name = name
        self._run = f"{run:016x}"
        self._max_workers = max_workers
        self._began = time.time()

    def take(self, event: Event | Successes) -> None:
        """Record an event."""
        number = len(event.rows) if isinstance(event, Successes) else 1
        if self._number < EVENTS_MAX:
            self._number += number
            self._told.append(event)
        else:
            self.dropped += number

    @property
    def events(self) -> list[Event]:
        """What has happened so far, in the order in which the client heard of it: see crew_executor.events."""
        found: list[Event] = []
        for told in list(self._told):
            if isinstance(told, Successes):
                found.extend(told.each())
            else:
                found.append(told)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recording as it is now.

        Args:
            path: ends in ".html": a page for any browser, in one file, which needs no network; or in ".json": Chrome's
                trace format, for https://ui.perfetto.dev and others.

        Raises:
            ValueError: the path ends otherwise.
            OSError: it cannot be written.
        """
        name = os.fsdecode(path)
        if name.endswith(".html"):
            text = page_of(self.figures())
        elif name.endswith(".json"):
            text = json.dumps(self._trace())
        else:
            raise ValueError(f"a timeline is saved as .html (a page) or .json (a trace for Perfetto), not as {name!r}")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def __repr__(self) -> str:
        return f"<Timeline of {self._name}: {self._number} events>"

    # ------------------------------------------------------------------ the page

    def figures(self) -> dict[str, Any]:
        """Return what the page shows: times in seconds since the recording began, names and errors by number."""
        events = self.events
        began = min([self._began, *filter(None, map(_start_of, events))])
        names, errors = _Numbers(), _Numbers()
        workers = {event.worker: _new_worker(event) for event in events if isinstance(event, WorkerEvent)}
        numbers = {name: number for number, name in enumerate(workers)}
        tasks, samples, notes = [], [], []
        ended = began
        for event in events:
            if isinstance(event, TaskEvent):
                tasks.append(_task_row(event, began, names, errors, numbers))
                ended = max(ended, (event.started or began) + (event.seconds or 0.0))
            elif isinstance(event, WorkerEvent):
                _note_worker(workers[event.worker], event, began)
                ended = max(ended, event.at)
            else:
                samples.append([_since(event.at, began), event.queued, event.running, event.ready, event.starting])
                if event.decision:
                    notes.append([_since(event.at, began), event.decision])
                ended = max(ended, event.at)
        return {
            "name": self._name, "run": self._run, "began": began, "seconds": _since(ended, began),
            "version": _version(), "max_workers": self._max_workers, "dropped": self.dropped,
            "workers": list(workers.values()), "names": list(names), "errors": list(errors),
            "statuses": list(STATUSES), "tasks": tasks, "samples": samples, "notes": notes,
        }  # fmt: skip

    # ------------------------------------------------------------------ the trace

    def _trace(self) -> dict[str, Any]:
        """Return the recording in Chrome's trace event format: a process per host, a thread per worker.

        Source: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
        """
        figures = self.figures()
        trace: list[dict[str, Any]] = []
        hosts = _Numbers()
        for number, worker in enumerate(figures["workers"], 1):
            process = hosts.number(worker["host"]) + 1
            worker["process"] = process
            trace.append(_label("process_name", process, 0, worker["host"] or "this machine"))
            trace.append(_label("thread_name", process, number, worker["name"]))
            for moment in ("launched", "joined", "gone"):
                if worker[moment] is not None:
                    words = worker["end"] if moment == "gone" else ""
                    trace.append(_instant(f"{moment} {words}".strip(), worker[moment], process, number))
        for row in figures["tasks"]:
            trace.extend(_task_trace(row, figures))
        for at, queued, running, ready, starting in figures["samples"]:
            trace.append(_counter("tasks", at, {"queued": queued, "running": running}))
            trace.append(_counter("workers", at, {"ready": ready, "starting": starting}))
        trace.extend(_instant(words, at, 1, 0) for at, words in figures["notes"])
        return {"traceEvents": trace, "displayTimeUnit": "ms", "otherData": {"executor": self._name, "run": self._run}}


def page_of(figures: dict[str, Any]) -> str:
    """Return the page that shows these figures."""
    with open(_PAGE, encoding="utf-8") as file:
        page = file.read()
    text = json.dumps(figures, separators=(",", ":")).replace("<", "\\u003c")  # or it could end the script
    return page.replace("__TITLE__", html.escape(f"{figures['name']}: timeline")).replace("/*DATA*/null", text, 1)


class _Numbers:
    """Gives each text a number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def __iter__(self) -> Any:
        return iter(self._numbers)


def _version() -> str:
    try:
        return metadata.version("crew_executor")
    except metadata.PackageNotFoundError:
        return ""


def _since(at: float, began: float) -> float:
    return round(at - began, 6)


def _start_of(event: Event) -> float | None:
    if isinstance(event, TaskEvent):
        return event.submitted or event.started
    return event.at


def _new_worker(event: WorkerEvent) -> dict[str, Any]:
    return {
        "name": event.worker, "host": "", "pid": None, "launched": None, "joined": None, "gone": None, "end": "",
        "is_lost": False,
    }  # fmt: skip


def _note_worker(worker: dict[str, Any], event: WorkerEvent, began: float) -> None:
    worker["host"] = event.host or worker["host"]
    worker["pid"] = event.pid or worker["pid"]
    moment = "gone" if event.kind == "failed" else event.kind
    if worker[moment] is None:
        worker[moment] = _since(event.at, began)
    if moment == "gone":
        worker["end"], worker["is_lost"] = event.words, event.is_lost


def _task_row(event: TaskEvent, began: float, names: _Numbers, errors: _Numbers, workers: dict[str, int]) -> list[Any]:
    return [
        names.number(event.name), workers.get(event.worker, -1),
        None if event.submitted is None else _since(event.submitted, began),
        None if event.started is None else _since(event.started, began),
        None if event.seconds is None else round(event.seconds, 6), STATUSES.index(event.status), event.attempt,
        event.items, event.warnings, errors.number(event.error) if event.error else -1, event.failures,
        int(not event.is_last),
    ]  # fmt: skip


def _label(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def _instant(name: str, at: float, process: int, thread: int) -> dict[str, Any]:
    return {"name": name, "ph": "i", "s": "t", "ts": at * _MICROSECONDS, "pid": process, "tid": thread}


def _counter(name: str, at: float, figures: dict[str, int]) -> dict[str, Any]:
    return {"name": name, "ph": "C", "ts": at * _MICROSECONDS, "pid": 1, "args": figures}


def _task_trace(row: list[Any], figures: dict[str, Any]) -> list[dict[str, Any]]:
    name, worker, submitted, started, seconds, status, attempt, items, warnings, error = row[:10]
    if worker < 0 or started is None:
        return []
    facts: dict[str, Any] = {"status": STATUSES[status], "attempt": attempt, "items": items, "warnings": warnings}
    if submitted is not None:
        facts["queue_seconds"] = round(started - submitted, 6)
    if error >= 0:
        facts["error"] = figures["errors"][error]
    return [
        {
            "name": figures["names"][name], "cat": STATUSES[status], "ph": "X", "ts": started * _MICROSECONDS,
            "dur": (seconds or 0.0) * _MICROSECONDS, "pid": figures["workers"][worker]["process"], "tid": worker + 1,
            "args": facts,
        }
    ]  # fmt: skip
