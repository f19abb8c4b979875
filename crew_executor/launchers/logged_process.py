"""A process of a launcher's on this machine (ssh, mpirun), and what it has printed. Knows nothing of jobs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

from ..errors import LaunchError

LOG_BYTES = 4000


class LoggedProcess:
    """A process in a session of its own, whose stdout and stderr go into a nameless file. close() it.

    Args:
        command: as a list of words.
        stdin: what it reads, or nothing.
        environment: its variables; None: those of this process.

    Raises:
        LaunchError: it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], stdin: bytes = b"", environment: Mapping[str, str] | None = None
    ) -> None:
        self.command = command
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._last_words = self._last_news = ""  # once it is closed
        self._told = 0
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True,
                env=environment,
            )  # fmt: skip
        except OSError as error:
            self._log.close()
            raise LaunchError(f"{command[0]} cannot be started: {error}") from error
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, and says why
            self.process.stdin.write(stdin)
            self.process.stdin.close()

    @property
    def is_closed(self) -> bool:
        """Whether close() was called."""
        return self._log.closed

    def read_from(self, position: int) -> bytes:
        """Return what it has printed from a position on: not by the file's own, at which it writes."""
        if self._log.closed:
            return b""
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size - position, position)

    def log_tail(self) -> str:
        """Return the last of what it has printed."""
        if self._log.closed:
            return self._last_words
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), LOG_BYTES, max(0, size - LOG_BYTES)).decode(errors="replace").strip()

    def log_news(self) -> str:
        """Return the last of what it has printed since this was asked before."""
        if self._log.closed:
            news, self._last_news = self._last_news, ""
            return news
        new = self.read_from(self._told)
        self._told += len(new)
        return new[-LOG_BYTES:].decode(errors="replace").strip()

    def terminate(self) -> None:
        """Tell it to end, if it has not."""
        if self.process.poll() is None:
            self.process.terminate()

    def close(self) -> None:
        """End it if need be, and give back what it holds. Its last words are kept."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._last_words, self._last_news = self.log_tail(), self.log_news()
        self._log.close()
