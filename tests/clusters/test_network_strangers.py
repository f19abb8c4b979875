"""Attacks on the port of an executor with workers on hosts, from a host: the pool works on, nothing grows."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from integration.helpers import DEADLINE, add, append_line, touch_and_wait, wait_until
from integration.launching import executor_of

from crew_executor import CrewExecutor, invitations
from crew_executor import lobby as lobbies
from crew_executor.agent.process import EXIT_REFUSED, EXIT_UNREACHABLE
from crew_executor.launchers import Job

from .host_launcher import HostLauncher, host_name, link_of, start_agent
from .hosts import Hosts, missing

pytestmark = [
    pytest.mark.network,
    pytest.mark.timeout(150, func_only=True),  # not the wait for hosts, which another run may have
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

LONG = 90.0
"""Seconds that anything over a bad link may take."""
MEMORY_MAX = 30_000_000
"""What strangers may leave behind in the client: the allocator keeps some of what 64 at a time took."""


SAY = """
import os, socket, sys
address = sys.argv[1], int(sys.argv[2])
garbage = [
    b"GET / HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n", bytes(5000), b"\\xff" * 5000, os.urandom(100_000),
    b"SSH-2.0-x\\r\\n", b"\\x16\\x03\\x01\\xff\\xff" + os.urandom(70_000), bytes.fromhex("160303000401000000"),
    bytes.fromhex(sys.argv[3]),
]
for number in range(200):
    with socket.create_connection(address) as sock:
        sock.settimeout(20)
        try:
            sock.sendall(garbage[number % len(garbage)])
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
        except OSError:
            pass
"""

HELLO_AND_SILENCE = """
import socket, ssl, sys
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
try:
    context.wrap_bio(incoming, outgoing).do_handshake()
except ssl.SSLWantReadError:
    pass
hello = outgoing.read()
socks = []
for number in range(300):
    sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    sock.sendall((b"", hello[:5], hello[:-1])[number % 3])
    socks.append(sock)
for sock in socks:
    sock.settimeout(30)
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionError:
        pass
"""

DRIP = """
import select, socket, sys, time
hello = b"\\x16\\x03\\x01\\x02\\x00\\x01\\x00\\x01\\xfc\\x03\\x03" + bytes(500)
socks = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(20)]
for byte in hello:
    for sock in list(socks):
        try:
            sock.sendall(bytes([byte]))
            if select.select([sock], [], [], 0)[0] and not sock.recv(100):
                socks.remove(sock)
        except ConnectionError:
            socks.remove(sock)
    if not socks:
        sys.exit(0)
    time.sleep(0.05)
sys.exit("somebody who says little at a time was listened to all along")
"""

FLOOD = """
import socket, sys
for number in range(int((sys.argv[4:] or [10_000])[0])):
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
        if number % 2:
            sock.sendall(b"x" * 100)
"""

KEY_HOLDER = """
import queue, sys
from crew_executor import invitations
from crew_executor.framing import LinkClosed
from crew_executor.lobby import with_length
from crew_executor.network import dial
invitation = invitations.decode(sys.stdin.buffer.readline())
for said in (
    b"\\xff\\xff\\xff\\xff" + bytes(10), b"\\xff\\xff\\xff\\x7f" + bytes(60_000), with_length(bytes(1024)),
    with_length(b"{}"),
    with_length(b"[" * 1000), with_length(b'{"seat": ' + b"9" * 900 + b"}"), with_length(b"\\x80\\x04N."),
    with_length(b"{}") * 100,
) * 2:
    stream = dial(sys.argv[1], int(sys.argv[2]), invitation.key, 10.0)
    try:
        stream.write_later(said)
        heard = queue.Queue()
        while True:
            stream.read_later(1000, heard.put)
            if not heard.get(timeout=30):
                break
    except LinkClosed:
        pass
    finally:
        stream.free()
"""


class Pickled:
    """Would leave a trace if somebody unpickled it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self._path,)


def work_while(executor: CrewExecutor, stranger: subprocess.Popen[Any]) -> int:
    """Submit tasks as long as a stranger is busy, all of which must succeed; return how many there were."""
    number = 0
    while stranger.poll() is None:
        assert [task.result(DEADLINE) for task in [executor.submit(add, number, each) for each in range(10)]] == [
            number + each for each in range(10)
        ]
        number += 10
        time.sleep(0.02)
    return number


