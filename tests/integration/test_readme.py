"""The code in the README and in docs/launchers.md runs as it stands, as scripts, and prints what they say."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/launchers.md")
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
]
EXAMPLES = [
    (code, output)
    for (language, code), (following, output) in itertools.pairwise(BLOCKS)
    if (language, following) == ("python", "text")
]


def test_every_example_tells_what_it_prints() -> None:
    code = re.findall(r"^```python\n", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)

    assert len(EXAMPLES) > len(code) > 0


def test_no_example_needs_a_guard() -> None:
    assert [] == [code for code, _output in EXAMPLES if "__main__" in code]


@pytest.mark.parametrize(("code", "output"), EXAMPLES, ids=[f"example{number}" for number in range(len(EXAMPLES))])
def test_example_prints_what_the_readme_says(code: str, output: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(code, "utf-8")

    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=50, cwd=tmp_path, check=False
    )

    assert (0, output) == (run.returncode, run.stdout), run.stderr
    assert "Traceback" not in run.stderr
