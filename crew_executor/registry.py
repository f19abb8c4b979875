"""Where the supervisors of this user are found: a folder with a socket of each, named after its client and itself.

A socket whose process is gone refuses connections: who finds one removes it. So nobody has to be believed, and nothing
is guessed from command lines. Only this user can look into the folder. No process is looked up or ended here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import NamedTuple

FOLDER_VARIABLE = "CREW_EXECUTOR_REGISTRY"
"""Names another folder; for tests."""


class Entry(NamedTuple):
    """One supervisor, as its file says."""

    path: str
    client_pid: int
    supervisor_pid: int


def folder() -> str:
    """Return the folder; it need not exist. The same for all processes of this user, whatever their environment."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return given
    runtime = f"/run/user/{os.getuid()}"
    return f"{runtime}/crew_executor" if os.path.isdir(runtime) else f"/tmp/crew_executor-{os.getuid()}"  # noqa: S108  0700


def path_of(client_pid: int, supervisor_pid: int) -> str:
    """Return the path of a supervisor's socket."""
    return os.path.join(folder(), f"{client_pid}-{supervisor_pid}")


def listen(client_pid: int) -> socket.socket | None:
    """Return a listening socket in the folder for this process, or None where there can be none.

    That is no reason to refuse work: a file system without room or without sockets, or a folder that is somebody
    else's, costs the listing, no more.
    """
    path = path_of(client_pid, os.getpid())
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder(), 0o700)
        status = os.lstat(folder())
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PermissionError
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of an earlier process with this number
        server.bind(path)
        server.listen()
    except OSError:
        server.close()
        return None
    return server


def remove(client_pid: int, supervisor_pid: int) -> None:
    """Remove a supervisor's socket, if it is there."""
    with contextlib.suppress(OSError):
        os.unlink(path_of(client_pid, supervisor_pid))


def entries() -> list[Entry]:
    """Return what is in the folder, of the living and the dead."""
    found = []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder())):
            client_pid, dash, supervisor_pid = name.partition("-")
            if dash and client_pid.isdigit() and supervisor_pid.isdigit():
                found.append(Entry(os.path.join(folder(), name), int(client_pid), int(supervisor_pid)))
    return found


def connect(entry: Entry, timeout: float) -> socket.socket | None:
    """Return a connection to a supervisor; None if it is gone, and its socket with it.

    Args:
        entry: which.
        timeout: seconds for each step of the conversation.
    """
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.settimeout(timeout)
    try:
        peer.connect(entry.path)
    except (ConnectionRefusedError, FileNotFoundError):
        peer.close()
        with contextlib.suppress(OSError):
            os.unlink(entry.path)
        return None
    except OSError:  # it is there, and its queue is full: it has not answered for a while
        peer.close()
        raise
    return peer