@contextlib.contextmanager
def nothing_grows(executor: CrewExecutor) -> Iterator[None]:
    """Check that this process has as many descriptors afterwards, and hardly more memory."""
    executor.submit(add, 1, 2).result(DEADLINE)
    process = psutil.Process()
    descriptors, memory = process.num_fds(), process.memory_info().rss
    yield
    wait_until(lambda: process.num_fds() <= descriptors, "all descriptors are closed")
    assert process.memory_info().rss - memory < MEMORY_MAX


@pytest.mark.parametrize(
    ("attack", "is_encrypted"),
    [
        pytest.param(SAY, True, id="garbage"),
        pytest.param(SAY, False, id="garbage, plain tcp"),
        pytest.param(HELLO_AND_SILENCE, True, id="half a greeting"),
        pytest.param(DRIP, True, id="slow drip"),
        pytest.param(FLOOD, True, id="10,000 calls"),
        pytest.param(KEY_HOLDER, True, id="with the key"),
        pytest.param(KEY_HOLDER, False, id="without a key, plain tcp"),
    ],
)
def test_strangers_at_the_port_disturb_nobody(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, is_encrypted: bool
) -> None:
    monkeypatch.setattr(lobbies, "TALK_SECONDS", 3.0)  # not to wait for longer
    launcher = HostLauncher(hosts, ["h1"], workers_per_job=2, unencrypted_and_unauthenticated=not is_encrypted)
    with executor_of(launcher) as executor:
        executor.submit(add, 1, 2).result(DEADLINE)
        with nothing_grows(executor):
            port, opened = str(launcher.jobs[0].port), tmp_path / "opened"
            evil = pickle.dumps(Pickled(str(opened)))
            options = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
            argv = [sys.executable, "-c", attack, hosts.head, port, evil.hex()]
            with hosts.run("h2", argv, **options) as stranger:
                assert stranger.stdin is not None
                assert stranger.stderr is not None
                stranger.stdin.write(launcher.jobs[0].invitation)
                stranger.stdin.close()
                assert work_while(executor, stranger) > 0
                assert stranger.returncode == 0, stranger.stderr.read().decode()
            wait_until(lambda: not executor._dispatcher._employer._lobby._strangers, "all have gone")  # type: ignore[attr-defined]
        assert not opened.exists()
        assert len(launcher.jobs) == 1


@pytest.mark.parametrize("attack", [HELLO_AND_SILENCE, FLOOD], ids=["silent", "hammering"])
def test_a_guest_gets_in_through_a_crowd(hosts: Hosts, tmp_path: Path, attack: str) -> None:
    """Of those who were not invited there are many more than may wait at a time."""
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    launcher = HostLauncher(hosts)
    with executor_of(launcher, 2) as executor:
        task = executor.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the first host works")
        assert len(launcher.jobs) == 1
        (other,) = {"h1", "h2"} - {launcher.agents[0][0]}
        lobby = executor._dispatcher._employer._lobby  # type: ignore[attr-defined]
        with hosts.run(other, [sys.executable, "-c", attack, hosts.head, str(lobby.port), "", str(10**9)]) as stranger:
            wait_until(lambda: bool(lobby._strangers), "they come")
            assert executor.submit(host_name).result(LONG) == other
            stranger.kill()
        Path(release).touch()
        assert task.result(DEADLINE)


def altered(invitation: bytes, **changes: Any) -> bytes:
    """Return an invitation that says something else."""
    return invitations.encode(invitations.decode(invitation)._replace(**changes))


