"""The Python blocks of the guide and its like run as they stand, as scripts, and print what the page says.

Those that need other libraries are run in tests/clients.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .docs_blocks import DOCS, PAGES, Block, blocks

BLOCKS = [block for block in blocks() if not block.libraries]
SCRIPTS = [block for block in BLOCKS if not block.is_a_test]
TESTS = [block for block in BLOCKS if block.is_a_test]


def run(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=50, cwd=folder, check=False)


def test_the_pages_were_found() -> None:
    assert len(SCRIPTS) > 30
    assert TESTS
    assert DOCS / "guide" / "limits.md" in PAGES


def test_every_block_tells_what_it_prints() -> None:
    """A block that nothing is said about would be run by nobody."""
    assert [] == [block.name for block in blocks() if block.output is None and not block.is_a_test]


def test_no_block_needs_a_guard() -> None:
    assert [] == [block.name for block in blocks() if "__main__" in block.code]


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: block.name)
def test_block_prints_what_the_page_says(block: Block, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(block.code, "utf-8")

    done = run(script, folder=tmp_path)

    assert (0, block.output) == (done.returncode, done.stdout), done.stderr


@pytest.mark.parametrize("block", TESTS, ids=lambda block: block.name)
def test_block_of_tests_passes(block: Block, tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(block.code, "utf-8")

    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", folder=tmp_path)

    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
