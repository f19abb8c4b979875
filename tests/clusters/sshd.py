"""Real ssh servers for tests: one on each of some hosts, or a single one on this machine's 127.0.0.1.

Their keys are made anew for each use; nothing of ~/.ssh or /etc/ssh is read or written, and what runs through them has
an empty home. A client is pointed to them by `ssh -F CONFIG NAME`. The configuration says only whom to reach and which
keys to use: timeouts, BatchMode and the like are for the one under test to think of. Server keys are checked strictly.
At the end nothing must be left: neither a server, nor what was started through it.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from .hosts import Hosts, wait_until, which
from .hosts import missing as missing_for_hosts

if TYPE_CHECKING:
    from typing_extensions import Self

MARK = "CREW_EXECUTOR_TEST_SSHD"
"""An environment variable of all that is started through our servers; to be found wherever it went."""

PRIVILEGES = Path("/run/sshd")
"""sshd insists on this empty folder when root starts it; usually the package's service makes it."""


def missing() -> str | None:
    """Return what keeps us from running servers here, or None. On hosts, those have needs of their own."""
    absent = [name for name in ("ssh", "ssh-keygen", "sshd") if which(name) is None]
    return f"not installed (see tests/clusters/install.sh): {', '.join(absent)}" if absent else None


def missing_on_hosts() -> str | None:
    """Return what keeps us from running servers on hosts, or None."""
    return missing() or missing_for_hosts()


