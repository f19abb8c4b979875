"""The Python blocks of the pages in docs/ that are written for users, each with the text that it prints."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(
    [
        DOCS / "faq.md",
        DOCS / "index.md",
        DOCS / "one-program.md",
        DOCS / "start.md",
        *DOCS.glob("guide/*.md"),
        *DOCS.glob("api/*.md"),
        *(path for path in DOCS.glob("coming-from-*.md") if path.stem != "coming-from-crew"),  # one program, see there
    ]
)
HERE = {"crew_executor", "pytest"} | sys.stdlib_module_names


class Block(NamedTuple):
    """A Python block.

    Attributes:
        name: page and number, for reports.
        code: what stands in it.
        output: what stands in the block of text behind it; None if there is none.
    """

    name: str
    code: str
    output: str | None

    @property
    def libraries(self) -> set[str]:
        """What it imports that neither Python nor this package has."""
        modules = set()
        for node in ast.walk(ast.parse(self.code)):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module or "")
        return {module.partition(".")[0] for module in modules} - HERE

    @property
    def is_a_test(self) -> bool:
        """Whether it is a module of tests, which prints nothing."""
        return "import pytest" in self.code


def blocks() -> list[Block]:
    """Return all Python blocks of PAGES."""
    found = []
    for page in PAGES:
        pattern = r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?"
        for number, match in enumerate(re.finditer(pattern, page.read_text("utf-8"), re.MULTILINE | re.DOTALL), 1):
            found.append(Block(f"{page.stem}-{number}", match[1], match[2]))
    return found
