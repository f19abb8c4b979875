"""Workers that real ssh clients start on network hosts, through real ssh servers."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
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
from integration.helpers import DEADLINE, add, append_line, touch_and_wait, wait_until
from integration.launching import executor_of, failure_of

from crew_executor.launchers import Job, JobState, Launcher
from crew_executor.launchers.ssh import SSHLauncher
from crew_executor.testing import LauncherConformance

from .conftest import guests_of, is_empty, wait_for_empty
from .hosts import Hosts
from .sshd import SSHServers, missing_on_hosts

pytestmark = [
    pytest.mark.network,
    pytest.mark.timeout(120, func_only=True),  # not the wait for hosts, which another run may have
    pytest.mark.skipif(missing_on_hosts() is not None, reason=str(missing_on_hosts())),
]

GONE_SECONDS = 10.0
"""Within so much all has ended on a host whose client was killed."""


def launcher_of(servers: SSHServers, *hosts: str, **options: Any) -> SSHLauncher:
    """Return a launcher on these hosts, or on all. Its ssh knows them by a configuration of its own."""
    options = {"options": ("-F", str(servers.config)), **options}
    return SSHLauncher(hosts or servers.names, **options)


def ssh_clients(config: Path) -> list[psutil.Process]:
    """Return the ssh clients with this configuration, whoever their parent is now."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "ssh" and str(config) in (process.info["cmdline"] or []):
            found.append(process)
    return found


def host_and_pid(started: str, release: str) -> tuple[str, int]:
    """Start, wait to be released, and tell where."""
    return socket.gethostname(), touch_and_wait(started, release)


class TestSSHLauncher(LauncherConformance):
    """The contract."""

    @pytest.fixture(autouse=True)
    def _on_hosts(self, hosts: Hosts, servers: SSHServers) -> None:
        self._hosts = hosts
        self._servers = servers

    def launcher(self, **options: Any) -> SSHLauncher:
        """Return one."""
        return launcher_of(self._servers, **options)

    def refused_launcher(self, **options: Any) -> SSHLauncher:
        """Return one with a key that no server lets in."""
        return launcher_of(self._servers, options=("-F", str(self._servers.wrong_config)), **options)

    def end_from_outside(self, launcher: Launcher, host: str, pid: int) -> bool:
        """Kill the agent, there."""
        agents = [each for each in guests_of(self._hosts, host) if _is_agent(each)]
        assert len(agents) == 1
        os.kill(agents[0], signal.SIGKILL)
        return True

    @contextlib.contextmanager
    def _silence_of(self, host: str) -> Iterator[None]:
        self._hosts.cut(host)
        try:
            yield
        finally:
            self._hosts.heal(host)

    def lose(self, host: str) -> Any:
        """Cut its link."""
        return self._silence_of(host)

    def client_script(self) -> str:
        """Make one."""
        return (
            "from crew_executor.launchers.ssh import SSHLauncher\n"
            f"launcher = SSHLauncher({self._servers.names!r}, options=('-F', {str(self._servers.config)!r}))"
        )

    def is_alive(self, host: str, pid: int) -> bool:
        """Look there."""
        return pid in self._hosts.processes(host)


def _is_agent(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).cmdline()[1:4] == ["-m", "crew_executor", "worker"]
    return False


# ---------------------------------------------------------------------- what works


def test_all_workers_of_a_host_come_through_one_connection(hosts: Hosts, servers: SSHServers) -> None:
    launcher = launcher_of(servers, workers_per_host=3)
    with executor_of(launcher, 6, min_workers=6) as executor:
        wait_until(lambda: sum(each.state == "idle" for each in executor.stats().workers) == 6, "all have come")

        assert Counter(each.host for each in executor.stats().workers) == {"h1": 3, "h2": 3}
        assert len(ssh_clients(servers.config)) == 2
        assert list(executor.map(add, range(500), range(500))) == list(range(0, 1000, 2))

    assert [servers.log(name).count("Accepted") for name in servers.names] == [1, 1]
    assert ssh_clients(servers.config) == []


