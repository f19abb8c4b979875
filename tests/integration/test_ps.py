"""`ps` and `kill`: what they say and do while clients work, stand still, or are gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crew_executor import CrewExecutor, callers, errors, processes, registry
from crew_executor.launchers import supervisor_handle
from crew_executor.supervisor_wire import recv_message, send_message

from .agents import ProcessLauncher
from .helpers import identity, is_alive, wait_until
from .launching import executor_of

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


@contextlib.contextmanager
def running(script: str, folder: Path, *words: str | bytes) -> Iterator[subprocess.Popen[str]]:
    """Run a client until it says that it is ready, and end it after the block."""
    command = [sys.executable, "-c", script, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            supervisor = supervisor_of(process, folder)
            process.kill()
            if supervisor is not None and is_alive(supervisor):  # one that a test has stopped
                os.kill(supervisor, signal.SIGKILL)


@pytest.fixture
def client(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with running(CLIENT, folder) as process:
        yield process


def supervisor_of(client: subprocess.Popen[str], folder: Path) -> int | None:
    found = [int(path.name.split("-")[1]) for path in folder.glob(f"{client.pid}-*")]
    return found[0] if found else None


def call(*words: str, **environment: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "crew_executor", *words]
    environ = {**os.environ, **environment}
    run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=environ)
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


def test_the_agent_of_a_launcher_on_this_machine_is_called_so(folder: Path) -> None:
    with executor_of(ProcessLauncher(), 1) as executor:
        executor.submit(len, "abc").result()
        (agent,) = [each for each in callers.find() if each.client_pid != os.getpid()]
        _status, out, _err = call("ps")

    assert agent.is_agent
    assert f"agent {agent.client_pid}, supervisor {agent.supervisor_pid}: " in out
    assert "\nclient " not in f"\n{out}"


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


def fill_queue_of(path: Path) -> contextlib.ExitStack:
    """Call until nobody else can, and the kernel tells no newcomer whose socket it is; hang up after the block."""
    stack = contextlib.ExitStack()
    with contextlib.suppress(BlockingIOError):
        while True:
            caller = stack.enter_context(socket.socket(socket.AF_UNIX))
            caller.setblocking(False)
            caller.connect(str(path))
    return stack


@pytest.mark.parametrize("is_full", [False, True])
def test_when_nobody_answers_the_supervisor_is_killed_and_its_workers_with_it(
    client: subprocess.Popen[str], folder: Path, is_full: bool
) -> None:
    (household,) = listed()
    workers = pids_in(household, "sleeper") + pids_in(household, "other")
    supervisor = supervisor_of(client, folder)
    assert supervisor is not None
    for pid in (client.pid, supervisor):
        os.kill(pid, signal.SIGSTOP)
    with fill_queue_of(folder / f"{client.pid}-{supervisor}") if is_full else contextlib.ExitStack():
        assert [each["answers"] for each in listed()] == [""]
        status, out, _err = call("kill", f"client-{client.pid}")

    assert status == 0
    assert f"supervisor {supervisor} was killed" in out
    wait_until(lambda: not any(is_alive(pid) for pid in (supervisor, *workers)), "all are dead")
    assert listed() == []


def test_a_client_that_lives_on_without_its_supervisor_is_named(client: subprocess.Popen[str], folder: Path) -> None:
    supervisor = supervisor_of(client, folder)
    assert supervisor is not None
    os.kill(supervisor, signal.SIGSTOP)
    _status, out, _err = call("kill", "--all")

    assert f"client {client.pid} is still there and may start workers again: `kill {client.pid}` ends it" in out
    assert client.stdout is not None
    assert [client.stdout.readline() for _ in range(3)] == ["WorkerCrashError\n", "WorkerCrashError\n", "3\n"]
    assert [each["client_pid"] for each in listed()] == [client.pid], "it has another supervisor"


def test_nobody_is_killed_for_a_number_in_a_name(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    with subprocess.Popen(["sleep", "60"]) as victim:
        path = folder / f"{os.getpid()}-{victim.pid}"  # a child of that client, and no supervisor
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            with fill_queue_of(path):
                status, out, _err = call("kill", "--all")
        assert "nothing was killed" in out
        assert (status, victim.poll()) == (0, None)
        victim.kill()


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


FORGOTTEN = """
import sys, time
from crew_executor import CrewExecutor

