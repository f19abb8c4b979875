"""The timeline's page in a real browser: what it draws, says and answers, and that names in it are nothing but text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crew_executor import CrewExecutor

from . import runs
from .chromium import Page
from .conftest import Opener

NASTY = [
    "<img src=x onerror=window.hurt=1>",
    "<!--<script>",  # with it, an HTML parser passes over the next end of a script
    "</script><script>window.hurt=1</script>",
    "\"'`${window.hurt=1}\\",
    "\N{SNAKE}\N{PARTY POPPER} \u202egnirts\u202c \u2028 tab\there",
    "x" * 1000,
]

TIMES = "\N{MULTIPLICATION SIGN}"
NONE = "\N{EN DASH} none"


def visible(name: str) -> str:
    """Return a name without what only directs its letters."""
    return re.sub(r"[\t\u2028\u202c\u202e]+", " ", name)


def summary(page: Page) -> dict[str, str]:
    """Return the summary's table: how much of what."""
    rows = "[...document.querySelectorAll('#words table:first-of-type tbody tr')]"
    script = f"{rows}.map(row => [...row.cells].map(cell => cell.textContent))"
    return {what: f"{how_much} {more}".strip() for what, how_much, more in page.run(script)}


def rows_of(page: Page, caption: str) -> list[list[str]]:
    """Return the cells of the table with that caption."""
    tables, start = "[...document.querySelectorAll('#words table')]", json.dumps(caption)
    rows = f"{tables}.find(table => table.caption.textContent.startsWith({start})).tBodies[0].rows"
    script = f"[...{rows}].map(row => [...row.cells].map(cell => cell.textContent))"
    found: list[list[str]] = page.run(script)
    return found


def tip_at(page: Page, task: int) -> Any:
    """Return what is found at the middle of a task's bar."""
    return page.run(f"timeline.hit(...timeline.place({task}))")


def span_of(page: Page) -> float:
    """Return how many seconds are in sight."""
    seconds: float = page.run("timeline.view.to - timeline.view.from")
    return seconds


def settle(page: Page) -> None:
    """Wait until what was asked for is drawn: two frames."""
    page.run("new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))")


def colours_at(page: Page, x: float, y: float, height: int = 1) -> list[list[int]]:
    """Return red, green and blue of pixels of the drawing, from there on downwards."""
    pen = "document.querySelector('#stage canvas').getContext('2d', {willReadFrequently: true})"
    data = page.run(f"[...{pen}.getImageData({x}, {y}, 1, {height}).data]")
    return [data[n : n + 3] for n in range(0, len(data), 4)]


def test_a_small_run_is_told_in_words(show: Opener) -> None:
    page = show(runs.small())
    told = summary(page)
    assert told["Duration"].startswith("6.20 s")
    assert told["Tasks done"] == "54 2 cancelled"
    assert told["Failed"] == "2 1 retried"
    assert told["Workers"] == "3 peak 3 of 3"
    assert told["Utilisation"].startswith("72 %")
    assert told["★ Longest task"] == f"2.20 s train {TIMES}40 on crew-1-3"
    assert told["✕ Crashes"] == "1 crew-1-2 at 1.50 s"
    assert told["Starved"].startswith("1.40 s (23 %)")
    assert told["Waiting for workers"].startswith("300 ms (4.8 %)")
    assert rows_of(page, "Workers that died") == [
        ["crew-1-2", "h1", "1002", "1.50 s", "killed by signal 9 (SIGKILL)"],
    ]
    failed = rows_of(page, "Failed tasks")
    assert [row[1] for row in failed] == ["crash", "error", "timeout"]
    assert failed[1] == ["square", "error", "crew-1-1", "3.65 s", "400 ms", "1", "1", "ValueError: bad"]
    assert [row[3] for row in rows_of(page, "Spans")] == ["300 ms", "900 ms", "500 ms"]
    assert len(rows_of(page, "Decisions")) == 2


def test_the_picture_is_described_for_screen_readers(show: Opener) -> None:
    page = show(runs.small())
    label = page.run("document.querySelector('#stage canvas').getAttribute('aria-label')")
    assert "Crashes: 1, crew-1-2 at 1.50 s" in label
    assert f"Longest task: 2.20 s, train {TIMES}40 on crew-1-3" in label


def test_each_task_is_found_where_it_is_drawn(show: Opener) -> None:
    figures = runs.small()
    page = show(figures)
    for number, task in enumerate(figures["tasks"]):
        found = tip_at(page, number)
        assert found["kind"] == "task"
        if task[3] is not None:
            assert found["index"] == number
        assert found["lines"][0] == figures["names"][task[0]]


