"""`doctor --launcher ssh` against real ssh servers on hosts of their own: what it says when all is well, or is not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .hosts import Hosts
from .sshd import SSHServers, missing_on_hosts

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(missing_on_hosts() is not None, reason=str(missing_on_hosts())),
    pytest.mark.timeout(120),
]


def call(config: object, *words: str, host: str = "h1") -> tuple[int, str, str]:
    command = [sys.executable, "-m", "crew_executor", "doctor", "--launcher", "ssh", "--host", host]
    options = ["--option=-F", f"--option={config}"]
    run = subprocess.run([*command, *words, *options], capture_output=True, text=True, timeout=100, check=False)
    return run.returncode, run.stdout, run.stderr


def states_in(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines()[:-2] if not line.startswith("      ")]


@pytest.mark.parametrize("words", [[], ["--tunnel"], ["--address", "head"]])
def test_a_sound_host_passes_all_steps_and_nothing_is_left_there(
    hosts: Hosts, servers: SSHServers, words: list[str]
) -> None:
    words = [hosts.head if word == "head" else word for word in words]
    before = set(hosts.processes("h1"))
    status, out, err = call(servers.config, *words)

    assert (status, err) == (0, "")
    assert states_in(out) == ["ok"] * 8
    assert "h1: a worker on h1 (pid " in out
    left = out.splitlines()[7]
    assert "nothing is left there" in left
    assert set(hosts.processes("h1")) <= before
    assert len([word for word in left.split() if word.strip(",").isdecimal()]) == 3, "worker, supervisor, agent"


def test_several_hosts_are_tried_one_after_the_other(servers: SSHServers) -> None:
    status, out, err = call(servers.config, "--host", "h9", "--host", "h2")

    assert (status, err) == (1, "")
    assert "h1: a worker on h1 (pid " in out
    assert "FAIL  h9: ssh does not get in without asking: it ended with exit code 255" in out
    assert "no host has this name" in out
    assert "h2: a worker on h2 (pid " in out


def test_a_key_that_is_refused_is_told(servers: SSHServers) -> None:
    status, out, _err = call(servers.wrong_config)

    assert (status, states_in(out)) == (1, ["ok", "FAIL"])
    assert "Permission denied (publickey)" in out
    assert "the key is refused" in out


def test_an_unknown_server_key_is_told(servers: SSHServers) -> None:
    status, out, _err = call(servers.config, "--option=-o", "--option=UserKnownHostsFile=/dev/null")

    assert (status, states_in(out)) == (1, ["ok", "FAIL"])
    assert "Host key verification failed" in out
    assert "the host's own key is unknown or has changed" in out


def test_a_host_without_a_server_and_one_that_is_down_are_told_apart(hosts: Hosts, servers: SSHServers) -> None:
    servers.stop("h2")
    status, out, _err = call(servers.config, host="h2")
    assert (status, states_in(out)) == (1, ["ok", "FAIL"])
    assert "Connection refused" in out
    assert "is sshd running?" in out

    hosts.cut("h2")
    status, out, _err = call(servers.config, "--option=-o", "--option=ConnectTimeout=1", host="h2")
    assert (status, states_in(out)) == (1, ["ok", "FAIL"])
    assert "timed out" in out
    assert "is it up" in out


def test_a_host_that_cannot_reach_the_given_address_is_told_what_to_try(servers: SSHServers) -> None:
    """192.0.2.1 is nobody's (RFC 5737), and routed to nowhere from the hosts."""
    status, out, _err = call(servers.config, "--address", "192.0.2.1", "--timeout", "3")

    assert (status, states_in(out)) == (1, ["ok"] * 6 + ["FAIL"])
    assert "agents are to come to 192.0.2.1:" in out
    assert "the client could not be reached" in out
    assert "(--tunnel)" in out


def test_a_server_that_forbids_tunnels_is_told(hosts: Hosts) -> None:
    with SSHServers(hosts, "AllowTcpForwarding no") as servers:
        status, out, _err = call(servers.config, "--tunnel")

    assert (status, states_in(out)) == (1, ["ok"] * 6 + ["FAIL"])
    assert "remote port forwarding failed" in out
    assert "AllowTcpForwarding" in out


def test_a_shell_with_words_of_its_own_and_an_interpreter_that_is_not_there_are_told(servers: SSHServers) -> None:
    startup = servers.folder / "home" / ".bashrc"  # sshd's child reads it before each command, if the shell is bash
    startup.write_text("echo Welcome\n")
    status, out, _err = call(servers.config, "--python", "/nope/python")

    assert status == 1
    assert "there is no interpreter /nope/python: it ended with exit code 127" in out
    assert "--python PATH" in out
    if "note" in states_in(out):  # another login shell has no such file
        assert "words of its own, which does workers no harm:\n      Welcome\n" in out