def submit(name):
    executor = CrewExecutor(1, name=name)
    future = executor.submit(time.sleep, 100)
    while {w.state for w in executor.stats().workers} != {"busy"}:
        time.sleep(0.01)
    if name == "dropped":
        executor.shutdown(wait=False)
    return future

futures = [submit("forgotten"), submit("dropped")]
unused, over = CrewExecutor(1, name="unused"), CrewExecutor(1, name="over")
over.submit(len, "abc").result()
over.shutdown()
print("ready", flush=True)
for future in futures:
    print(type(future.exception()).__name__, flush=True)
sys.stdin.read()
"""


def test_what_is_listed_is_what_lives_also_if_its_program_has_forgotten_it(folder: Path) -> None:
    with running(FORGOTTEN, folder) as client:
        (household,) = listed()
        names = [each["name"] for each in household["executors"]]
        assert names == ["forgotten", "dropped", "unused"]
        assert [len(pids_in(household, name)) for name in names] == [1, 1, 0]
        status, out, _err = call("kill", *names)
        assert status == 0
        assert out.count("ended by its client") == 3
        assert client.stdout is not None
        assert [client.stdout.readline() for _ in range(2)] == ["WorkerCrashError\n"] * 2
        assert [each["executors"] for each in listed()] == [[]]
        status, _out, err = call("kill", "forgotten")
        assert (status, err) == (1, "no run is 'forgotten'; there are: none\n")


ENDING = """
import sys, threading, time
from pathlib import Path
from crew_executor import CrewExecutor

def refuse(thread):
    if thread.name == "crew-question":
        raise RuntimeError("can't start new thread")
    start(thread)

def wait():
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)

start = threading.Thread.start
if sys.argv[1] == "without threads":
    threading.Thread.start = refuse
executor = CrewExecutor(1, name="late")
future = executor.submit(wait)
future.add_done_callback(lambda done: print(type(done.exception()).__name__, flush=True))
while {w.state for w in executor.stats().workers} != {"busy"}:
    time.sleep(0.01)
threading._register_atexit(lambda: print("ready", flush=True))
"""


@pytest.mark.parametrize("how", ["with threads", "without threads"])
@pytest.mark.parametrize("word", ["ps", "kill"])
def test_a_client_is_asked_at_its_interpreters_end(folder: Path, tmp_path: Path, how: str, word: str) -> None:
    """Python 3.12 starts no thread any more then, and what it has begun has to be finished nonetheless."""
    with running(ENDING, folder, how, str(tmp_path / "go on")) as client:
        (household,) = listed()
        assert household["answers"] == "client"
        assert len(pids_in(household, "late")) == 1
        if word == "kill":
            status, out, _err = call("kill", "late")
            assert status == 0
            told = ("ended by its client", "and is not done yet", "it has ended, and its supervisor, too")
            assert out.rstrip().endswith(told)
        else:
            (tmp_path / "go on").touch()
        assert client.stdout is not None
        assert client.stdout.readline() == ("WorkerCrashError\n" if word == "kill" else "NoneType\n")
        assert client.wait(30) == 0


def test_a_supervisor_that_nobody_would_hear_is_not_left(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = processes.child_pids()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(errors.LaunchError, match="can't start new thread"):
        supervisor_handle.SupervisorHandle()
    assert processes.child_pids() == before
    assert not list(folder.glob("*-*"))


SLOW = """
import sys, time
from pathlib import Path
from crew_executor import CrewExecutor

def wait(future):
    while not Path(sys.argv[1]).exists():
        time.sleep(0.01)

executor = CrewExecutor(1, name="slow")
future = executor.submit(time.sleep, 100)
future.add_done_callback(wait)
while {w.state for w in executor.stats().workers} != {"busy"}:
    time.sleep(0.01)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_callback_that_takes_its_time_does_not_make_the_client_silent(folder: Path, tmp_path: Path) -> None:
    with running(SLOW, folder, str(tmp_path / "go on")):
        status, out, _err = call("kill", "slow")
        assert status == 0
        assert "ended by its client" in out
        assert [each["executors"] for each in listed()] == [[]]
        (tmp_path / "go on").touch()


LIMITED = """
import sys, time
from pathlib import Path
from crew_executor import CrewExecutor

def nap():
    Path(sys.argv[1]).touch()
    try:
        time.sleep(100)
    finally:
        Path(sys.argv[2]).touch()

executor = CrewExecutor(1, name="limited")
future = executor.options(timeout=5).submit(nap)
while not Path(sys.argv[1]).exists():
    time.sleep(0.01)
print("ready", flush=True)
print(type(future.exception()).__name__, flush=True)
sys.stdin.read()
"""


