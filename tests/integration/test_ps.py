"""`ps` and `kill`: what they say and do while clients work, stand still, or are gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crew_executor import CrewExecutor, registry

from .helpers import identity, wait_until

CLIENT = """
import sys, time
from crew_executor import CrewExecutor

def nap():
    time.sleep(100)

sleeper, other = CrewExecutor(2, name="sleeper"), CrewExecutor(1, name="other")
futures = [sleeper.submit(nap) for _ in range(2)]
other.submit(len, "abc").result()
while not all(future.running() for future in futures) or {w.state for w in sleeper.stats().workers} != {"busy"}:
    time.sleep(0.01)
print("ready", flush=True)
for future in futures:
    try:
        print(type(future.exception()).__name__, flush=True)
    except BaseException as error:
        print(type(error).__name__, flush=True)
print(other.submit(len, "abc").result(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "registry"))
    return tmp_path / "registry"


@pytest.fixture
def client(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            supervisor = supervisor_of(process, folder)
            process.kill()
            if supervisor is not None and is_alive(supervisor):  # one that a test has stopped
                os.kill(supervisor, signal.SIGKILL)


def supervisor_of(client: subprocess.Popen[str], folder: Path) -> int | None:
    found = [int(path.name.split("-")[1]) for path in folder.glob(f"{client.pid}-*")]
    return found[0] if found else None


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def call(*words: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "crew_executor", *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    return run.returncode, run.stdout, run.stderr


def listed() -> list[dict[str, Any]]:
    status, out, err = call("ps", "--json")
    assert (status, err) == (0, "")
    found: list[dict[str, Any]] = json.loads(out)
    return found


def pids_in(household: dict[str, Any], name: str) -> list[int]:
    return [
        each["pid"] for executor in household["executors"] if executor["name"] == name for each in executor["workers"]
    ]


def test_nobody_is_listed_where_nobody_is() -> None:
    assert call("ps") == (0, "no executor of this user is running on this machine\n", "")
    assert listed() == []
    assert call("kill", "--all") == (0, "", "")


def test_executors_and_workers_are_listed_with_what_they_do(client: subprocess.Popen[str], folder: Path) -> None:
    status, out, _err = call("ps")
    (household,) = listed()
    figures = {each["name"]: (each["running"], each["done"], len(each["workers"])) for each in household["executors"]}

    assert status == 0
    assert f"client {client.pid}, supervisor {supervisor_of(client, folder)}: -c" in out
    assert "sleeper  0 queued, 2 running, 0 done; 2 of at most 2 workers" in out
    assert figures == {"sleeper": (2, 0, 2), "other": (0, 1, 1)}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_kill_ends_one_executor_and_leaves_the_client_and_its_others(client: subprocess.Popen[str]) -> None:
    (household,) = listed()
    workers = pids_in(household, "sleeper")
    status, out, _err = call("kill", "sleeper")

    assert status == 0
    assert "ended by its client" in out
    assert client.stdout is not None
    assert [client.stdout.readline() for _ in range(3)] == ["WorkerCrashError\n", "WorkerCrashError\n", "3\n"]
    assert not any(is_alive(pid) for pid in workers)
    (after,) = listed()
    assert "sleeper" not in {each["name"] for each in after["executors"] if each["workers"]}


def test_a_run_is_meant_by_its_beginning_if_it_is_the_only_one(client: subprocess.Popen[str]) -> None:
    (household,) = listed()
    runs = {each["name"]: each["run"] for each in household["executors"]}

    status, _out, err = call("kill", "nothing")
    assert status == 1
    assert "no run is 'nothing'; there are:" in err
    assert runs["sleeper"] in err
    assert call("kill")[0] == 2
    assert call("kill", runs["other"][:12])[0] == 0
    assert client.poll() is None


def test_a_client_that_stands_still_is_told_by_its_supervisor(client: subprocess.Popen[str]) -> None:
    os.kill(client.pid, signal.SIGSTOP)
    (household,) = listed()
    workers = pids_in(household, "sleeper")
    assert household["answers"] == "supervisor"
    assert len(workers) == 2
    status, out, _err = call("kill", "sleeper")

    assert status == 0
    assert "does not answer: 2 workers were killed by their supervisor" in out
    wait_until(lambda: not any(is_alive(pid) for pid in workers), "they are dead")
    os.kill(client.pid, signal.SIGCONT)
    assert client.stdout is not None
    assert {client.stdout.readline() for _ in range(2)} <= {"WorkerCrashError\n", "CancelledError\n"}
    assert client.stdout.readline() == "3\n", "the other executor goes on"


def test_when_nobody_answers_the_supervisor_is_killed_and_its_workers_with_it(
    client: subprocess.Popen[str], folder: Path
) -> None:
    (household,) = listed()
    workers = pids_in(household, "sleeper") + pids_in(household, "other")
    supervisor = supervisor_of(client, folder)
    assert supervisor is not None
    for pid in (client.pid, supervisor):
        os.kill(pid, signal.SIGSTOP)
    assert [each["answers"] for each in listed()] == [""]
    status, out, _err = call("kill", f"client-{client.pid}")

    assert status == 0
    assert f"supervisor {supervisor} was killed" in out
    wait_until(lambda: not any(is_alive(pid) for pid in (supervisor, *workers)), "all are dead")
    assert listed() == []


@pytest.mark.parametrize("victim", ["client", "supervisor"])
def test_nothing_is_listed_of_the_dead_and_no_socket_left(
    client: subprocess.Popen[str], folder: Path, victim: str
) -> None:
    supervisor = supervisor_of(client, folder)
    assert supervisor is not None
    os.kill(client.pid if victim == "client" else supervisor, signal.SIGKILL)

    wait_until(lambda: not (folder / f"{client.pid}-{supervisor}").exists(), "its socket is gone")
    assert supervisor not in {each["supervisor_pid"] for each in listed()}


def test_a_socket_of_nobody_is_removed_by_who_finds_it(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "1-2"))
    assert listed() == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_callers_that_talk_nonsense_do_no_harm(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    client = subprocess.Popen([sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        sockets = list(folder.iterdir())
        assert len(sockets) == (mode == 0o700), "a folder that others can read is not used"
        for path in sockets:
            for nonsense in (b"\x04\0\0\0null", b"\x02\0\0\0{}", b'\x0d\0\0\0{"ask": "end"}', b"\xff" * 9, b""):
                with socket.socket(socket.AF_UNIX) as caller:
                    caller.connect(str(path))
                    caller.sendall(nonsense)
            (household,) = listed()
            assert len(pids_in(household, "sleeper")) == 2
        client.kill()


def test_the_listing_costs_the_executor_nothing_it_must_not(folder: Path) -> None:
    """A folder that cannot be made is no reason to refuse work."""
    folder.write_text("a file is in its place")
    script = "from crew_executor import CrewExecutor\nwith CrewExecutor(1) as e: print(e.submit(len, 'abc').result())"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)

    assert (run.stdout, run.stderr) == ("3\n", "")


def test_this_process_is_listed_by_what_it_has_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own supervisor was started with another folder, where it is still found."""
    monkeypatch.delenv(registry.FOLDER_VARIABLE)
    with CrewExecutor(1, name="of-the-tests") as executor:
        executor.submit(identity, 1).result()
        names = {each["name"] for household in listed() for each in household["executors"]}
        assert "of-the-tests" in names
