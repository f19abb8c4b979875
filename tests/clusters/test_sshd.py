"""Real ssh clients get into the servers with the right key only, and nothing they start there outlives the servers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import Hosts, is_alive, wait_until
from .sshd import PRIVILEGES, SSHServers, missing, missing_on_hosts

pytestmark = [pytest.mark.network, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
on_hosts = pytest.mark.skipif(missing_on_hosts() is not None, reason=str(missing_on_hosts()))


def call(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.fixture
def local() -> Iterator[SSHServers]:
    with SSHServers(None) as servers:
        yield servers


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Hosts(2) as made:
        yield made


@pytest.fixture
def servers(hosts: Hosts) -> Iterator[SSHServers]:
    with SSHServers(hosts) as made:
        yield made


@on_hosts
def test_a_command_runs_on_each_host(hosts: Hosts, servers: SSHServers) -> None:
    remote = "hostname; echo $SSH_CONNECTION; exit 7"
    for name in ("h1", "h2"):
        status, output, complaint = call(servers.ssh(name, remote))

        assert (7, "") == (status, complaint)
        host, client, _, server, port = output.split()
        assert (name, hosts.head, hosts.address(name), "22") == (host, client, server, port)
        assert str(servers.port(name)) == port


@on_hosts
def test_a_host_is_reached_by_address_and_from_another_host(hosts: Hosts, servers: SSHServers) -> None:
    assert (0, "h2", "") == call(servers.ssh(hosts.address("h2"), "hostname"))
    with hosts.run("h1", servers.ssh("h2", "echo ${SSH_CLIENT%% *}"), stdout=subprocess.PIPE, text=True) as process:
        assert hosts.address("h1") == process.communicate(timeout=30)[0].strip()


@on_hosts
def test_a_host_that_is_cut_or_crashed_does_not_answer(hosts: Hosts, servers: SSHServers) -> None:
    hosts.crash("h1")
    status, _, complaint = call(servers.ssh("h1", "hostname", options=["-o", "ConnectTimeout=1"]))
    assert (255, True) == (status, "timed out" in complaint)
    assert (0, "h2", "") == call(servers.ssh("h2", "hostname"))

    hosts.heal("h1")
    status, _, complaint = call(servers.ssh("h1", "hostname"))
    assert (255, True) == (status, "Connection refused" in complaint)
    servers.start("h1")
    assert (0, "h1", "") == call(servers.ssh("h1", "hostname"))


@on_hosts
def test_a_tunnel_leads_from_a_host_to_the_head(hosts: Hosts, servers: SSHServers) -> None:
    """With a server of our own on 127.0.0.1 as its end: what it says comes out on the host."""
    with SSHServers(None) as local:
        tunnel = ["-o", "ExitOnForwardFailure=yes", "-R", f"127.0.0.1:7777:127.0.0.1:{local.port('local')}"]
        greet = "exec 3<>/dev/tcp/127.0.0.1/7777; read -r line <&3; echo $line"
        status, output, _ = call(servers.ssh("h1", f"bash -c '{greet}'", options=tunnel))

    assert (0, True) == (status, output.startswith("SSH-2.0-"))


def test_a_command_runs_on_this_machine(local: SSHServers) -> None:
    assert ["local"] == local.names
    assert (0, f"127.0.0.1 {local.port('local')}", "") == call(local.ssh("local", "set $SSH_CONNECTION; echo $3 $4"))
    assert (3, "", "") == call(local.ssh("127.0.0.1", "exit 3", options=["-p", str(local.port("local"))]))
    assert "Accepted publickey" in local.log("local")


def test_a_wrong_key_is_refused(local: SSHServers) -> None:
    for _ in range(5):  # and it is not held against us
        status, output, complaint = call(["ssh", "-F", str(local.wrong_config), "local", "hostname"])
        assert (255, "") == (status, output)
        assert "Permission denied (publickey)" in complaint
    assert 0 == call(local.ssh("local", "hostname"))[0]


def test_an_unknown_server_is_not_trusted(local: SSHServers, tmp_path: Path) -> None:
    status, _, complaint = call(local.ssh("local", "true", options=["-o", f"UserKnownHostsFile={tmp_path / 'none'}"]))

    assert 255 == status
    assert "Host key verification failed" in complaint


def test_a_line_of_configuration_wins() -> None:
    with SSHServers(None, "ForceCommand echo forced") as servers:
        assert (0, "forced", "") == call(servers.ssh("local", "true"))


def test_a_server_that_does_not_start_tells_why() -> None:
    with pytest.raises(RuntimeError, match="NoSuchWord"), SSHServers(None, "NoSuchWord yes"):
        pass


@pytest.mark.parametrize("place", ["local", pytest.param("h1", marks=on_hosts)])
def test_nothing_outlives_the_servers(place: str, request: pytest.FixtureRequest) -> None:
    """Neither a session in progress nor a daemon that left it; /run/sshd stays only if it was there."""
    was_there = PRIVILEGES.exists()
    hosts = request.getfixturevalue("hosts") if place == "h1" else None
    with SSHServers(hosts) as servers:
        client = subprocess.Popen(servers.ssh(place, "sleep 100"), stderr=subprocess.DEVNULL)
        daemon = int(call(servers.ssh(place, "setsid sleep 100 </dev/null >/dev/null 2>&1 & echo $!"))[1])
        wait_until(lambda: servers.log(place).count("Accepted") == 2, "both are in")
        folder = servers.folder
        assert is_alive(daemon)

    assert 255 == client.wait(10)
    assert not is_alive(daemon)
    assert not folder.exists()
    assert was_there == PRIVILEGES.exists()


def test_a_stopped_server_can_be_started_again(local: SSHServers) -> None:
    port = local.port("local")
    local.stop("local")
    assert 255 == call(local.ssh("local", "true"))[0]
    local.start("local")
    assert port == local.port("local")
    assert 0 == call(local.ssh("local", "true"))[0]