@pytest.mark.parametrize(
    ("changes", "exitcode", "words"),
    [
        ({"key": bytes(32), "startup_timeout": 2.0}, EXIT_UNREACHABLE, "the keys differ, perhaps"),
        ({"secret": bytes(32)}, EXIT_REFUSED, "the seat 'job-1' is taken"),
        ({}, EXIT_REFUSED, "the seat 'job-1' is taken"),
        ({"seat": "job-2"}, EXIT_REFUSED, "the seat 'job-2' is unknown"),
        ({"run": 1}, EXIT_REFUSED, "this is another run"),
    ],
    ids=["another key", "another secret", "a copy", "another seat", "another run"],
)
def test_an_invitation_that_is_used_again_or_altered_lets_nobody_in(
    hosts: Hosts, tmp_path: Path, changes: dict[str, Any], exitcode: int, words: str
) -> None:
    launcher = HostLauncher(hosts, ["h1"], workers_per_job=2)
    with executor_of(launcher) as executor:
        executor.submit(add, 1, 2).result(DEADLINE)
        with nothing_grows(executor), (tmp_path / "log").open("w") as log:
            job = launcher.jobs[0]
            stranger = start_agent(hosts, "h2", job.command(), altered(job.invitation, **changes), log)
            assert work_while(executor, stranger) > 0
            assert stranger.returncode == exitcode
        assert words in (tmp_path / "log").read_text()
        assert {each.host for each in executor.stats().workers} <= {"h1", ""}  # "": it is on its way
        assert executor.submit(host_name).result(DEADLINE) == "h1"


def test_who_steals_an_invitation_and_is_first_is_noticed(hosts: Hosts) -> None:
    """It has the place: that much an invitation is worth. But its owner is told, and the user's work is not doubled."""
    stolen: list[subprocess.Popen[bytes]] = []

    class Robbed(HostLauncher):
        def submit(self, job: Job, number: int) -> Any:
            stolen.append(start_agent(hosts, "h2", job.command(), job.invitation))
            wait_until(lambda: bool(executor.stats().workers[0].host) or stolen[0].poll() is not None, "it is in")
            return super().submit(job, number)

    launcher = Robbed(hosts, ["h1"], max_jobs=1)
    with executor_of(launcher, 1) as executor:
        assert executor.submit(host_name).result(DEADLINE) == "h2"
        owner = launcher.agents[0][1]
        wait_until(lambda: owner.poll() is not None, "the owner of the invitation is sent away")
        assert owner.returncode == EXIT_REFUSED
    stolen[0].wait(DEADLINE)


RECORDER = """
import socket, sys, threading
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
near, far = server.accept()[0], socket.create_connection((sys.argv[2], int(sys.argv[3])))

def carry(source, target, record=None):
    try:
        while data := source.recv(1 << 16):
            if record:
                record.write(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass

threading.Thread(target=carry, args=(far, near), daemon=True).start()
with open(sys.argv[4], "wb", buffering=0) as record:
    carry(near, far, record)
"""

PLAY_BACK = """
import socket, sys
data = open(sys.argv[3], "rb").read()
for size in (len(data), 4096, 1, 700):
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as sock:
        sock.settimeout(20)
        try:
            for start in range(0, min(len(data), 200 * size), size):
                sock.sendall(data[start : start + size])
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
        except OSError:
            pass
"""


@pytest.mark.parametrize("is_encrypted", [True, False], ids=["TLS", "tcp"])
def test_a_conversation_that_was_recorded_and_is_played_back_does_nothing(
    hosts: Hosts, tmp_path: Path, is_encrypted: bool
) -> None:
    record, log = tmp_path / "record", str(tmp_path / "log")
    recorders: list[subprocess.Popen[str]] = []

    def through_recorder(job: Job) -> tuple[str, int]:
        address = hosts.address("h2")
        argv = [sys.executable, "-c", RECORDER, address, hosts.head, str(job.port), str(record)]
        recorders.append(hosts.run("h2", argv, stdout=subprocess.PIPE, text=True))
        assert recorders[0].stdout is not None
        return address, int(recorders[0].stdout.readline())

    launcher = HostLauncher(hosts, ["h1"], workers_per_job=2, unencrypted_and_unauthenticated=not is_encrypted)
    launcher.detour = through_recorder
    with executor_of(launcher) as executor:
        tasks = [executor.submit(append_line, log, str(number)) for number in range(200)]
        assert [task.result(DEADLINE) for task in tasks] == [str(number) for number in range(200)]
        assert record.stat().st_size > 1000
        with nothing_grows(executor):
            argv = [sys.executable, "-c", PLAY_BACK, hosts.head, str(launcher.jobs[0].port), str(record)]
            with hosts.run("h2", argv) as stranger:
                assert work_while(executor, stranger) > 0
                assert stranger.returncode == 0
        assert link_of(executor).links == 1
        assert [task.result() for task in tasks] == [str(number) for number in range(200)]

    assert sorted(map(int, Path(log).read_text().split())) == list(range(200))
    with recorders[0] as recorder:
        recorder.kill()
