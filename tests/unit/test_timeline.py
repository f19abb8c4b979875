"""Checks what a recording makes of events: the page's figures, the trace, and the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crew_executor import timeline
from crew_executor.events import PoolEvent, TaskEvent, WorkerEvent
from crew_executor.timeline import Timeline

BEGAN = 1_000.0
EVENTS = (
    WorkerEvent("launched", BEGAN, "w-1", "", None, "", is_lost=False),
    WorkerEvent("joined", BEGAN + 0.5, "w-1", "h1", 7, "", is_lost=False),
    PoolEvent(BEGAN + 0.5, 3, 0, 1, 0, "launch 1: 3 open tasks"),
    TaskEvent("square", "success", "w-1", BEGAN + 0.25, BEGAN + 1, 0.5, 1, True, 1, 0, 2, ""),
    TaskEvent("bad", "error", "w-1", None, BEGAN + 2, 0.25, 2, False, 10, 1, 0, "ValueError: </script> no"),
    TaskEvent("late", "cancel", "", BEGAN + 1, None, None, 1, True, 1, 0, 0, ""),
    WorkerEvent("gone", BEGAN + 3, "w-1", "h1", 7, "killed by SIGKILL", is_lost=True),
    WorkerEvent("launched", BEGAN + 3, "w-2", "", None, "", is_lost=False),
    WorkerEvent("failed", BEGAN + 4, "w-2", "", None, "did not come up", is_lost=True),
)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Timeline:
    monkeypatch.setattr(timeline.time, "time", lambda: BEGAN + 0.1)
    made = Timeline("crew-1", 0xAB, 4)
    for event in EVENTS:
        made.take(event)
    return made


def test_figures_are_seconds_since_the_first_thing_that_happened(recording: Timeline) -> None:
    figures = recording.figures()

    assert (figures["name"], figures["run"], figures["max_workers"]) == ("crew-1", "00000000000000ab", 4)
    assert (figures["began"], figures["seconds"]) == (BEGAN, 4.0)
    assert figures["names"] == ["square", "bad", "late"]
    assert figures["errors"] == ["ValueError: </script> no"]
    assert figures["tasks"] == [
        [0, 0, 0.25, 1.0, 0.5, 0, 1, 1, 2, -1, 0, 0],
        [1, 0, None, 2.0, 0.25, 1, 2, 10, 0, 0, 1, 1],
        [2, -1, 1.0, None, None, 4, 1, 1, 0, -1, 0, 0],
    ]
    assert figures["samples"] == [[0.5, 3, 0, 1, 0]]
    assert figures["notes"] == [[0.5, "launch 1: 3 open tasks"]]
    first, second = figures["workers"]
    assert first == {
        "name": "w-1", "host": "h1", "pid": 7, "launched": 0.0, "joined": 0.5, "gone": 3.0,
        "end": "killed by SIGKILL", "is_lost": True,
    }  # fmt: skip
    assert (second["joined"], second["gone"], second["end"]) == (None, 4.0, "did not come up")


def test_the_page_is_one_file_whose_figures_end_no_script(recording: Timeline, tmp_path: Path) -> None:
    recording.save(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text("utf-8")

    assert "<title>crew-1: timeline</title>" in page
    assert "/*DATA*/" not in page
    assert page.count("\\u003c/script> no") == 1
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page


def test_the_trace_has_bars_moments_and_counters(recording: Timeline, tmp_path: Path) -> None:
    recording.save(str(tmp_path / "run.json"))
    trace = json.loads((tmp_path / "run.json").read_text("utf-8"))["traceEvents"]

    bars = [event for event in trace if event["ph"] == "X"]
    assert [(bar["name"], bar["ts"], bar["dur"], bar["tid"]) for bar in bars] == [
        ("square", 1e6, 5e5, 1),
        ("bad", 2e6, 2.5e5, 1),
    ]
    assert bars[0]["args"] == {"status": "success", "attempt": 1, "items": 1, "warnings": 2, "queue_seconds": 0.75}
    assert bars[1]["args"]["error"] == "ValueError: </script> no"
    labels = {(event["pid"], event["tid"]): event["args"]["name"] for event in trace if event["name"] == "thread_name"}
    assert labels == {(1, 1): "w-1", (2, 2): "w-2"}
    assert {event["name"] for event in trace if event["ph"] == "i"} >= {"joined", "gone killed by SIGKILL"}
    assert [event["args"] for event in trace if event["ph"] == "C"] == [
        {"queued": 3, "running": 0},
        {"ready": 1, "starting": 0},
    ]


def test_another_ending_is_refused_in_words(recording: Timeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"saved as \.html \(a page\) or \.json"):
        recording.save(tmp_path / "run.txt")
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_much_is_counted(recording: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "EVENTS_MAX", len(EVENTS) + 1)
    for _ in range(3):
        recording.take(EVENTS[2])

    assert len(recording.events) == len(EVENTS) + 1
    assert recording.figures()["dropped"] == 2


def test_nothing_recorded_can_be_saved(tmp_path: Path) -> None:
    for name in ("run.html", "run.json"):
        Timeline("crew-1", 1, 1).save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 0