def test_what_is_said_of_a_task(show: Opener) -> None:
    page = show(runs.small())
    assert tip_at(page, 13)["lines"] == [
        "train", "success · the longest task · crew-1-3 on h2", "ran 2.20 s, from 3.65 s", "queued 50 ms",
        "attempt 1 · 40 items",
    ]  # fmt: skip
    assert tip_at(page, 7)["lines"][-1].endswith("killed by signal 9 (SIGKILL)")
    assert tip_at(page, 10)["lines"][-1] == "attempt 2"
    assert tip_at(page, 17)["lines"][-2:] == ["attempt 1 · 2 warnings", "TaskTimeoutError: slow"]
    assert "it never started" in tip_at(page, 18)["lines"]


def test_what_is_said_beside_tasks(show: Opener) -> None:
    page = show(runs.small())
    worker = page.run("timeline.hit(20, timeline.place(0)[1])")
    assert worker["kind"] == "worker"
    assert worker["lines"][0] == "crew-1-1"
    assert worker["lines"][-1] == "left: idle"
    at_pause = "timeline.lay.left + (3.2 - timeline.view.from) * timeline.lay.scale"
    assert page.run(f"timeline.hit({at_pause}, 25)")["lines"] == [
        "starved: a worker was idle, nothing was queued: 900 ms"
    ]
    sample = page.run(f"timeline.hit({at_pause}, timeline.lay.panels[1].top + 5)")
    assert sample["lines"][1:3] == ["0 queued, 0 running", "2 workers, 0 on their way"]
    note = page.run("timeline.hit(timeline.lay.left, timeline.lay.bottom - 1)")
    assert note["lines"] == ["decided at 0 s", "launch 3 workers: 12 tasks wait"]


def test_hovering_shows_the_tip(show: Opener) -> None:
    page = show(runs.small())
    x, y = page.run(
        "(() => { const box = document.querySelector('#stage').getBoundingClientRect(), [x, y] = timeline.place(13);"
        " return [box.left + x, box.top + y]; })()"
    )
    page.mouse("mouseMoved", x, y)
    assert page.run("document.getElementById('tip').hidden") is False
    assert page.run("document.getElementById('tip').textContent").startswith("train")
    page.mouse("mouseMoved", 5, 5)
    assert page.run("document.getElementById('tip').hidden") is True


def test_wheel_keys_buttons_and_double_click_zoom(show: Opener) -> None:
    page = show(runs.small())
    whole = span_of(page)
    x, y = 700, 400
    before = page.run(f"timeline.view.from + ({x} - timeline.lay.left) / timeline.lay.scale")
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-200)
    settle(page)
    assert span_of(page) < whole
    after = page.run(f"timeline.view.from + ({x} - timeline.lay.left) / timeline.lay.scale")
    assert after == pytest.approx(before)  # what the pointer is at stays there

    page.run("document.getElementById('stage').focus()")
    page.press("0")
    assert span_of(page) == whole
    page.press("+")
    assert span_of(page) == pytest.approx(whole / 1.5)
    start = page.run("timeline.view.from")
    page.press("ArrowRight")
    assert page.run("timeline.view.from") > start
    page.press("-")
    assert span_of(page) == pytest.approx(whole)

    page.run("document.getElementById('in').click()")
    assert span_of(page) == pytest.approx(whole / 2)
    settle(page)
    start = page.run("timeline.view.from")
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 100, y, button="left", buttons=1)
    page.mouse("mouseReleased", x + 100, y, button="left", clickCount=1)
    assert page.run("timeline.view.from") < start
    assert span_of(page) == pytest.approx(whole / 2)
    for kind, clicks in (("mousePressed", 1), ("mouseReleased", 1), ("mousePressed", 2), ("mouseReleased", 2)):
        page.mouse(kind, x, y, button="left", clickCount=clicks)
    assert span_of(page) == whole


def test_nobody_gets_lost_by_zooming(show: Opener) -> None:
    page = show(runs.small())
    for _ in range(30):
        page.run("timeline.zoom(10)")
        page.run("timeline.draw()")
    assert 0 < span_of(page) <= 1e-5
    for _ in range(60):
        page.run("timeline.zoom(0.3)")
    assert page.run("[timeline.view.from, timeline.view.to]") == pytest.approx([0, 6.2 * 1.012])


def test_shift_and_arrows_go_from_task_to_task(show: Opener) -> None:
    page = show(runs.small())
    page.run("document.getElementById('stage').focus()")
    said = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp"):
        page.press(key, shift=True)
        said.append(page.run("document.getElementById('said').textContent"))
    numbers = page.run("timeline.view.selected")
    assert said[0].startswith("square. success · crew-1-1 on h1. ran 470 ms, from 300 ms")
    assert "from 800 ms" in said[1]
    assert "crew-1-2" in said[2]
    assert said[3] == said[1]
    assert numbers == 3
    page.press("Escape")
    assert page.run("timeline.view.selected") == -1