def test_the_options_of_the_user_come_first(servers: SSHServers) -> None:
    """Here a key that lets in, beside a configuration with one that does not; and a word of ours is overruled."""
    options = ("-F", str(servers.wrong_config), "-i", str(servers.identity), "-o", "ConnectTimeout=33")
    launcher = launcher_of(servers, "h1", options=options)
    with executor_of(launcher, 1) as executor:
        assert executor.submit(add, 1, 2).result(DEADLINE) == 3

    settled = subprocess.run(
        [*launcher.command("h1", ["true"])[:-2], "-G", "h1"], capture_output=True, text=True, check=True
    )
    assert "connecttimeout 33" in settled.stdout.splitlines()
    assert "batchmode yes" in settled.stdout.splitlines()


def test_a_host_that_cannot_reach_the_client_comes_back_through_ssh(hosts: Hosts, servers: SSHServers) -> None:
    launcher = launcher_of(servers, workers_per_host=2, tunnel=True)
    ports = []
    submit = launcher.submit

    def note(job: Job, number: int) -> Any:
        ports.append(job.port)
        return submit(job, number)

    launcher.submit = note  # type: ignore[method-assign]
    with executor_of(launcher, 4, min_workers=4) as executor:
        wait_until(lambda: sum(each.state == "idle" for each in executor.stats().workers) == 4, "all have come")
        assert list(executor.map(add, range(500), range(500))) == list(range(0, 1000, 2))
        assert executor.submit(len, bytes(3_000_000)).result(DEADLINE) == 3_000_000
        with pytest.raises(ConnectionRefusedError):  # nothing of the client is open to anybody else
            socket.create_connection((hosts.head, ports[0]), timeout=5)


def test_a_startup_file_that_prints_noise_does_no_harm(servers: SSHServers) -> None:
    home = servers.folder / "home"
    noise = "echo 'Welcome to this fine host!'; echo 'You have mail.' >&2\n"
    for name in (".bashrc", ".profile", ".bash_profile", ".zshenv"):
        (home / name).write_text(noise * 100, "utf-8")
    heard = subprocess.run(servers.ssh("h1", "true"), capture_output=True, text=True, check=True)
    if "Welcome to this fine host!" not in heard.stdout:
        pytest.skip("this user's shell reads no startup file for ssh's commands")
    with executor_of(launcher_of(servers, "h1"), 1) as executor:
        assert executor.submit(add, 1, 2).result(DEADLINE) == 3
        record_of = executor.options(capture_output=True).submit(print, "loud")
        record_of.result(DEADLINE)
        assert record_of.record().output == "loud\n"


def test_an_ssh_client_that_is_killed_does_no_harm_to_tasks(hosts: Hosts, servers: SSHServers, tmp_path: Path) -> None:
    started, release, log = str(tmp_path / "started"), str(tmp_path / "release"), str(tmp_path / "log")
    launcher = launcher_of(servers, "h1", workers_per_host=2)
    with executor_of(launcher) as executor:
        running = executor.submit(host_and_pid, started, release)
        wait_until(Path(started).exists, "the task runs")
        for client in ssh_clients(servers.config):
            client.kill()
        tasks = [executor.submit(append_line, log, str(number)) for number in range(300)]
        assert [task.result(DEADLINE) for task in tasks] == [str(number) for number in range(300)]
        Path(release).touch()
        assert running.result(DEADLINE) == ("h1", int(Path(started).read_text()))
        assert executor.stats().launched <= 2

    assert sorted(map(int, Path(log).read_text().split())) == list(range(300))
    assert servers.log("h1").count("Accepted") == 1