def test_a_client_that_answers_no_question_does_not_keep_its_supervisor(folder: Path, tmp_path: Path) -> None:
    over = tmp_path / "over"
    with running(LIMITED, folder, str(tmp_path / "started"), str(over)) as client, contextlib.ExitStack() as stack:
        os.kill(client.pid, signal.SIGSTOP)
        (entry,) = registry.entries()
        callers = []
        for _ in range(300):
            caller = registry.connect(entry, 20)
            assert caller is not None
            callers.append(stack.enter_context(caller))
            send_message(caller, {"ask": "stats"})
        assert recv_message(callers[-1]) == ({"answer": None}, []), "it was told at once"
        assert [each["answers"] for each in listed()] == ["supervisor"]
        wait_until(over.exists, "the task's time is over")

        os.kill(client.pid, signal.SIGCONT)
        assert client.stdout is not None
        assert client.stdout.readline() == "TaskTimeoutError\n"
        assert recv_message(callers[0]) is not None
        wait_until(lambda: [each["answers"] for each in listed()] == ["client"], "it answers again")


@pytest.mark.parametrize(
    ("change", "command"), [("sys.argv = [Path('x')]", ["x"]), ("del sys.argv", []), ("sys.argv = None", [])]
)
def test_a_client_may_do_with_its_argv_what_it_likes(folder: Path, change: str, command: list[str]) -> None:
    script = f"""
import sys
from pathlib import Path
from crew_executor import CrewExecutor
executor = CrewExecutor(1)
{change}
print("ready", flush=True)
sys.stdin.read()
"""
    with running(script, folder):
        wait_until(lambda: len(listed()) == 1, "the supervisor answers")  # it may be up after its client
        (household,) = listed()
        assert (household["answers"], household["command"]) == ("client", command)


@contextlib.contextmanager
def odd_supervisor(path: Path, answers: dict[str, Any]) -> Iterator[None]:
    """Be a supervisor of some other version."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _address = server.accept()
                with caller:
                    received = recv_message(caller)
                    if received is not None:
                        send_message(caller, answers[received[0]["ask"]])

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "answers",
    [
        {"known": {"answer": {"workers": 5}}},
        {"known": {"nothing": 1}},
        {"known": {"answer": {"workers": []}}, "stats": {"answer": [1]}},
        {"known": {"answer": {"workers": []}}, "stats": {"answer": {"command": [], "executors": [{"run": 1}]}}},
        {
            "known": {"answer": {"workers": []}},
            "stats": {"answer": {"command": [], "executors": [{"run": 1, "name": 2, "workers": [{}]}]}},
        },
    ],
)
def test_a_client_that_cannot_be_understood_does_not_hide_the_others(
    client: subprocess.Popen[str], folder: Path, answers: dict[str, Any]
) -> None:
    with odd_supervisor(folder / "1-2", answers):
        status, out, err = call("ps")
    assert (status, err) == (0, "")
    assert "client 1, supervisor 2" in out
    assert "sleeper  0 queued, 2 running, 0 done; 2 of at most 2 workers" in out


def test_words_that_stdout_cannot_show_are_escaped(folder: Path) -> None:
    with running(CLIENT, folder, b"\xff\xe4", "\N{SNOWMAN}"):
        status, out, err = call("ps", PYTHONIOENCODING="ascii")
        assert (status, err) == (0, "")
        assert "-c '\\udcff\\udce4' '\\u2603'" in out


def test_nobody_has_to_read_to_the_end(client: subprocess.Popen[str]) -> None:
    command = [sys.executable, "-m", "crew_executor", "ps", "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert f"client {client.pid}" in process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        assert process.wait(30) == 1
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("where", "status", "error"),
    [(">/dev/full", 1, "the output cannot be written: No space left on device\n"), (">&-", 0, ""), (">&- 2>&-", 0, "")],
)
def test_kill_does_its_work_where_it_cannot_say_so(
    client: subprocess.Popen[str], where: str, status: int, error: str
) -> None:
    for word in ("ps", "kill --all"):
        shell = ["sh", "-c", f'exec "$0" -m crew_executor {word} {where}', sys.executable]
        run = subprocess.run(shell, capture_output=True, text=True, timeout=50, check=False)
        assert (run.returncode, run.stderr) == (status, error)
    # The client may be gone: it submits to its other executor, which is being killed, too, and does not catch that.
    assert [each["executors"] for each in listed()] in ([], [[]])