def test_the_header_leads_to_the_longest_task_and_to_the_crash(show: Opener) -> None:
    page = show(runs.large())
    longest, whole = page.run("timeline.facts.longest"), span_of(page)
    page.run("document.querySelectorAll('#facts button')[0].click()")
    assert page.run("timeline.view.selected") == longest
    assert span_of(page) < whole / 2
    page.run("document.querySelectorAll('#facts button')[1].click()")
    settle(page)
    gone = next(worker["gone"] for worker in runs.large()["workers"] if worker["is_lost"])
    assert page.run("timeline.view.from") < gone < page.run("timeline.view.to")


@pytest.mark.parametrize("is_dark", [False, True])
def test_a_large_run_is_drawn(show: Opener, is_dark: bool) -> None:
    figures = runs.large()
    page = show(figures, is_dark=is_dark)
    print(f"5,000 tasks on 64 workers: first drawn after {page.run('document.documentElement.dataset.drawn')} ms")
    assert page.run("timeline.lay.hidden") == 0  # all workers are in sight
    told = summary(page)
    assert told["Workers"] == "64 peak 64 of 64"
    assert told["★ Longest task"].startswith("9.00 s")
    for number in range(0, 5000, 250):
        assert tip_at(page, number)["index"] == number
    middle = page.run("timeline.place(2000)")
    assert colours_at(page, *middle) == [[86, 180, 233] if is_dark else [0, 114, 178]]


def test_one_failure_among_a_hundred_thousand_tasks_is_seen_and_found(show: Opener) -> None:
    tasks = [[0, 0, 0.0, round(n * 0.001, 6), 0.0009, 0, 1, 1, 0, -1] for n in range(100_000)]
    tasks[54_321][5] = 1
    page = show(runs.empty(seconds=100.0, workers=[runs.worker(1, 0.0)], names=["tick"], tasks=tasks))
    print(f"100,000 tasks: first drawn after {page.run('document.documentElement.dataset.drawn')} ms")
    x, y = page.run("timeline.place(54321)")
    found = page.run(f"timeline.hit({x}, {y})")
    assert found["index"] == 54_321
    assert "short tasks are here: zoom in" in found["lines"][-1]
    assert rows_of(page, "Failed tasks")[0][0] == "tick"
    assert [230, 159, 0] in colours_at(page, x + 1, y - 6, 12)  # orange


def test_a_thousand_workers_scroll(show: Opener) -> None:
    page = show(runs.large(5000, 1000))
    lost = next(number for number, worker in enumerate(runs.large(5000, 1000)["workers"]) if worker["is_lost"])
    top = page.run("timeline.view.scroll / timeline.lay.row")
    assert top < lost < top + page.run("timeline.lay.rowsHeight / timeline.lay.row")  # who died is in sight at once
    hidden = page.run("timeline.lay.hidden")
    assert hidden > 0
    page.run("document.getElementById('stage').focus()")
    page.press("ArrowDown")
    settle(page)
    assert page.run("timeline.view.scroll / timeline.lay.row") > top
    page.mouse("mouseWheel", 700, 400, deltaX=0, deltaY=100_000, modifiers=8)
    settle(page)
    assert page.run("timeline.view.scroll") == hidden
    page.press("t")
    settle(page)
    assert page.run("timeline.lay.row") == 18
    assert page.run("document.getElementById('tall').getAttribute('aria-pressed')") == "true"


@pytest.mark.parametrize("name", NASTY, ids=["markup", "comment", "end of script", "quotes", "emoji", "long"])
def test_a_name_is_nothing_but_text(show: Opener, name: str) -> None:
    figures = runs.small()
    figures.update(names=[name] * 3, errors=[name] * 3, name=name, notes=[[1.0, name]])
    for worker in figures["workers"]:
        worker.update(name=name, host=name, end=name)
    page = show(figures)
    assert page.run("typeof window.hurt") == "undefined"
    assert page.run("[document.images.length, document.scripts.length]") == [0, 2]
    page.run("timeline.visit(13)")
    shown = tip_at(page, 13)["lines"][0]
    assert len(shown) <= 301
    assert shown[:8] == visible(name)[:8]
    assert page.run("document.getElementById('tip').firstChild.childElementCount") == 0
    assert page.run("document.documentElement.scrollWidth") <= 1280
    assert rows_of(page, "Failed tasks")[0][0] == visible(name)


