"""The recipes of docs/recipes.md run as they stand, as scripts, without a warning, and print what the page says."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
TEXT = PAGE.read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
RECIPES = [
    (code, output)
    for (language, code), (following, output) in itertools.pairwise(BLOCKS)
    if (language, following) == ("python", "text")
]


def name_of(recipe: tuple[str, str]) -> str:
    """Return the heading above a recipe."""
    return re.findall(r"^##+ (.+)$", TEXT.partition(recipe[0])[0], re.MULTILINE)[-1]


def test_every_recipe_tells_what_it_prints() -> None:
    assert len(RECIPES) == [language for language, _ in BLOCKS].count("python") > 0


def test_no_recipe_needs_a_guard() -> None:
    assert [] == [code for code, _output in RECIPES if "__main__" in code]


@pytest.mark.parametrize(("code", "output"), RECIPES, ids=map(name_of, RECIPES))
def test_recipe_prints_what_the_page_says(code: str, output: str, tmp_path: Path) -> None:
    script = tmp_path / "recipe.py"
    script.write_text(code, "utf-8")

    run = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True, text=True, timeout=50, cwd=tmp_path, check=False,
    )  # fmt: skip

    assert (0, output) == (run.returncode, run.stdout), run.stderr
    assert "Traceback" not in run.stderr
    assert "Warning" not in run.stderr
