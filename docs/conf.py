"""How Sphinx makes the site of these pages: `tox -e docs`. They are Markdown, and are read on their own as well.

No network is used. Warnings are errors there, and every link within the site is followed (check_links.py).
"""

import os
import re
import sys
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).resolve().parent))

from check_links import broken_links

project = "crew_executor"
author = "crew_executor contributors"
release = version = metadata.version("crew-executor")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "adr/README.md"]  # the latter is part of decisions.md

# Pages are Markdown as GitHub shows it, plus Sphinx's directives in fences: ```{toctree}
myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3
myst_ref_domains = ["std"]
highlight_language = "text"

# The reference is made of the docstrings (Google's style). In them `x` is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# "Raises:" and "Attributes:" of ours may name several at once, and say so in words.
napoleon_custom_sections = [("Raises", "params_style"), ("Attributes", "params_style")]
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "crew_executor"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False

# Links in Markdown are followed by check_links.py, which also knows the anchors that are written as HTML.
suppress_warnings = ["myst.xref_missing"]
nitpicky = True
# What has no page here: types of the standard library, type variables, and classes that are not public.
nitpick_ignore_regex = [
    ("py:.*", r"(collections|concurrent|contextlib|enum|os|pandas|subprocess|threading|types|typing)\..*"),
    ("py:class", r"Client|Cluster|Event|ExceptionClasses|crew_executor\.controller\.inline\.InlineExecutor"),
    ("py:class", r"(.*\.)?[PT](\.args|\.kwargs)?"),
]

DOCS = Path(__file__).resolve().parent
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "license.md",
    "README.md": "readme.md",
    "benchmarks/README.md": "benchmarks.md",
    "docs/adr/README.md": "decisions.md",
}
"""Where a file that stands outside of docs/ is on the site."""


def lead_to_pages(text: str, folder: Path, page_folder: Path) -> str:
    """Return Markdown whose links are those of the site: in the files they are right for GitHub.

    Args:
        text: the Markdown.
        folder: of the file that it stands in.
        page_folder: of the page that it will be part of.
    """

    def lead(match: re.Match[str]) -> str:
        path, anchor = match.group(1), match.group(2) or ""
        target = (folder / path).resolve()
        name = os.path.relpath(target, DOCS.parent)
        if name in ELSEWHERE:
            target = DOCS / ELSEWHERE[name]
        elif folder == page_folder or not target.is_relative_to(DOCS) or not target.is_file():
            return match.group()
        return f"]({os.path.relpath(target, page_folder)}{anchor})"

    return re.sub(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)", lead, text)


def of_page(_app: Sphinx, page: str, source: list[str]) -> None:
    """Sphinx calls it for each page."""
    folder = (DOCS / page).parent
    source[0] = lead_to_pages(source[0], folder, folder)


def of_included(_app: Sphinx, path: Path, page: str, content: list[str]) -> None:
    """Sphinx calls it for each file that a page includes."""
    content[0] = lead_to_pages(content[0], (DOCS / path).resolve().parent, (DOCS / page).parent)


COLON = "\ue000"
"""Stands for a colon of an attribute's text or of "Returns:": napoleon would take what is before it for a type."""


def take_literally(_app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Outside of backticks a star, an at and an underscore of a docstring mean nothing but themselves."""
    is_prose = what in {"attribute", "property"}
    for number, line in enumerate(lines):
        pieces = re.split(r"(`[^`]*`)", line)
        pieces[::2] = [re.sub(r"[*@]|(?<=\w)_(?!\w)", r"\\\g<0>", piece) for piece in pieces[::2]]
        lines[number] = "".join(pieces).replace(":", COLON if is_prose else ":")
        if line and not line[0].isspace() and what not in {"attribute", "property"}:
            is_prose = line == "Returns:"


def put_colons_back(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """The other half of take_literally()."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def follow_links(app: Sphinx, exception: Exception | None) -> None:
    """Let the build fail if a link within the site leads nowhere."""
    if exception is not None or app.builder.name != "html":
        return
    for link in broken_links(Path(app.outdir).resolve()):
        logging.getLogger(__name__).error("this link leads nowhere: %s", link)
        app.statuscode = 1


def setup(app: Sphinx) -> None:
    """Sphinx calls it."""
    app.connect("source-read", of_page)
    app.connect("include-read", of_included)
    # Before and after napoleon, which makes stars and colons of its own.
    app.connect("autodoc-process-docstring", take_literally, priority=400)
    app.connect("autodoc-process-docstring", put_colons_back, priority=600)
    app.connect("build-finished", follow_links)
