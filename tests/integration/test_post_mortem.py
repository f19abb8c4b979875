"""report() and replay() of tasks that have failed, one way or another."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from crew_executor import CrewExecutor, namespace

from .helpers import add, die, identity, touch_and_wait, wait_until

SCRIPT = """
from crew_executor import CrewExecutor

FACTOR = 2
seen = []

class Point:
    def __init__(self, x):
        self.x = x

def broken(point, extra):
    seen.append(type(point) is Point)
    return FACTOR * point.x / len(extra)

with CrewExecutor(1) as executor:
    extra = []
    future = executor.submit(broken, Point(3), extra)
    error = future.exception()
    FACTOR = 4
    extra.append(1)  # what was submitted is as it was
    factor_before = FACTOR
    for _ in range(2):
        try:
            future.replay()
        except ZeroDivisionError as again:
            print(type(error).__name__, again.__traceback__.tb_next.tb_next.tb_next.tb_frame.f_code is broken.__code__)
    print(FACTOR, factor_before, seen)
    other = executor.submit(lambda point: broken(point, point.y), Point(3))
    other.exception()
    try:
        other.replay()
    except AttributeError as again:
        print(again)
"""


def fail(number: int) -> float:
    return number / 0


def draw_and_fail() -> None:
    raise ValueError(str(random.random()))


def fail_then_die(folder: str) -> None:
    try:
        os.mkdir(os.path.join(folder, "tried"))
    except FileExistsError:
        print("now it dies", file=sys.stderr, flush=True)
        die()
    raise RuntimeError("the first run")


def abort_by_another_name() -> None:
    os.abort()


def test_a_script_replays_with_its_own_objects(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, timeout=50, check=False, cwd=tmp_path
    )

    assert run.stdout.splitlines() == [
        "ZeroDivisionError True",
        "ZeroDivisionError True",
        "4 4 [True, True]",
        "'Point' object has no attribute 'y'",
    ], run.stderr


def test_the_story_of_a_failure_and_a_crash(tmp_path: Path) -> None:
    with CrewExecutor(1) as executor:
        view = executor.options(retries=1, crash_retries=0, name="story")
        future = view.submit(fail_then_die, str(tmp_path))
        future.exception()
        story = future.report()

    assert story.startswith("task story, a call of ")
    assert " was lost with its worker, in attempt 2\n" in story
    assert "  attempt 1: builtins.RuntimeError: the first run (after " in story
    assert story.count("the first run") == 1
    assert "\n  why:\n    worker " in story
    assert "killed by SIGKILL" in story
    assert "now it dies" in story


def test_the_story_of_a_crash_has_the_tasks_frames_and_not_ours() -> None:
    with CrewExecutor(1) as executor:
        future = executor.submit(os.abort)
        error = future.exception()
        named = executor.submit(abort_by_another_name)
        named.exception()

    assert "call.py" in str(error)
    assert "call.py" in future.report()  # it is the only one that there is
    assert "in abort_by_another_name" in named.report()
    assert "call.py" not in named.report()
    assert "frames of crew_executor's worker" in named.report()


def test_a_report_does_not_wait(tmp_path: Path) -> None:
    with CrewExecutor(1) as executor:
        future = executor.submit(touch_and_wait, str(tmp_path / "begun"), str(tmp_path / "release"))
        wait_until((tmp_path / "begun").exists, "it runs")

        other = executor.submit(touch_and_wait, str(tmp_path / "begun"), str(tmp_path / "release"))
        assert " is not done: it runs, or is the next at its worker\n" in future.report()
        assert other.cancel()
        assert other.report().splitlines()[0].endswith(" was cancelled")
        assert "why" not in other.report()
        (tmp_path / "release").touch()
    assert " has succeeded\n" in future.report()


def test_a_failed_call_raises_again_here() -> None:
    with CrewExecutor(1) as executor:
        future = executor.submit(fail, 3)
        with pytest.raises(ZeroDivisionError):
            future.result()
    with pytest.raises(ZeroDivisionError) as caught:
        future.replay()

    assert caught.traceback[-1].name == "fail"
    assert "fail" in future.report()


def test_a_seeded_call_draws_the_same_numbers() -> None:
    with CrewExecutor(1) as executor:
        future = executor.options(seed=7).submit(draw_and_fail)
        first = str(future.exception())
    with pytest.raises(ValueError, match=first):
        future.replay()
    assert f"  its random numbers began at seed {future.record().seed}\n" in future.report()


@pytest.mark.parametrize("how", ["succeeded", "running", "cancelled", "large", "shared"])
def test_what_cannot_be_replayed_says_why(how: str, tmp_path: Path) -> None:
    with CrewExecutor(1) as executor:
        if how == "succeeded":
            future = executor.submit(add, 1, 2)
            future.result()
            assert future._call is None  # it is not kept
        elif how == "large":
            future = executor.submit(identity, "x" * 2_000_000, 1)  # type: ignore[call-arg]
            future.exception()
        elif how == "shared":
            handle = executor.share([1])
            future = executor.submit(identity, handle, 1)  # type: ignore[call-arg]
            future.exception()
        else:
            future = executor.submit(touch_and_wait, str(tmp_path / "begun"), str(tmp_path / "release"))
            wait_until((tmp_path / "begun").exists, "it runs")
            if how == "cancelled":
                assert future.kill()
        words = {
            "succeeded": "has not failed", "running": "is not done", "cancelled": "was cancelled",
            "large": "is not kept", "shared": "is not kept",
        }[how]  # fmt: skip
        with pytest.raises(RuntimeError, match=words):
            future.replay()
        (tmp_path / "release").touch()


def test_loading_at_home_leaves_what_workers_have_received_alone() -> None:
    assert namespace._at_home.is_loading is False
    with pytest.raises(Exception):  # noqa: B017  whatever pickle says
        namespace.load_at_home(b"no pickle")
    assert namespace._at_home.is_loading is False
