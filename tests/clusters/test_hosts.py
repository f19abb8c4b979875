"""Hosts are told apart, and what is done to their links and processes is what a client on the head gets to see."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .hosts import FOLDER, LOCK, NAMES, Hosts, is_alive, missing, which

if TYPE_CHECKING:
    from typing_extensions import Self

pytestmark = [pytest.mark.network, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

ECHO = """
import errno, socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
try:
    while data := connection.recv(65536):
        connection.sendall(data)
except OSError as error:
    print(errno.errorcode[error.errno])
else:
    print("end")
"""

DATAGRAMS = """
import socket, sys
for _ in range(200):  # more do not fit into the receiver's queue
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"", (sys.argv[1], int(sys.argv[2])))
"""


def traces() -> dict[str, object]:
    """What a Hosts could leave on this machine."""
    nft = which("nft")
    assert nft
    return {
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "names": NAMES.read_text("utf-8"),
        "rules": subprocess.run([nft, "list", "ruleset"], check=True, capture_output=True, text=True).stdout,
        "mounts": sorted(line for line in Path("/proc/mounts").read_text("utf-8").splitlines() if "crewt" in line),
        "files": [FOLDER.exists(), LOCK.exists()],
    }


def program(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def output_of(hosts: Hosts, host: str, *argv: str) -> str:
    with hosts.run(host, argv, stdout=subprocess.PIPE, text=True) as process:
        return str(process.communicate(timeout=20)[0]).strip()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Hosts(2) as made:
        yield made


class Line:
    """A connection to an echo on h1, which called the head."""

    def __init__(self, hosts: Hosts) -> None:
        with socket.create_server((hosts.head, 0)) as server:
            self.port = server.getsockname()[1]
            self.process = hosts.run("h1", program(ECHO, hosts.head, self.port), stdout=subprocess.PIPE, text=True)
            self.head, self.peer = server.accept()
        self.head.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert self.seconds_for(b"hello") < 5

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.head.close()
        self.process.kill()
        self.process.communicate()

    def seconds_for(self, data: bytes, patience: float = 20) -> float:
        """Send it, get it back."""
        start = time.monotonic()
        self.head.settimeout(patience)
        self.head.sendall(data)
        self.receive(len(data), patience)
        return time.monotonic() - start

    def receive(self, size: int, patience: float) -> None:
        self.head.settimeout(patience)
        while size:
            data = self.head.recv(size)
            assert data, "closed"
            size -= len(data)

    def is_silent(self, seconds: float) -> bool:
        """Nothing comes, and no error. What is sent for it comes back later: two bytes."""
        with contextlib.suppress(TimeoutError):
            self.seconds_for(b"??", seconds)
            return False
        return True


@pytest.fixture
def line(hosts: Hosts) -> Iterator[Line]:
    with Line(hosts) as made:
        yield made


def test_each_host_has_a_name_and_an_address_of_its_own(hosts: Hosts, line: Line) -> None:
    assert ["h1", "h2"] == hosts.names
    assert ["h1", "h2"] == [output_of(hosts, name, "hostname") for name in hosts.names]
    assert hosts.address("h1") == line.peer[0] != hosts.address("h2")
    assert hosts.address("head") == hosts.head


def test_names_are_known_on_the_head_and_on_hosts(hosts: Hosts) -> None:
    look_up = "import socket, sys; print(*map(socket.gethostbyname, sys.argv[1:]))"

    assert hosts.address("h1") == socket.gethostbyname("h1")
    assert f"{hosts.head} {hosts.address('h1')}" == output_of(hosts, "h2", *program(look_up, "head", "h1"))


def test_a_process_runs_in_the_same_files_under_its_own_number(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text", "utf-8")
    code = "import os; print(os.getpid(), open('file').read(), os.environ['WORD'])"
    options = {"cwd": tmp_path, "env": {"WORD": "word"}, "stdout": subprocess.PIPE, "text": True}

    with hosts.run("h2", program(code), **options) as process:
        assert f"{process.pid} text word\n" == process.communicate()[0]


def test_the_processes_of_a_host_are_found(hosts: Hosts, line: Line) -> None:
    assert [line.process.pid] == hosts.processes("h1")
    assert [] == hosts.processes("h2")


def test_an_unknown_program_ends_with_127(hosts: Hosts) -> None:
    with hosts.run("h1", ["no-such-program"], stderr=subprocess.DEVNULL) as process:
        assert 127 == process.wait()


def test_a_cut_link_is_silent_and_its_connection_lives_on_when_it_is_healed(hosts: Hosts, line: Line) -> None:
    hosts.cut("h1")
    assert line.is_silent(0.5)
    assert line.process.poll() is None

    hosts.heal("h1")
    line.receive(2, 10)
    assert line.seconds_for(b"again") < 5


def test_a_new_connection_to_a_cut_host_gets_no_answer(hosts: Hosts) -> None:
    """Refused while the link is whole, since nobody listens. Not even "no route to host", which takes Linux 3 s."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((hosts.address("h1"), 99), timeout=5)
    hosts.cut("h1")
    with pytest.raises(TimeoutError):
        socket.create_connection((hosts.address("h1"), 99), timeout=4)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((hosts.address("h2"), 99), timeout=5)


def test_one_end_resets_and_the_other_meets_it(hosts: Hosts, line: Line) -> None:
    """Both are idle: nobody has to send something to learn of it."""
    assert 1 == hosts.reset("h1", line.port)

    line.head.settimeout(5)
    with pytest.raises(ConnectionResetError):
        line.head.recv(1)
    assert "ECONNABORTED" == line.process.communicate(timeout=5)[0].strip()


