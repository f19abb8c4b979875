"""What the site of docs/ is made of: all public names have their place, and links that lead nowhere are found."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import crew_executor
import crew_executor.controller
import crew_executor.launchers

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "module", [crew_executor, crew_executor.launchers, crew_executor.controller], ids=lambda module: module.__name__
)
def test_every_public_name_is_in_the_reference(module: ModuleType) -> None:
    pages = "".join(path.read_text("utf-8") for path in sorted((DOCS / "api").glob("*.md")))
    documented = set(re.findall(r"^\.\. auto\w+:: ([\w.]+)", pages, re.MULTILINE))

    assert [] == [name for name in module.__all__ if f"{module.__name__}.{name}" not in documented]


def test_pictures_say_what_they_show() -> None:
    for picture in (DOCS / "data-flow.svg", DOCS / "scaling.svg"):
        text = picture.read_text("utf-8")
        assert "<title" in text, picture
        assert "<desc" in text, picture


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "picture.svg").write_text("<svg/>", "utf-8")
    (tmp_path / "index.html").write_text(
        '<h1 id="top">.</h1><a href="#top">.</a><a href="#nowhere">.</a><a href="sub/">.</a><a href="https://other">.</a>'
        '<img src="picture.svg"><img src="gone.svg">',
        "utf-8",
    )
    (tmp_path / "sub" / "index.html").write_text(
        '<a href="../index.html#top">.</a><a href="../index.html#gone">.</a><a href="page.md">.</a>', "utf-8"
    )

    assert loaded(DOCS / "check_links.py").broken_links(tmp_path) == [
        "index.html: #nowhere", "index.html: gone.svg", "sub/index.html: ../index.html#gone", "sub/index.html: page.md",
    ]  # fmt: skip


def test_the_citation_is_of_this_version() -> None:
    version = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)

    assert version == re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)


def test_the_public_ci_runs_every_python_that_is_promised() -> None:
    promised = re.findall(r"Programming Language :: Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text("utf-8"))
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")

    assert [] == [version for version in promised if f'"{version}"' not in workflow]