def test_an_agent_without_its_ssh_client_comes_back_when_its_link_breaks(
    hosts: Hosts, servers: SSHServers, tmp_path: Path
) -> None:
    """That the client of ssh has ended says nothing of the agent: its task must not be given up, nor run twice."""
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    launcher = launcher_of(servers, "h1", lost_after=40.0)
    with executor_of(launcher, 1) as executor:
        running = executor.submit(host_and_pid, started, release)
        wait_until(Path(started).exists, "the task runs")
        hosts.cut("h1")
        for client in ssh_clients(servers.config):
            client.kill()
        # So that the client finds it broken, not only silent; of the RST the agent does not hear.
        for port in _ports_from(hosts.head, hosts.address("h1")):
            hosts.reset("h1", port, by="head")
        time.sleep(6)  # the fleet asks about a job 2 s after its link was lost: what does not happen cannot be awaited
        assert not running.done()
        hosts.heal("h1")
        Path(release).touch()
        assert running.result(DEADLINE) == ("h1", int(Path(started).read_text()))


def _ports_from(head: str, host: str) -> list[int]:
    """Return the ports of this process to which a host is connected."""
    return [
        each.laddr.port for each in psutil.Process().net_connections("tcp")
        if each.status == "ESTABLISHED" and (each.laddr.ip, each.raddr.ip) == (head, host)
    ]  # fmt: skip


# ---------------------------------------------------------------------- what fails is told


def test_what_ssh_has_said_is_kept_when_its_host_is_tried_again(servers: SSHServers) -> None:
    launcher = launcher_of(servers, "h1", options=("-F", str(servers.wrong_config)))
    job = Job("crew-1", 1, 1, b"{}\n", {}, None, sys.executable, 1)
    (first,) = launcher.submit(job, 1)
    wait_until(lambda: launcher.poll([first])[first].state is JobState.ENDED, "it was refused")
    (second,) = launcher.submit(job, 1)

    assert "Permission denied" in launcher.explain(first)
    launcher.cancel([second])
    launcher.close()


@pytest.mark.parametrize(("name", "try_word"), [("missing", "the path it has there"), ("plain", "another path")])
def test_an_interpreter_that_is_not_there_or_none_is_told(
    servers: SSHServers, tmp_path: Path, name: str, try_word: str
) -> None:
    (tmp_path / "plain").write_text("not executable")
    path = str(tmp_path / name)
    text = failure_of(launcher_of(servers, "h1", python=path, max_failed_launches=1))

    assert f"{path} -m crew_executor worker -" in text  # the command
    assert text.count(path) >= 2  # and the words of the shell there
    assert "SSHLauncher(python=...)" in text
    assert try_word in text


def test_a_wrong_key_is_told(servers: SSHServers) -> None:
    config = str(servers.wrong_config)
    text = failure_of(launcher_of(servers, "h1", options=("-F", config), max_failed_launches=1))

    assert f"ssh -F {config}" in text
    assert "Permission denied (publickey)" in text
    assert "ended with exit code 255" in text
    assert "try the same command by hand" in text


def test_an_unknown_host_name_is_told(servers: SSHServers) -> None:
    text = failure_of(launcher_of(servers, "no-such-host.invalid", max_failed_launches=1))

    assert "Could not resolve hostname no-such-host.invalid" in text
    assert "try the same command by hand" in text


def test_a_host_that_does_not_answer_is_told(hosts: Hosts, servers: SSHServers) -> None:
    hosts.cut("h1")
    options = ("-F", str(servers.config), "-o", "ConnectTimeout=1")
    text = failure_of(launcher_of(servers, "h1", options=options, max_failed_launches=1))
    hosts.heal("h1")

    assert "timed out" in text
    assert "ConnectTimeout=1" in text
    assert "try the same command by hand" in text


def test_a_host_that_is_down_does_not_keep_the_others_from_working(hosts: Hosts, servers: SSHServers) -> None:
    servers.stop("h1")
    with executor_of(launcher_of(servers, workers_per_host=2), 4) as executor:
        assert executor.submit(host_name).result(DEADLINE) == "h2"
        assert list(executor.map(add, range(100), range(100))) == list(range(0, 200, 2))


