"""The pages for users of R's crew: their blocks are one program each, and print what the page says."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crew_executor.controller import Controller

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ["crew-walkthrough.md", "coming-from-crew.md"]
MARK = "=" * 7 + " end of block"
FOR_GROUPS = {
    "catch_up", "chain", "check", "check_before_wait", "first_number", "is_waited_for", "last_number", "take_until",
    "tell",
}  # fmt: skip
NUMBER = re.compile(r"\d+\.\d+")


def blocks_of(page: str) -> list[tuple[str, str]]:
    """Return the code of each block, and what it prints."""
    found = re.findall(
        r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```$)?",
        (DOCS / page).read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    return [(code, output) for code, output in found]


@pytest.mark.parametrize("page", PAGES)
def test_the_program_of_a_page_prints_what_the_page_says(page: str, tmp_path: Path) -> None:
    blocks = blocks_of(page)
    assert blocks
    script = tmp_path / "program.py"
    script.write_text("".join(f"{code}\nprint({MARK!r}, flush=True)\n" for code, _ in blocks), "utf-8")

    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=50, cwd=tmp_path, check=False
    )
    printed = run.stdout.split(MARK + "\n")

    assert (run.returncode, run.stderr) == (0, "")
    for (code, output), text in zip(blocks, printed, strict=False):
        assert NUMBER.sub("0.0", text) == NUMBER.sub("0.0", output), code
    assert len(printed) == len(blocks) + 1


def test_the_tables_name_all_that_a_controller_has() -> None:
    text = (DOCS / "coming-from-crew.md").read_text("utf-8")
    methods = {name for name in vars(Controller) if not name.startswith("_")} - FOR_GROUPS
    arguments = set(inspect.signature(Controller).parameters) - {"workers_min", "initializer", "initargs"}

    assert [] == [name for name in sorted(methods | arguments) if not re.search(rf"`(controller\.)?{name}\b", text)]