@pytest.mark.parametrize("is_dark", [False, True])
def test_nothing_is_fetched_and_nothing_is_needed(show: Opener, is_dark: bool) -> None:
    page = show(runs.small(), is_dark=is_dark)
    assert [address for address in page.requests() if not address.startswith("file:")] == []
    assert len(page.requests()) == 1


def test_the_template_itself_says_what_it_is(browser: Any) -> None:
    page = browser.page()
    page.open(runs.TEMPLATE)
    assert page.run("timeline.facts.longest") == -1
    assert page.complaints() == []
    page.close()


def one_task(**more: Any) -> dict[str, Any]:
    """Return a run with one worker and one task."""
    worker = runs.worker(1, 0.0, launched=0.0)
    task = [0, 0, 0.0, 0.0, more["seconds"], 0, 1, 1, 0, -1]
    return runs.empty(workers=[worker], names=["only"], tasks=[task], samples=[[0.0, 0, 1, 1, 0]], **more)


@pytest.mark.parametrize(
    ("figures", "duration", "longest"),
    [
        (runs.empty(), "1 ms", NONE),
        (one_task(seconds=0.0), "1 ms", "0 s only on crew-1-1"),
        (one_task(seconds=0.000_012), "12 µs", "12 µs only on crew-1-1"),
        (one_task(seconds=0.25), "250 ms", "250 ms only on crew-1-1"),
        (one_task(seconds=59.97), "1 min 00 s", "1 min 00 s only on crew-1-1"),
        (one_task(seconds=7199.9), "2 h 00 min", "2 h 00 min only on crew-1-1"),
        (one_task(seconds=400_000.0), "111 h 07 min", "111 h 07 min only on crew-1-1"),
        (runs.empty(seconds=3.0, workers=[runs.worker(1, None, 2.0, "no such host")]), "3.00 s", NONE),
        (runs.empty(seconds=3.0, names=["late"], tasks=[[0, -1, None, None, None, 4, 1, 1, 0, -1]]), "3.00 s", NONE),
        (runs.empty(seconds=3.0, names=["lost"], tasks=[[0, -1, 0.0, 1.0, 1.0, 0, 1, 1, 0, -1]]), "3.00 s",
         "1.00 s lost on no worker"),
        (runs.empty(seconds=3.0, max_workers=None, samples=[[0.0, 1, 0, 0, 1]]), "3.00 s", NONE),
    ],
    ids=["nothing", "no time", "microseconds", "milliseconds", "a minute", "hours", "days", "a failed launch",
         "never started", "no worker", "only samples"],
)  # fmt: skip
def test_runs_of_all_lengths(show: Opener, figures: dict[str, Any], duration: str, longest: str) -> None:
    page = show(figures)
    told = summary(page)
    assert told["Duration"] == duration
    assert told["★ Longest task"] == longest
    page.run("timeline.zoom(50)")
    page.run("timeline.draw()")
    page.run("timeline.fit()")


def test_a_worker_that_never_came_is_told_of(show: Opener) -> None:
    page = show(runs.empty(seconds=3.0, workers=[runs.worker(1, None, 2.0, "no such host")]))
    assert rows_of(page, "Workers that died or never came") == [["crew-1-1", "h1", "1001", "2.00 s", "no such host"]]
    assert summary(page)["✕ Crashes"] == "0 no worker died"


@pytest.mark.parametrize("width", [400, 800, 1920])
def test_other_widths(show: Opener, width: int) -> None:
    page = show(runs.small(), width=width)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert tip_at(page, 13)["index"] == 13


def test_it_redraws_when_the_window_changes(show: Opener, tmp_path: Path) -> None:
    page = show(runs.small())
    page.run(
        "document.getElementById('stage').style.flex = 'none', document.getElementById('stage').style.height = '350px'"
    )
    settle(page)
    assert page.run("document.querySelector('#stage canvas').height") == 350
    page.screenshot(tmp_path / "seen.png")
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")


def fail(text: str) -> None:
    """Fail, with these words."""
    raise ValueError(text)


def test_a_real_recording_is_drawn_with_what_happened(show: Opener) -> None:
    with CrewExecutor(1, name="real") as executor:
        recording = executor.timeline()
        executor.submit(pow, 2, 10).result()
        executor.submit(fail, "<b>no</b>").exception()
        executor.options(retries=1).submit(fail, "twice").exception()
        with pytest.raises(ZeroDivisionError):
            list(executor.map(divmod, [1] * 10, [1] * 9 + [0]))
    page = show(recording.figures())
    told = summary(page)

    assert told["Tasks done"].startswith("10")  # pow, and nine of the items
    assert told["Failed"] == "3 1 retried"
    assert [row[-1] for row in rows_of(page, "Failed tasks")][:1] == ["builtins.ValueError: <b>no</b>"]
