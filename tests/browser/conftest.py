"""Fixtures of the tests in a browser: one browser for all of them, a page of its own for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import chromium, runs
from .chromium import Chromium, Page

Opener = Callable[..., Page]

DRAWN = """new Promise(resolve => {
  const root = document.documentElement, look = () => root.dataset.drawn && resolve(Number(root.dataset.drawn));
  new MutationObserver(look).observe(root, {attributes: true});
  look();
})"""
"""Comes when the page has been drawn first: after so many milliseconds."""


@pytest.hookimpl(trylast=True)  # what -m leaves out is gone then
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip where there is no browser, but not in CI as root, who can install one."""
    here = [item for item in items if item.path.parent.name == "browser"]
    reason = chromium.missing()
    if not here or reason is None:
        return
    if os.environ.get("CI") and not os.geteuid():
        raise pytest.UsageError(f"tests in a browser cannot run: {reason}")
    for item in here:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    """A browser, for as long as tests need one."""
    with Chromium() as started:
        yield started


@pytest.fixture
def show(browser: Chromium, tmp_path: Path) -> Iterator[Opener]:
    """Return what opens the page with figures and waits until it is drawn; at the end, it must not have complained."""
    pages: list[Page] = []

    def open_page(figures: dict[str, Any], **options: Any) -> Page:
        page = browser.page(**options)
        pages.append(page)
        page.open(runs.write_page(figures, tmp_path / f"timeline-{len(pages)}.html"))
        page.run(DRAWN)
        return page

    yield open_page
    for page in pages:
        assert page.complaints() == []
        page.close()
