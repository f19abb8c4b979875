"""Where the supervisors of this user are found: a folder with a socket of each, named after its client and itself.

A socket whose process is gone refuses connections: who finds one removes it. So nobody has to be believed, and nothing
is guessed from command lines. Only this user can look into the folder: one that others can write to, or that is not
this user's, is not looked into, for its names would be theirs. No process is looked up or ended here.

There are two places for it, and all that is asked for is looked for in both. The better one, /run/user/UID, comes with
the user's first login and goes with the last logout, while executors may run on: what was there may be gone, and what
was not may have come.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from typing import NamedTuple

FOLDER_VARIABLE = "CREW_EXECUTOR_REGISTRY"
"""Names other folders, the best one first, with a colon between them; for tests."""


class Entry(NamedTuple):
    """One supervisor, as its file says."""

    path: str
    client_pid: int
    supervisor_pid: int


def folders() -> list[str]:
    """Return where the folder may be, the best place first. The same for all processes of this user."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return given.split(os.pathsep)
    return [f"/run/user/{os.getuid()}/crew_executor", f"/tmp/crew_executor-{os.getuid()}"]  # noqa: S108  0700


def _is_safe(folder: str) -> bool:
    """Answer whether it is a folder, and nobody else could have put anything there."""
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def listen(client_pid: int) -> socket.socket | None:
    """Return a listening socket for this process in the first folder that will do, or None where none will.

    That is no reason to refuse work: a file system without room or without sockets, or a folder that is somebody
    else's, costs the listing, no more.
    """
    for folder in folders():
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind(server, folder, f"{client_pid}-{os.getpid()}")
        except OSError:
            server.close()
        else:
            return server
    return None


def _bind(server: socket.socket, folder: str, name: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    if not _is_safe(folder):
        raise PermissionError
    # It gets its name when it listens: before, it refuses connections, and who found it would take it for a dead one's.
    hidden = os.path.join(folder, f".{name}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(hidden)  # of an earlier process with this number
    server.bind(hidden)
    server.listen()
    os.rename(hidden, os.path.join(folder, name))


def remove(client_pid: int, supervisor_pid: int) -> None:
    """Remove a supervisor's socket, if it is there."""
    for folder in filter(_is_safe, folders()):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, f"{client_pid}-{supervisor_pid}"))


def entries() -> list[Entry]:
    """Return what is in the folders, of the living and the dead."""
    found = []
    for folder in filter(_is_safe, folders()):
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(folder)):
                client_pid, dash, supervisor_pid = name.partition("-")
                # isdigit() alone is true of digits that are no numbers, such as a superscript.
                if dash and name.isascii() and client_pid.isdigit() and supervisor_pid.isdigit():
                    found.append(Entry(os.path.join(folder, name), int(client_pid), int(supervisor_pid)))
    return found


def connect(entry: Entry, timeout: float) -> socket.socket | None:
    """Return a connection to a supervisor; None if it is gone, and its socket with it.

    Args:
        entry: which.
        timeout: seconds for each step of the conversation.

    Raises:
        OSError: it is there, and takes no connection in time: its queue is full, for it has not answered for a while.
    """
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # One that does not block is turned away by a full queue at once, though it may be full for a moment only.
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout), int(timeout % 1 * 1e6)))
    try:
        peer.connect(entry.path)
    except (ConnectionRefusedError, FileNotFoundError):
        peer.close()
        with contextlib.suppress(OSError):
            os.unlink(entry.path)
        return None
    except OSError:
        peer.close()
        raise
    peer.settimeout(timeout)
    return peer
