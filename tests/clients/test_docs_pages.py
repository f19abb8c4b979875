"""The Python blocks of the guide that need other libraries run as they stand, and print what the page says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from integration.docs_blocks import Block, blocks

BLOCKS = [block for block in blocks() if block.libraries]


def test_there_are_some() -> None:
    assert {"fastapi", "numpy", "uvicorn"} <= set().union(*(block.libraries for block in BLOCKS))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_block_prints_what_the_page_says(block: Block, tmp_path: Path) -> None:
    missing = sorted(name for name in block.libraries if importlib.util.find_spec(name) is None)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    script = tmp_path / "example.py"
    script.write_text(block.code, "utf-8")

    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=50, cwd=tmp_path, check=False
    )

    assert (0, block.output) == (run.returncode, run.stdout), run.stderr
    assert "Traceback" not in run.stderr
