"""Workers on network hosts while their links break in each way a link can, and while strangers come to the port."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import pickle
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from integration.helpers import DEADLINE, add, append_line, is_alive, touch_and_wait, wait_until

from crew_executor import CrewExecutor, invitations
from crew_executor import lobby as lobbies
from crew_executor.agent.process import EXIT_REFUSED, EXIT_UNREACHABLE
from crew_executor.errors import WorkerCrashError
from crew_executor.launchers import Job, Launcher

from .host_launcher import HostLauncher, start_agent
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


@contextlib.contextmanager
def executor_of(launcher: Launcher, max_workers: int = 2, **options: Any) -> Iterator[CrewExecutor]:
    """An executor with this launcher; whatever happens, nothing of it stays."""
    with CrewExecutor(max_workers, launcher=launcher, **options) as executor:
        try:
            yield executor
        except BaseException:
            executor.kill_workers()
            raise


def wait_for_workers(executor: CrewExecutor, number: int) -> None:
    wait_until(lambda: sum(each.state == "idle" for each in executor.stats().workers) == number, "all have come")


# ---------------------------------------------------------------------- run on hosts


def end_during_cut(started: str, release: str, ended: str) -> str:
    """Wait to be released, tell the end by a file, and return the host's name."""
    touch_and_wait(started, release)
    Path(ended).touch()
    return socket.gethostname()


def host_and_pid(folder: str, release: str) -> tuple[str, int]:
    """Start, wait to be released, and tell where."""
    host = socket.gethostname()
    return host, touch_and_wait(f"{folder}/{host}", release)


def host_name() -> str:
    """Return where this is."""
    return socket.gethostname()


def hold_the_lock(seconds: float) -> str:
    """Keep the interpreter's lock: nothing else of this process runs meanwhile."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return socket.gethostname()


def echo(data: bytes) -> bytes:
    """Return the argument."""
    return data


def digest(data: bytes) -> str:
    """Return what the data are like."""
    return hashlib.sha256(data).hexdigest()


class Array:
    """Has its data beside its pickle, as arrays have."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, _protocol: object) -> tuple[object, ...]:
        return Array, (pickle.PickleBuffer(self.data),)


def digest_there(array: Array, _number: int) -> tuple[str, str]:
    """Return where this is, and what the data are like."""
    return socket.gethostname(), digest(array.data)


# ---------------------------------------------------------------------- links break


def test_a_cut_of_five_seconds_is_survived_and_work_goes_on_meanwhile(hosts: Hosts, tmp_path: Path) -> None:
    started, release, ended, log = (str(tmp_path / name) for name in ("started", "release", "ended", "log"))
    launcher = HostLauncher(hosts, ["h1"], workers_per_job=2, lost_after=30.0)
    with executor_of(launcher) as executor:
        executor.submit(append_line, log, "warm").result(DEADLINE)
        task = executor.submit(end_during_cut, started, release, ended)
        early = [executor.submit(append_line, log, str(number)) for number in range(200)]
        wait_until(Path(started).exists, "the task runs")
        hosts.cut("h1")
        cut_at = time.monotonic()
        Path(release).touch()
        late = [executor.submit(append_line, log, str(number)) for number in range(200, 400)]
        wait_until(Path(ended).exists, "the task ends, of which nobody can hear", 5)
        assert not task.done()
        time.sleep(5 - (time.monotonic() - cut_at))  # the cut itself
        assert not task.done()
        hosts.heal("h1")

        assert task.result(DEADLINE) == "h1"
        assert [each.result(DEADLINE) for each in [*early, *late]] == [str(number) for number in range(400)]

    assert Counter(Path(log).read_text().split()) == Counter(["warm", *map(str, range(400))])
    assert len(launcher.jobs) == 1


def test_a_cut_in_which_the_link_is_given_up_is_survived_over_the_next(hosts: Hosts, tmp_path: Path) -> None:
    """Silence is noticed after a quarter of lost_after, on both sides; then there are three quarters to come back."""
    started, release, log = str(tmp_path / "started"), str(tmp_path / "release"), str(tmp_path / "log")
    launcher = HostLauncher(hosts, ["h1"], workers_per_job=2, lost_after=16.0)
    with executor_of(launcher) as executor:
        task = executor.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the task runs")
        link = _link_of(executor)
        hosts.cut("h1")
        tasks = [executor.submit(append_line, log, str(number)) for number in range(300)]
        wait_until(lambda: not link.has_link, "the client gives the link up")
        Path(release).touch()
        hosts.heal("h1")

        assert task.result(DEADLINE) == int(Path(started).read_text())
        assert [each.result(DEADLINE) for each in tasks] == [str(number) for number in range(300)]
        assert link.links == 2

    assert sorted(map(int, Path(log).read_text().split())) == list(range(300))
    assert len(launcher.jobs) == 1