class SSHServers:
    """A server on port 22 of each host, or with None one named "local" on a free port of 127.0.0.1, within a context.

    `lines` of sshd_config go before ours, and so win: SSHServers(hosts, "AllowTcpForwarding no").
    """

    def __init__(self, hosts: Hosts | None, *lines: str) -> None:
        self.names = ["local"] if hosts is None else hosts.names
        self._hosts = hosts
        self._lines = lines
        self._ports = dict.fromkeys(self.names, 22)
        self._running: dict[str, subprocess.Popen[Any]] = {}
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if reason := missing():
            raise RuntimeError(f"no sshd can be run: {reason}")
        with contextlib.ExitStack() as exits:
            self.folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="crewt-sshd-")))
            self.known_hosts = self.folder / "known_hosts"
            self._home = self.folder / "home"
            self._home.mkdir()
            self.host_key, self.identity = self._make_key("host_key"), self._make_key("identity")
            if os.geteuid() == 0 and not PRIVILEGES.exists():
                PRIVILEGES.mkdir(mode=0o755)
                exits.callback(PRIVILEGES.rmdir)
            exits.callback(self._stop_all)
            for name in self.names:
                self._launch(name)
            for name in self.names:
                self._await(name)
            self.config = self._write_config("config", self.identity)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    @functools.cached_property
    def wrong_identity(self) -> Path:
        """A key that no server lets in."""
        return self._make_key("wrong_identity")

    @functools.cached_property
    def wrong_config(self) -> Path:
        """As `config`, but with that key."""
        return self._write_config("wrong_config", self.wrong_identity)

    def address(self, name: str) -> str:
        """Return the IP address of that server."""
        return "127.0.0.1" if self._hosts is None else self._hosts.address(name)

    def port(self, name: str) -> int:
        """Return the TCP port of that server."""
        return self._ports[name]

    def ssh(self, name: str, *command: str, options: Sequence[str] = ()) -> list[str]:
        """Return the command line of an ssh client that runs `command` there; `options` are ssh's, and win."""
        return [which("ssh") or "ssh", *options, "-F", str(self.config), name, *command]

    def log(self, name: str) -> str:
        """Return what the server has logged so far."""
        return self._path(name, "log").read_text("utf-8")

    def start(self, name: str) -> None:
        """Start the server again, after `stop` or a crash of its host."""
        self.stop(name)  # for its zombie
        self._launch(name)
        self._await(name)

    def stop(self, name: str) -> None:
        """Kill the server, the connections it holds and all that was started through them."""
        if server := self._running.pop(name, None):
            _kill_tree(server)
        wait_until(lambda: not _kill_marked(self._mark(name)), f"all that was started through sshd on {name} is gone")

    def _stop_all(self) -> None:
        for name in self.names:
            self.stop(name)

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / f"sshd-{name}.{suffix}"

    def _mark(self, name: str) -> str:
        return f"{MARK}={self.folder}/{name}"

    def _make_key(self, name: str) -> Path:
        path = self.folder / name
        keygen = [which("ssh-keygen") or "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"crewt-{name}"]
        subprocess.run([*keygen, "-f", str(path)], check=True, stdin=subprocess.DEVNULL)
        return path

    def _launch(self, name: str) -> None:
        if self._hosts is None and self._ports[name] == 22:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._ports[name] = free.getsockname()[1]
        path = self._path(name, "conf")
        path.write_text("".join(f"{line}\n" for line in self._settings(name)), "utf-8")
        # -D and -e: neither a daemon nor in the system's log.
        argv = [which("sshd") or "sshd", "-D", "-e", "-f", str(path)]
        # Since 9.8 a server refuses for a while whom it has seen fail. Older ones do not know the word.
        option = ["-o", "PerSourcePenalties=no"]
        if subprocess.run([*argv, *option, "-t"], check=False, capture_output=True).returncode == 0:
            argv += option
        with self._path(name, "log").open("w") as log:
            options: dict[str, Any] = {"stdout": log, "stderr": log, "start_new_session": True}
            options["stdin"] = subprocess.DEVNULL
            if self._hosts is None:
                self._running[name] = subprocess.Popen(argv, **options)
            else:
                self._running[name] = self._hosts.run(name, argv, **options)

    def _settings(self, name: str) -> list[str]:
        return [
            # bash reads ~/.bashrc for ssh's commands too, and some do there what takes its time or leaves a lock.
            f"SetEnv {self._mark(name)} HOME={self._home}",
            *self._lines,
            f"ListenAddress {self.address(name)}:{self.port(name)}",
            f"HostKey {self.host_key}",
            f"AuthorizedKeysFile {self.identity}.pub",
            "PidFile none",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",  # the key lies in a temporary folder, which anybody may write to
            "MaxStartups 100",  # many workers are started at once
        ]

    def _await(self, name: str) -> None:
        """Wait until the server listens. Not by connecting: a connection that does not log in counts against us."""
        server = self._running[name]
        wait_until(lambda: server.poll() is not None or "Server listening" in self.log(name), f"sshd listens on {name}")
        if server.poll() is not None:
            raise RuntimeError(f"sshd on {name} ended with status {server.returncode}: {self.log(name)}")

    def _write_config(self, file: str, identity: Path) -> Path:
        kind, key = Path(f"{self.host_key}.pub").read_text("utf-8").split()[:2]
        known, config = [], []
        for name in self.names:
            places = [name, self.address(name)]
            if (port := self.port(name)) != 22:
                places = [f"[{place}]:{port}" for place in places]
            known.append(f"{','.join(places)} {kind} {key}")
            config += [f"Host {name} {self.address(name)}", f"HostName {self.address(name)}", f"Port {port}"]
        config += [
            "Host *",
            f"User {getpass.getuser()}",
            f"IdentityFile {identity}",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f"UserKnownHostsFile {self.known_hosts}",
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
            "UpdateHostKeys no",  # the client would write to the file of known hosts
        ]
        self.known_hosts.write_text("".join(f"{line}\n" for line in known), "utf-8")
        path = self.folder / file
        path.write_text("".join(f"{line}\n" for line in config), "utf-8")
        return path


def _kill_tree(server: subprocess.Popen[Any]) -> None:
    """Kill a server and its children, one for each connection."""
    if server.poll() is None:
        tree = psutil.Process(server.pid)
        tree.suspend()  # so that it takes no further connection while we look
        for child in tree.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    server.kill()
    server.wait()


def _kill_marked(mark: str) -> int:
    """Kill the processes with this in their environment; return how many there were."""
    found = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or not ours
            if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                found += 1
    return found
