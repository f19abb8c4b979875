"""What a worker writes: live on the client's own streams, or caught for the task that wrote it.

What goes through sys.stderr is copied to the worker's log, which outlives the process. While a task's output is caught,
descriptors 1 and 2 are that log, so that C code and child processes are caught as well, and what a task wrote before it
killed its worker is not lost. Must not fail: a worker that cannot catch a task's output runs the task all the same.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
from collections.abc import Callable
from typing import TextIO

from ..core.messages import OUTPUT_BYTES_MAX

LOG_BYTES = 64 * 1024
"""What is kept of a worker's stderr for a post-mortem."""


class Output:
    """The standard streams of this process.

    Args:
        log_fd: the file that outlives it.
    """

    def __init__(self, log_fd: int) -> None:
        self._log_fd = log_fd
        self._saved: tuple[int, int] | None = None
        self._stdout = self._stderr = sys.stdout

    def install(self) -> None:
        """Make sys.stdout and sys.stderr line by line, copy the latter to the log, and faulthandler's words."""
        faulthandler.enable(self._log_fd, all_threads=True)
        sys.stdout = self._stdout = _open(1)
        sys.stderr = self._stderr = _open(2)
        # An attribute of the instance: isatty(), fileno() and buffer stay those of the real stream.
        self._stderr.write = self._copying(self._stderr.write)  # type: ignore[method-assign]

    def flush(self) -> None:
        """Show what a task has written without ending the line."""
        try:  # noqa: SIM105  contextlib.suppress() would take four times as long, after each task
            self._stdout.flush()
        except (OSError, ValueError):  # a pipe without a reader; closed by a task
            pass

    def catch(self) -> None:
        """From now on keep what is written, in the log; it begins anew."""
        self.flush()
        with contextlib.suppress(OSError):
            saved = (_duplicate(1), _duplicate(2))
            os.ftruncate(self._log_fd, 0)
            os.lseek(self._log_fd, 0, os.SEEK_SET)
            self._saved = saved
            self._put_to((self._log_fd, self._log_fd))

    def caught(self) -> bytes:
        """Return what was written since catch(), and show again what is written."""
        if self._saved is None:
            return b"(the output could not be caught: the worker has no more descriptors)"
        self.flush()
        with contextlib.suppress(OSError, ValueError):
            self._stderr.flush()
        self._put_to(self._saved)
        for fd in self._saved:
            os.close(fd)
        self._saved = None
        size = os.fstat(self._log_fd).st_size
        left_out = max(0, size - OUTPUT_BYTES_MAX)
        data = os.pread(self._log_fd, OUTPUT_BYTES_MAX, left_out)
        self._make_room()
        return b"(%d bytes are left out here)\n%b" % (left_out, data) if left_out else data

    @staticmethod
    def _put_to(descriptors: tuple[int, int]) -> None:
        for target, fd in enumerate(descriptors, 1):
            os.dup2(fd, target, inheritable=True)

    def _make_room(self) -> None:
        if os.lseek(self._log_fd, 0, os.SEEK_CUR) > LOG_BYTES:
            os.ftruncate(self._log_fd, 0)
            os.lseek(self._log_fd, 0, os.SEEK_SET)

    def _copying(self, write: Callable[[str], int]) -> Callable[[str], int]:
        def write_both(text: str) -> int:
            self.keep(text)
            return write(text)

        return write_both

    def keep(self, text: str) -> None:
        """Write to the log alone; not while that is where a task's output goes."""
        if self._saved is not None:
            return
        with contextlib.suppress(Exception):  # the post-mortem copy must never cost the original
            self._make_room()
            os.write(self._log_fd, text.encode(errors="backslashreplace"))


def _open(fd: int) -> TextIO:
    return os.fdopen(fd, "w", buffering=1, errors="backslashreplace", closefd=False)


def _duplicate(fd: int) -> int:
    try:
        return os.dup(fd)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)  # closed by a task
