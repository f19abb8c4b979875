"""The Python blocks of the guide and its like run as they stand, as scripts, and print what the page says.

Those that need other libraries are run in tests/clients.
"""

from __future__ import annotations

import re
import shutil
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


def examples(page: str, language: str) -> list[str]:
    """Return the blocks of a page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.launchers
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_certificates_are_made_and_used_as_the_page_says(tmp_path: Path) -> None:
    (commands,), (code,), (output,) = (examples("security.md", language) for language in ("bash", "python", "text"))
    made = subprocess.run(["bash", "-ec", commands], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert made.returncode == 0, made.stderr
    script = tmp_path / "example.py"
    script.write_text(code, "utf-8")

    done = run(script, folder=tmp_path)

    assert (0, output) == (done.returncode, done.stdout), done.stderr


def masked(report: str) -> list[str]:
    """Return the lines of a report without what differs from run to run: times, sizes, pids, hosts and folders."""
    lines = [line for line in report.splitlines() if line.strip(" ^~")]  # which signs are marked depends on the Python
    if sys.version_info < (3, 11):  # it prints no notes
        lines = [line for line in lines if "failed, too" not in line]
    text = re.sub(r'File ".*example.py"', 'File "example.py"', "\n".join(lines))
    return re.sub(r"pid \d+ on [^)]+|[\d:.]*\d", "#", text).splitlines()


def test_a_report_is_what_the_page_shows(tmp_path: Path) -> None:
    (block,) = [block for block in SCRIPTS if ".report()" in block.code]
    (shown,) = [
        text for text in examples("guide/seeing.md", "text") if text.startswith("task inversion") and "pid" in text
    ]
    script = tmp_path / "example.py"
    script.write_text(f"{block.code}\nprint('---')\nprint(future.report())\n", "utf-8")

    done = run(script, folder=tmp_path)

    assert masked(shown) == masked(done.stdout.partition("---\n")[2]), done.stderr