def test_the_head_resets_and_the_host_meets_it(hosts: Hosts, line: Line) -> None:
    assert 1 == hosts.reset("h1", line.port, by="head")

    assert "ECONNRESET" == line.process.communicate(timeout=5)[0].strip()
    line.head.settimeout(5)
    with pytest.raises(ConnectionAbortedError):
        line.head.recv(1)


def test_a_reset_spares_other_connections_and_listening_sockets(hosts: Hosts, line: Line) -> None:
    with socket.create_server((hosts.head, 0)) as server:
        port = server.getsockname()[1]
        hosts.run("h2", program(ECHO, hosts.head, port), stdout=subprocess.DEVNULL)
        other = server.accept()[0]
        with other:
            assert 0 == hosts.reset("h1", port, by="head")
            assert 1 == hosts.reset("h2", port, by="head")
            assert errno.ECONNABORTED == other.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        hosts.run("h2", program(ECHO, hosts.head, port), stdout=subprocess.DEVNULL)
        server.accept()[0].close()
    assert line.seconds_for(b"still here") < 5


def test_a_crashed_host_is_silent_and_comes_back_empty(hosts: Hosts, line: Line) -> None:
    deaf = hosts.run("h1", program("import time; time.sleep(100)"), start_new_session=True)
    other = hosts.run("h2", program("import time; time.sleep(100)"))
    hosts.crash("h1")
    assert [] == hosts.processes("h1")
    assert [-signal.SIGKILL] * 2 == [deaf.returncode, line.process.returncode]
    assert other.poll() is None
    assert line.is_silent(0.5)

    hosts.heal("h1")
    line.head.settimeout(10)
    with pytest.raises(ConnectionResetError):  # what we sent is sent again, and the rebooted host knows nothing of it
        line.head.recv(1)
    assert "h1" == output_of(hosts, "h1", "hostname")


def test_a_link_can_be_slow(hosts: Hosts, line: Line) -> None:
    hosts.rate("h1", "20mbit")  # 0.4 s for a megabyte
    assert 0.2 < line.seconds_for(bytes(1_000_000)) < 5
    hosts.rate("h1", "1gbit")
    hosts.rate("h1", None)
    hosts.rate("h1", None)
    assert line.seconds_for(bytes(1_000_000)) < 0.2


def test_a_link_can_be_long(hosts: Hosts, line: Line) -> None:
    quickest = min(line.seconds_for(b"x") for _ in range(20))
    hosts.delay("h1", 30)
    assert 0.06 <= min(line.seconds_for(b"x") for _ in range(5)) < 0.2
    hosts.delay("h1", 10)
    assert 0.02 <= min(line.seconds_for(bytes(100_000)) for _ in range(5)) < 0.2
    hosts.cut("h1")
    assert line.is_silent(0.3)
    hosts.heal("h1")
    line.receive(2, 10)
    hosts.delay("h1", 0)
    hosts.delay("h1", 0)
    assert quickest < 0.01 > min(line.seconds_for(b"x") for _ in range(20))


def test_a_link_can_be_lossy(hosts: Hosts, line: Line) -> None:
    def share_of_lost() -> float:
        with socket.socket(type=socket.SOCK_DGRAM) as receiver:
            receiver.bind((hosts.head, 0))
            receiver.settimeout(0.3)
            output_of(hosts, "h1", *program(DATAGRAMS, *receiver.getsockname()))
            arrived = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    receiver.recv(1)
                    arrived += 1
            return 1 - arrived / 200

    hosts.loss("h1", 25)
    assert 0.1 < share_of_lost() < 0.4
    assert line.seconds_for(bytes(20_000)) < 20  # TCP gets it through
    hosts.cut("h1")
    assert 1 == share_of_lost()
    hosts.heal("h1")
    assert 0.1 < share_of_lost() < 0.4
    hosts.loss("h1", 0)
    assert 0 == share_of_lost()


def test_leaving_removes_everything() -> None:
    before = traces()
    with Hosts(2) as hosts:
        process = hosts.run("h1", ["sleep", "100"])
        hosts.delay("h1", 5)
        hosts.rate("h2", "1mbit")
        hosts.loss("h2", 50)
        assert before != traces()

    assert before == traces()
    assert -signal.SIGKILL == process.returncode


def test_one_that_is_killed_is_removed_by_the_next() -> None:
    before = traces()
    code = """if True:
        import os, signal
        from clusters.hosts import Hosts
        with Hosts(3) as hosts:
            print(hosts.run("h3", ["sleep", "100"], stdout=-3, stderr=-3).pid, flush=True)
            hosts.delay("h1", 5)
            hosts.cut("h2")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": tests}
    killed = subprocess.run(program(code), stdout=subprocess.PIPE, text=True, env=environment, check=False)
    assert before != traces()

    with Hosts(1) as hosts:
        assert not is_alive(int(killed.stdout))
        assert "h1" == output_of(hosts, "h1", "hostname")
    assert before == traces()


def test_one_that_fails_to_come_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = traces()
    monkeypatch.setenv("CREW_EXECUTOR_TEST_SUBNET", "10.78.9.0/27")
    with Hosts(1) as hosts:
        assert "10.78.9.1" == hosts.head
        with pytest.raises(RuntimeError, match="this process has hosts already"), Hosts(1):
            pass
    with monkeypatch.context() as patch:
        patch.setattr("clusters.hosts.BRIDGE", "crewt-a-name-too-long")
        with pytest.raises(RuntimeError, match="ip -batch"), Hosts(1):
            pass
    monkeypatch.setattr("clusters.hosts._uts", lambda host: FOLDER / "no" / host)
    with pytest.raises(FileNotFoundError), Hosts(2):
        pass

    assert before == traces()
