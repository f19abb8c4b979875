"""Checks what becomes of an executor whose launcher, agent or script does what it should not."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pytest

from crew_executor import CrewExecutor
from crew_executor.errors import BrokenCrewError
from crew_executor.launchers import Job
from crew_executor.testing import stopped

from .agents import ProcessLauncher
from .helpers import add, die, is_alive, touch_and_wait, wait_until
from .launching import executor_of

pytestmark = [pytest.mark.launchers, pytest.mark.timeout(120)]


@pytest.fixture
def launcher() -> ProcessLauncher:
    """Two workers in each job."""
    return ProcessLauncher(workers_per_job=2)


class Wrong(ProcessLauncher):
    """Has an answer that is none."""

    answer: Any = None

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Return it, or raise it."""
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "submit() of Wrong must return a sequence of handles, one for each job, not None"),
        (7, "must return a sequence of handles"),
        ([[]], "that can be hashed"),
        (SystemExit("quota exceeded"), "quota exceeded"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_an_answer_that_is_none_fails_the_launch_and_names_the_method(answer: object, words: str) -> None:
    launcher = Wrong(max_failed_launches=1)
    launcher.answer = answer
    with executor_of(launcher, 1) as executor:
        error = executor.submit(add, 1, 2).exception()

    assert isinstance(error, BrokenCrewError)
    assert words in str(error)
    assert "dispatcher" not in str(error)


class Liar(ProcessLauncher):
    """Answers poll() with what is none, and describe() not at all."""

    def poll(self, handles: Sequence[Hashable]) -> Any:
        """Return a word for each."""
        return dict.fromkeys(handles, "running")

    def describe(self) -> str:
        """Fail."""
        raise RuntimeError("no words")


def test_a_launcher_without_words_or_statuses_harms_no_work(caplog: pytest.LogCaptureFixture) -> None:
    with executor_of(Liar(), 1) as executor:
        wait_until(lambda: executor.submit(add, 1, 2).result() == 3, "work goes on")
        executor.submit(time.sleep, 0.3).result()
        executor.submit(die).exception()
        assert executor.submit(add, 1, 2).result() == 3


def test_a_launcher_that_does_not_call_its_base_is_refused() -> None:
    class Bare(ProcessLauncher):
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"Bare.__init__\(\) must call super"):
        CrewExecutor(1, launcher=Bare())


@pytest.mark.parametrize(
    "options",
    [
        {"environment": {"A": 1}}, {"environment": {"A=": "1"}}, {"host": []}, {"host": 7}, {"port": "80"},
        {"port": 70_000}, {"workers_per_job": "2"}, {"startup_timeout": "5"}, {"lost_after": 0.01},
        {"idle_timeout": -1}, {"certificates_there": ("a", "b", "c")}, {"max_worker_hours": 0}, {"max_launches": 0},
    ],
    ids=str,
)  # fmt: skip
def test_options_are_checked_when_given(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ProcessLauncher(**options)


def test_a_script_that_only_submits_has_its_work_done(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SUBMITS_AND_ENDS)
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, str(script), str(tests), str(tmp_path / "log")], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(20)), done.stderr


SUBMITS_AND_ENDS = """
import sys
sys.path.insert(0, sys.argv[1])
from crew_executor import CrewExecutor
from integration.agents import ProcessLauncher
from integration.helpers import append_line
executor = CrewExecutor(2, launcher=ProcessLauncher(workers_per_job=2))
futures = [executor.submit(append_line, sys.argv[2], str(number)) for number in range(20)]
"""


def test_the_workers_of_an_agent_that_stands_still_have_ended_before_their_tasks_run_elsewhere(
    launcher: ProcessLauncher, tmp_path: Path
) -> None:
    launcher.lost_after = 4.0
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with executor_of(launcher, 1) as executor:
        task = executor.options(crash_retries=1).submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the task runs")
        first = int(Path(started).read_text())
        Path(started).unlink()
        with stopped(launcher.agents[0].pid):
            wait_until(Path(started).exists, "the task runs elsewhere")
            assert not is_alive(first)
            Path(release).touch()
            assert task.result() != first


def test_another_python_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crew_executor.fleet.PYTHON", "2.7")
    launcher = ProcessLauncher(max_failed_launches=1)
    with executor_of(launcher, 1) as executor:
        error = executor.submit(add, 1, 2).exception()

    assert isinstance(error, BrokenCrewError)
    assert "its agent was refused: the worker runs Python" in str(error)
    assert "firewall" not in str(error)
