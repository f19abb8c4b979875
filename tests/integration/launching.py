"""What tests of launchers share: pools that leave nothing behind, and what is waited for or told of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crew_executor import CrewExecutor, LaunchError
from crew_executor.errors import BrokenCrewError
from crew_executor.launchers import Launcher

from .helpers import add, touch_and_wait, wait_until

SECONDS = 60.0
"""For anything that takes a few on a machine that does nothing else."""


@contextlib.contextmanager
def executor_of(launcher: Launcher, max_workers: int = 2, **options: Any) -> Iterator[CrewExecutor]:
    """An executor with this launcher; whatever happens, nothing of it stays."""
    with CrewExecutor(max_workers, launcher=launcher, **options) as executor:
        try:
            yield executor
        except BaseException:
            executor.kill_workers()
            raise


def failure_of(launcher: Launcher) -> str:
    """Return the text of the error that breaks a pool with this launcher; all of its cause is the user's to read."""
    with executor_of(launcher, 1) as executor:
        error = executor.submit(add, 1, 2).exception(SECONDS)
    assert isinstance(error, BrokenCrewError)
    assert isinstance(error.__cause__, LaunchError)
    assert str(error.__cause__) in str(error)
    return str(error)


def all_idle(executor: CrewExecutor, number: int) -> None:
    """Wait until so many workers are there."""
    wait_until(lambda: sum(each.state == "idle" for each in executor.stats().workers) == number, "all came", SECONDS)


class Running:
    """A task that runs until it is released, in files of a folder.

    Args:
        folder: where.
        executor: that runs it.
        task: called as touch_and_wait() is.
    """

    def __init__(self, folder: Path, executor: Any, task: Callable[[str, str], Any] = touch_and_wait) -> None:
        self.begun, self._release = folder / "begun", folder / "release"
        self.future = executor.submit(task, str(self.begun), str(self._release))
        wait_until(self.begun.exists, "the task runs", SECONDS)
        self.pid = int(self.begun.read_text())

    def release(self) -> None:
        """Let it end."""
        self._release.touch()
