"""Shared by the tests of clients."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

import crew_executor.joblib
from crew_executor import CrewExecutor

WORKERS = 2


def workers_of(executor: CrewExecutor) -> set[int]:
    """Return the pids of the workers that are there."""
    return {worker.pid for worker in executor.stats().workers}


def kept() -> CrewExecutor:
    """Return the executor that joblib's backend keeps."""
    assert crew_executor.joblib._kept is not None
    return crew_executor.joblib._kept.executor


def pids(count: int = 8, **options: Any) -> set[int]:
    """Return the processes that a Parallel uses."""
    return set(Parallel(n_jobs=2, batch_size=1, **options)(delayed(slow_pid)() for _ in range(count)))


def slow_pid() -> int:
    time.sleep(0.05)
    return os.getpid()


def run_script(tmp_path: Path, script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a script of a user."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script), "utf-8")
    command = [sys.executable, *flags, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=tmp_path, check=False)