def _link_of(executor: CrewExecutor) -> Any:
    """Return the conversation with the only agent."""
    (link,) = executor._dispatcher._employer._links.values()  # type: ignore[attr-defined]
    return link.conversation


def test_resets_in_the_middle_of_thousands_of_tasks_lose_and_double_nothing(hosts: Hosts, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    launcher = HostLauncher(hosts, workers_per_job=2)
    broken = 0
    with executor_of(launcher, 4, min_workers=4) as executor:
        wait_for_workers(executor, 4)
        tasks = []
        for number in range(4000):
            tasks.append(executor.submit(append_line, log, str(number)))
            if number % 250 == 249:
                side = "host" if number % 500 == 249 else "head"
                broken += hosts.reset(hosts.names[number // 500 % 2], launcher.jobs[0].port, by=side)  # type: ignore[arg-type]
                if number % 1000 == 999:
                    tasks[-100].result(DEADLINE)  # not all of them in one go
        large = executor.submit(echo, bytes(8_000_000))
        wait_until(lambda: large.running() or large.done(), "a large task is on its way")
        broken += sum(hosts.reset(name, launcher.jobs[0].port) for name in hosts.names)

        assert [task.result(DEADLINE) for task in tasks] == [str(number) for number in range(4000)]
        assert large.result(DEADLINE) == bytes(8_000_000)

    assert broken >= 10
    assert sorted(map(int, Path(log).read_text().split())) == list(range(4000))
    assert len(launcher.jobs) == 2


# ---------------------------------------------------------------------- hosts are lost


def test_a_host_that_crashes_is_given_up_and_its_tasks_fail_or_run_on_another(hosts: Hosts, tmp_path: Path) -> None:
    release = str(tmp_path / "release")
    launcher = HostLauncher(hosts, lost_after=4.0)
    with executor_of(launcher, 2, min_workers=2) as executor:
        wait_for_workers(executor, 2)
        tasks = [executor.submit(host_and_pid, str(tmp_path), release) for _ in range(2)]
        wait_until(lambda: all((tmp_path / name).exists() for name in hosts.names), "both hosts work")
        launcher.names.remove("h1")
        hosts.crash("h1")
        # h2 still has its own task: the one of h1 must be known to be lost without anybody's help.
        wait_until(lambda: any(task.done() for task in tasks), "the lost one is told")
        (lost,) = [task for task in tasks if task.done()]
        error = lost.exception()
        assert isinstance(error, WorkerCrashError)
        assert error.host == "h1"
        assert "its host h1 is lost: nothing was heard of it for lost_after=4 s" in str(error)
        Path(release).touch()
        assert {task.result(DEADLINE)[0] for task in tasks if task is not lost} == {"h2"}

        Path(release).unlink()
        hosts.heal("h1")
        launcher.names.append("h1")
        for name in hosts.names:
            (tmp_path / name).unlink()
        view = executor.options(crash_retries=1)
        tasks = [view.submit(host_and_pid, str(tmp_path), release) for _ in range(2)]
        wait_until(lambda: all((tmp_path / name).exists() for name in hosts.names), "h1 works again, and h2")
        launcher.names.remove("h2")
        hosts.crash("h2")
        Path(release).touch()
        assert [task.result(DEADLINE)[0] for task in tasks] == ["h1", "h1"]
        assert sorted(task.record().attempts for task in tasks) == [1, 2]
        hosts.heal("h2")


def test_on_a_host_cut_off_for_too_long_tasks_have_ended_before_they_run_elsewhere(
    hosts: Hosts, tmp_path: Path
) -> None:
    started, release, log = str(tmp_path / "started"), str(tmp_path / "release"), str(tmp_path / "log")
    launcher = HostLauncher(hosts, ["h1"], lost_after=6.0)
    with executor_of(launcher, 1) as executor:
        assert executor.submit(append_line, log, "warm").result(DEADLINE) == "warm"
        view = executor.options(crash_retries=1)
        task = view.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the task runs")
        first = int(Path(started).read_text())
        Path(started).unlink()
        behind = [view.submit(append_line, log, str(number)) for number in range(50)]
        launcher.names[:] = ["h2"]
        hosts.cut("h1")
        wait_until(Path(started).exists, "the task runs elsewhere")
        assert not is_alive(first)
        assert int(Path(started).read_text()) in hosts.processes("h2")
        hosts.heal("h1")
        Path(release).touch()
        assert task.result(DEADLINE) == int(Path(started).read_text()) != first
        assert [each.result(DEADLINE) for each in behind] == [str(number) for number in range(50)]

    assert task.record().attempts == 2
    assert Counter(Path(log).read_text().split()) == Counter(["warm", *map(str, range(50))])


def test_outcomes_that_come_too_late_are_dropped(hosts: Hosts, tmp_path: Path) -> None:
    """The task ends there while nobody can hear of it; here it is lost, and stays so when the link is whole again."""
    started, release, ended = str(tmp_path / "started"), str(tmp_path / "release"), str(tmp_path / "ended")
    launcher = HostLauncher(hosts, ["h1"], lost_after=4.0)
    with executor_of(launcher, 1) as executor:
        task = executor.submit(end_during_cut, started, release, ended)
        wait_until(Path(started).exists, "the task runs")
        launcher.names[:] = ["h2"]
        hosts.cut("h1")
        Path(release).touch()
        wait_until(Path(ended).exists, "the task has ended")
        error = task.exception(DEADLINE)
        assert isinstance(error, WorkerCrashError)
        hosts.heal("h1")
        assert executor.submit(host_name).result(DEADLINE) == "h2"
        wait_until(lambda: not hosts.processes("h1"), "the silent host has ended all")
        assert task.exception() is error
        assert Counter(each.host for each in executor.stats().workers) == {"h2": 1}


# ---------------------------------------------------------------------- links are bad


def test_a_lossy_long_and_slow_link_carries_everything(hosts: Hosts, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    for name in hosts.names:
        hosts.delay(name, 30)
        hosts.rate(name, "10mbit")
        hosts.loss(name, 10)
    launcher = HostLauncher(hosts, workers_per_job=2, lost_after=30.0)
    data = os.urandom(100_000)
    with executor_of(launcher, 4) as executor:
        handle = executor.share(data)
        assert executor.submit(digest, handle).result(LONG) == digest(data)
        assert executor.submit(echo, data).result(LONG) == data
        assert list(executor.map(add, range(1000), range(1000))) == list(range(0, 2000, 2))
        tasks = [executor.submit(append_line, log, str(number)) for number in range(200)]
        assert [task.result(LONG) for task in tasks] == [str(number) for number in range(200)]
        for name in hosts.names:  # the farewell need not be lossy
            hosts.loss(name, 0)

    assert sorted(map(int, Path(log).read_text().split())) == list(range(200))
    assert len(launcher.jobs) <= 2


def test_a_link_that_is_full_is_not_taken_for_a_lost_host(hosts: Hosts, caplog: pytest.LogCaptureFixture) -> None:
    """10 MB take 8 s, which is more than lost_after, and they go there and back."""
    hosts.rate("h1", "10mbit")
    launcher = HostLauncher(hosts, ["h1"], workers_per_job=2, lost_after=5.0)
    data = os.urandom(10_000_000)
    with executor_of(launcher) as executor:
        assert executor.submit(host_name).result(DEADLINE) == "h1"
        back = executor.submit(echo, data)
        assert [executor.submit(add, number, 1).result(LONG) for number in range(10)] == list(range(1, 11))
        assert back.result(LONG) == data
        assert _link_of(executor).links == 1

    assert len(launcher.jobs) == 1
    assert "is lost" not in caplog.text


def test_a_share_leaves_the_client_once_for_each_host(hosts: Hosts) -> None:
    size = 5_000_000
    data = os.urandom(size)
    launcher = HostLauncher(hosts, workers_per_job=4)
    with executor_of(launcher, 8, min_workers=8) as executor:
        wait_for_workers(executor, 8)
        before = {name: bytes_to(name) for name in hosts.names}
        handle = executor.share(Array(data))
        results = list(executor.map(digest_there, [handle] * 64, range(64), chunksize=1))
        passed = {name: bytes_to(name) - before[name] for name in hosts.names}

    assert {each for _host, each in results} == {digest(data)}
    assert {host for host, _each in results} == set(hosts.names)
    for name in hosts.names:
        assert size < passed[name] < 1.2 * size


def bytes_to(host: str) -> int:
    """Return how much has left this machine for a host so far."""
    return int(Path(f"/sys/class/net/crewt-{host}/statistics/tx_bytes").read_text())


def test_a_task_that_holds_the_interpreters_lock_is_not_taken_for_death(hosts: Hosts) -> None:
    launcher = HostLauncher(hosts, lost_after=4.0)
    with executor_of(launcher, 2, min_workers=2) as executor:
        wait_for_workers(executor, 2)
        tasks = [executor.submit(hold_the_lock, 7.0) for _ in range(2)]
        assert sorted(task.result(DEADLINE) for task in tasks) == hosts.names

    assert len(launcher.jobs) == 2


# ---------------------------------------------------------------------- strangers at the port

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
        assert _link_of(executor).links == 1
        assert [task.result() for task in tasks] == [str(number) for number in range(200)]

    assert sorted(map(int, Path(log).read_text().split())) == list(range(200))
    with recorders[0] as recorder:
        recorder.kill()
