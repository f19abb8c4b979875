"""Where the command line prints: lines, tables and a progress line on stdout. Else only screens.py does, if asked for.

It must survive what stdout can be: a pipe, a file, a dumb terminal, an ASCII locale, or closed by `| head`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

__all__ = ["Report", "ReportClosed"]


class ReportClosed(BaseException):
    """Whoever read our output has gone, or there is no room for it; then its text says so.

    Not an Exception, like KeyboardInterrupt: it must end a `with CrewExecutor(...)` at once, not after all its work.
    """


class Report:
    """Writes a report for people: plain text, no escape sequences, flushed line by line."""

    def __init__(self, stream: TextIO | None = None, *, seconds_between: float = 2.0) -> None:
        """Write to `stream` (default: stdout); on a pipe, show progress at most every `seconds_between`."""
        self._stream = sys.stdout if stream is None else stream
        self._seconds_between = seconds_between
        self._progress_shown = time.monotonic()
        self._progress_width = 0
        # Only "\r" and spaces are used, which every terminal knows except the ones that say they know nothing.
        self.is_live = bool(self._stream and self._stream.isatty()) and os.environ.get("TERM") != "dumb"

    def line(self, text: str = "") -> None:
        """Write one line, or several, below whatever progress is shown."""
        self._write(self._erasure() + text + "\n")

    def heading(self, text: str) -> None:
        """Write the title of a section."""
        self.line(f"\n{text}")

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write rows under a head; columns in which every cell is a number are aligned right."""
        body = [list(row) for row in rows]
        widths = [max(len(row[column]) for row in [list(head), *body]) for column in range(len(head))]
        is_numeric = [bool(body) and all(_is_number(row[column]) for row in body) for column in range(len(head))]
        for row in [list(head), *body]:
            cells = (
                cell.rjust(width) if numeric else cell.ljust(width)
                for cell, width, numeric in zip(row, widths, is_numeric, strict=True)
            )
            self.line("  " + "  ".join(cells).rstrip())

    def progress(self, text: str) -> None:
        """Show where the work stands: in place on a terminal, as an occasional line elsewhere."""
        if self.is_live:
            fitting = text[: max(shutil.get_terminal_size().columns - 1, 10)]
            padding = " " * max(self._progress_width - len(fitting), 0)
            self._progress_width = len(fitting)
            self._write(f"\r{fitting}{padding}")
        elif time.monotonic() - self._progress_shown >= self._seconds_between:
            self._progress_shown = time.monotonic()
            self._write(text + "\n")

    def _erasure(self) -> str:
        width, self._progress_width = self._progress_width, 0
        return "\r" + " " * width + "\r" if width else ""

    def _write(self, text: str) -> None:
        if self._stream is None:  # pythonw has no stdout
            return
        # File names and error texts are arbitrary; an ASCII or Latin-1 stdout shows the rest as \u escapes.
        encoding = self._stream.encoding or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()
        except BrokenPipeError:
            raise ReportClosed from None
        except OSError as error:
            raise ReportClosed(f"the output cannot be written: {error.strerror}") from None


def _is_number(cell: str) -> bool:
    return cell.strip("-").replace(",", "").replace(".", "", 1).isdigit() or cell in ("", "-")
