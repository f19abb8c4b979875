"""Stand-ins for schedulers that cannot run here: commands that parse as strictly, and answer in the same words.

What they show is that our launchers hold to the schedulers' documentation, not that the products do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..helpers import is_alive, wait_until

COMMANDS = {"pbs": ("qsub", "qstat", "qdel"), "lsf": ("bsub", "bjobs", "bkill")}
END_SECONDS = 15.0


class Standin:
    """A scheduler on this machine.

    Args:
        kind: "pbs" or "lsf".
        folder: for its commands and its state.
        monkeypatch: puts the commands first on the path.
    """

    def __init__(self, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kind = kind
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        commands = folder / "bin"
        commands.mkdir()
        script = Path(__file__).with_name(f"{kind}.py")
        for name in COMMANDS[kind]:
            command = commands / name
            command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{script}" {name} "$@"\n')
            command.chmod(0o755)
        self.path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        monkeypatch.setenv("PATH", self.path)
        monkeypatch.setenv("CREW_TEST_STANDIN", str(self.state))

    def set(self, flag: str, value: str | None = "") -> None:
        """Raise a flag, or take it down (None): "hold", "limit" (a number of jobs), "server" (see jobs.py), ..."""
        path = self.state / flag
        if value is None:
            path.unlink(missing_ok=True)
        else:
            new = self.state / f"{flag}.new"
            new.write_text(value)
            new.rename(path)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of the commands."""
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    def jobs(self) -> dict[str, dict[str, object]]:
        """Return what is known of all jobs, by id."""
        found = [json.loads(path.read_text()) for path in sorted(self.state.glob("*.job"))]
        return {str(facts["id"]): facts for facts in found}

    def commands(self, name: str) -> list[str]:
        """Return the command lines of all calls of a command."""
        path = self.state / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split(" ")[0] == name]

    def close(self) -> list[str]:
        """End what is left; return which jobs had not ended."""
        self.set("hold", None)
        left = [job for job, facts in self.jobs().items() if facts["state"] != "ended"]
        for job in left:
            (self.state / f"{job}.kill").touch()
        pids = [int(path.name) for path in (self.state / "pids").glob("*")] if (self.state / "pids").exists() else []
        until = time.monotonic() + END_SECONDS
        while any(map(is_alive, pids)) and time.monotonic() < until:
            time.sleep(0.02)
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)
        return left


@contextlib.contextmanager
def standin(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """Have a scheduler; at the end no job of it may be left."""
    made = Standin(kind, folder, monkeypatch)
    try:
        yield made
        wait_until(
            lambda: all(facts["state"] == "ended" for facts in made.jobs().values()), "all jobs have ended", END_SECONDS
        )
    finally:
        left = made.close()
        shutil.rmtree(folder, ignore_errors=True)
    assert not left
