"""Jobs of schedulers whose client is gone, or is elsewhere: what `ps` lists and `kill` ends. Prints nothing.

Such jobs end by themselves, but not at once: a pending one does so when it starts, and an agent that hears nothing of
its client any more when `lost_after` is over.
"""

from __future__ import annotations

import importlib
import subprocess
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from .errors import LaunchError
from .launchers import JobStatus, ledger
from .launchers.script import ScriptLauncher

END_SECONDS = 10.0
"""How long cancelled jobs may stay in the queue before it is said that they do."""
LOOK_SECONDS = 0.5


@dataclass
class Leftover:
    """What an executor has left at its scheduler.

    Attributes:
        entry: what is noted of it.
        jobs: those that have not ended.
        problem: why the scheduler did not say.
    """

    entry: ledger.Entry
    jobs: Mapping[Hashable, JobStatus] = field(default_factory=dict)
    problem: str = ""

    @property
    def run(self) -> str:
        """The executor's run."""
        return self.entry.run

    @property
    def name(self) -> str:
        """The executor's name."""
        return self.entry.name

    @property
    def client(self) -> str:
        """What is known of its client, in words."""
        pid = self.entry.client_pid
        if self.entry.is_from_here():
            return f"client {pid} is gone"
        return f"client {pid} was started on {self.entry.host}, and cannot be asked from here"

    def describe_client(self) -> str:
        """Return who it belongs to, for a list of choices."""
        return self.client

    def end(self) -> str:
        """Cancel the jobs; return what came of it, in words."""
        if self.problem:
            return f"its jobs cannot be ended: {self.problem}"
        try:
            launcher = _launcher(self.entry)
            launcher.cancel(list(self.jobs))
            until = time.monotonic() + END_SECONDS
            while (left := launcher.jobs_beginning(self.entry.prefix)) and time.monotonic() < until:
                time.sleep(LOOK_SECONDS)
        except (LaunchError, subprocess.TimeoutExpired) as error:
            return f"its jobs may be there still: {error}"
        told = f"{len(self.jobs)} jobs were cancelled: {', '.join(map(str, self.jobs))}"
        if left:
            told += f"; the scheduler still lists {', '.join(f'{job} ({left[job].words})' for job in left)}"
        if not self.entry.is_from_here():
            return f"{told}; {self.client}: if it is there it may start others, `kill {self.run}` on {self.entry.host}"
        if not left:
            ledger.forget(self.entry)
        return told


def find() -> list[Leftover]:
    """Return what is left of clients that are gone, and what those on other machines have; forget who has nothing."""
    found = []
    for entry in ledger.entries():
        if entry.is_alive():
            continue  # it is asked itself
        try:
            leftover = Leftover(entry, _launcher(entry).jobs_beginning(entry.prefix))
        except (LaunchError, subprocess.TimeoutExpired) as error:
            leftover = Leftover(entry, problem=str(error))
        if leftover.jobs or leftover.problem:
            found.append(leftover)
        elif entry.is_from_here():
            ledger.forget(entry)
    return found


def _launcher(entry: ledger.Entry) -> ScriptLauncher:
    """Return a launcher of the class that has submitted them, with its own defaults: it is only asked, and cancels."""
    module, _, name = entry.launcher.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, ScriptLauncher)):
            raise LaunchError(f"{entry.launcher} is no launcher of job scripts")
        return kind(folder=entry.folder)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise LaunchError(f"{entry.launcher}, which has submitted them, cannot be used here: {error}") from None