def host_name() -> str:
    """Return where this is."""
    return socket.gethostname()


def test_a_server_that_forwards_nothing_is_told(hosts: Hosts) -> None:
    with SSHServers(hosts, "AllowTcpForwarding no") as servers:
        text = failure_of(launcher_of(servers, "h1", tunnel=True, max_failed_launches=1))

        assert "remote port forwarding failed" in text
        assert "-R 127.0.0.1:" in text


def test_an_agent_that_does_not_reach_the_client_says_what_it_tried(servers: SSHServers) -> None:
    """The client listens at its loopback only, and nobody has made a tunnel."""
    launcher = launcher_of(servers, "h1", host="127.0.0.1", startup_timeout=4.0, max_failed_launches=1)
    text = failure_of(launcher)

    assert "the agent runs there but does not reach this machine" in text
    assert "tried 127.0.0.1:" in text  # the agent's own words
    assert "did not come within startup_timeout=4 s" in text or "use tunnel=True" in text


def test_no_ssh_client_here_is_told() -> None:
    text = failure_of(SSHLauncher("h1", ssh="no-such-ssh", max_failed_launches=1))

    assert "there is no ssh client 'no-such-ssh' here" in text


# ---------------------------------------------------------------------- nothing stays

CLIENT = """
import sys
from crew_executor import CrewExecutor
from crew_executor.launchers.ssh import SSHLauncher
from crew_executor.testing import _sleep
launcher = SSHLauncher(sys.argv[2:], options=("-F", sys.argv[1]), workers_per_host=2)
executor = CrewExecutor(4, launcher=launcher, min_workers=4)
while sum(worker.state == "idle" for worker in executor.stats().workers) < 4:
    _sleep(0.05)
tasks = [executor.submit(_sleep, 600.0) for _ in range(4)]
while not all(task.running() for task in tasks):
    _sleep(0.05)
print("all work", flush=True)
tasks[0].result()
"""


def test_nothing_stays_on_hosts_when_the_client_is_killed(hosts: Hosts, servers: SSHServers) -> None:
    argv = [sys.executable, "-c", CLIENT, str(servers.config), *servers.names]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "all work\n"
        assert all(len(guests_of(hosts, name)) >= 3 for name in hosts.names)
        client.kill()

    for name in hosts.names:
        wait_until(functools.partial(is_empty, hosts, name), f"nothing is left on {name}", GONE_SECONDS)
    wait_until(lambda: not ssh_clients(servers.config), "its ssh clients have ended", GONE_SECONDS)


def test_nothing_stays_on_hosts_after_a_shutdown_even_with_tasks_that_run(
    hosts: Hosts, servers: SSHServers, tmp_path: Path
) -> None:
    started = str(tmp_path / "started")
    for tunnel in (False, True):
        with executor_of(launcher_of(servers, workers_per_host=2, tunnel=tunnel), 2) as executor:
            assert executor.submit(add, 1, 2).result(DEADLINE) == 3
            _ = executor.submit(touch_and_wait, started, str(tmp_path / "never"))
            wait_until(Path(started).exists, "the task runs")
            executor.kill_workers()

        wait_for_empty(hosts)
        assert ssh_clients(servers.config) == []
        Path(started).unlink()


def test_a_shutdown_while_ssh_waits_for_a_host_ends_soon(hosts: Hosts, servers: SSHServers) -> None:
    hosts.cut("h1")
    with executor_of(launcher_of(servers, "h1"), 1) as executor:
        _ = executor.submit(add, 1, 2)
        wait_until(lambda: bool(ssh_clients(servers.config)), "ssh tries")
        executor.shutdown(wait=False, cancel_futures=True)
    hosts.heal("h1")

    assert ssh_clients(servers.config) == []
