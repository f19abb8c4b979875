"""The documentation speaks of what is there: the files it names exist, and the decisions are numbered and complete."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ADRS = sorted(path for path in (DOCS / "adr").glob("*.md") if path.name != "README.md")
HEADINGS = ["Status", "Context", "Decision", "Figures", "Consequences"]


def files_named_in(page: Path) -> set[str]:
    return set(re.findall(r"`([\w./-]+\.py)`", page.read_text("utf-8")))


def exists(name: str) -> bool:
    return (ROOT / "crew_executor" / name).is_file() or (ROOT / name).is_file()


@pytest.mark.parametrize("page", ["architecture.md", "risks.md"])
def test_every_file_that_is_named_exists(page: str) -> None:
    assert [] == sorted(name for name in files_named_in(DOCS / page) if not exists(name))


def test_the_architecture_names_every_module() -> None:
    """A new module has its place in the picture: in the journey, in the layers, or in both."""
    package = ROOT / "crew_executor"
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if path.name != "__init__.py"}

    assert set() == modules - files_named_in(DOCS / "architecture.md")


def test_decisions_are_numbered_one_after_the_other() -> None:
    assert [f"{number:04}" for number in range(1, len(ADRS) + 1)] == [path.name[:4] for path in ADRS]
    assert ADRS


@pytest.mark.parametrize("adr", ADRS, ids=lambda path: path.stem[:4])
def test_decision_has_its_number_and_its_headings(adr: Path) -> None:
    text = adr.read_text("utf-8")

    assert text.startswith(f"# {adr.name[:4]}: ")
    assert HEADINGS == re.findall(r"^## (.+)$", text, re.MULTILINE)


def test_the_list_of_decisions_names_each() -> None:
    index = (DOCS / "adr" / "README.md").read_text("utf-8")

    assert [path.name for path in ADRS] == re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", index)
