"""Follow every link within the site, after it was built: pages, anchors, pictures. One that leads nowhere is an error.

Sphinx checks the links it makes itself; this one reads what came out, so also what directives and docstrings made.
Links to other sites are for `tox -e docs -- linkcheck`, which needs a network.
"""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page has of anchors and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        for name, value in attrs:
            if value and name in {"id", "name"}:
                self.anchors.add(value)
            elif value and name in {"href", "src"}:
                self.links.add(value)


def broken_links(site: Path) -> list[str]:
    """Return what leads nowhere, as "page: link"."""
    pages = {path: Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            is_there = target.is_file() and (not anchor or target not in pages or anchor in pages[target].anchors)
            if not is_there:
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken
