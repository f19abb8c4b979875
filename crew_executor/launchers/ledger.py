"""Which executors have jobs at a scheduler: a note of each, in a folder of this user's, while it may have some.

`ps` and `kill` find by them the jobs of clients that are gone. A note is a hint, no more: what it leads to is asked of
the scheduler. One that cannot be written costs this, not the work. Knows nothing of schedulers, and runs nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from typing import NamedTuple

from ..log import logger

FOLDER_VARIABLE = "CREW_EXECUTOR_LEDGER"
"""Names another folder; for tests."""
_SUFFIX = ".json"


class Entry(NamedTuple):
    """What is noted of an executor.

    Attributes:
        run: as `ps` shows it.
        name: the executor's.
        launcher: "module:class".
        prefix: how the names of its jobs begin.
        host, client_pid, client_began: its client; the last tells it from a later process with this number.
        folder: where its scripts and invitations are.
    """

    run: str
    name: str
    launcher: str
    prefix: str
    host: str
    client_pid: int
    client_began: float
    folder: str

    def is_from_here(self) -> bool:
        """Answer whether its client is, or was, on this machine."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Answer whether its client, on this machine, still runs."""
        return self.is_from_here() and _began_at(self.client_pid) == self.client_began


def folder() -> str:
    """Return where the notes are: in the home directory, which the login nodes of a cluster have in common."""
    return os.environ.get(FOLDER_VARIABLE) or os.path.expanduser("~/.crew_executor/runs")


def write(run: str, name: str, launcher: type, prefix: str, jobs_folder: str) -> None:
    """Note that this process is about to submit jobs with names of this beginning."""
    entry = Entry(
        run, name, f"{launcher.__module__}:{launcher.__qualname__}", prefix, socket.gethostname(), os.getpid(),
        _began_at(os.getpid()) or 0.0, jobs_folder,
    )  # fmt: skip
    path = os.path.join(folder(), run + _SUFFIX)
    try:
        os.makedirs(folder(), mode=0o700, exist_ok=True)
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump(entry._asdict(), file)
        os.replace(f"{path}.new", path)
    except OSError as error:
        logger.info("`ps` and `kill` will not find the jobs of run %s if this process is killed: %s", run, error)


def _began_at(pid: int) -> float | None:
    from .. import processes  # late: with psutil; where that is broken doctor must be able to say so

    return processes.began_at(pid)


def forget(entry: Entry) -> None:
    """Remove a note of a client that is gone and has no jobs, with the scripts and invitations that it has left."""
    with contextlib.suppress(OSError), os.scandir(entry.folder) as files:
        for file in files:
            if re.fullmatch(rf"crew-{re.escape(entry.run)}-\d+\.(invitation|sh)", file.name):
                with contextlib.suppress(OSError):
                    os.unlink(file.path)
    remove(entry.run)


def remove(run: str) -> None:
    """Remove a note, if it is there: the executor has no jobs any more."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(folder(), run + _SUFFIX))


def entries() -> list[Entry]:
    """Return all notes that can be read."""
    found = []
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(folder()))
    for name in names:
        if name.endswith(_SUFFIX):
            with contextlib.suppress(OSError, ValueError, TypeError):  # another version's, or half of one
                with open(os.path.join(folder(), name), encoding="utf-8") as file:
                    entry = Entry(**json.load(file))
                if entry.run + _SUFFIX == name:
                    found.append(entry)
    return found
