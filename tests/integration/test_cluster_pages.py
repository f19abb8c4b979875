"""The examples on the schedulers' pages run as they stand: scripts of all, and PBS and LSF before stand-ins.

Those of Slurm and Grid Engine run on the real things, in tests/clusters.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .standins import standin

pytestmark = [pytest.mark.launchers, pytest.mark.timeout(120)]

DOCS = Path(__file__).resolve().parents[2] / "docs"


def example(page: str, word: str) -> tuple[str, str]:
    """Return the example of a page that has this word, and what it prints."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = [
        (code, output)
        for (language, code), (following, output) in itertools.pairwise(blocks)
        if (language, following) == ("python", "text") and word in code
    ]
    return found


def check(page: str, word: str, folder: Path) -> None:
    """Run the example of a page, with a home directory of its own."""
    code, output = example(page, word)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=folder, check=False,
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip

    assert (0, output) == (run.returncode, run.stdout), run.stderr


@pytest.mark.parametrize("page", ["slurm.md", "sge.md", "pbs.md", "lsf.md"])
def test_the_script_is_what_the_page_shows(page: str, tmp_path: Path) -> None:
    check(page, "job_script", tmp_path)


@pytest.mark.parametrize("kind", ["pbs", "lsf"])
def test_the_example_runs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with standin(kind, tmp_path / "scheduler", monkeypatch):
        check(f"{kind}.md", "CrewExecutor", tmp_path)


def test_what_all_have_in_common_runs_where_there_is_no_scheduler(tmp_path: Path) -> None:
    """It submits no task, so that nothing is started; whether the launcher takes its options is seen all the same."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", (DOCS / "clusters.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    code += (
        "script = launcher.job_script(1)\nprint('--partition=cpu' in script, '--time=' in script, '--mem=' in script)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, cwd=tmp_path, check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip

    assert (0, "True True True\n") == (run.returncode, run.stdout), run.stderr
