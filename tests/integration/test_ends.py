"""The ends of a client: Ctrl-C, kill -9, fork, exit; and odd surroundings. Each test runs a script of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import crew_executor

from .helpers import is_alive, wait_until

SLEEPERS = """
import os, sys, time
from crew_executor import CrewExecutor
def work(folder):
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()                      # a grandchild that escapes from its group
        open(os.path.join(folder, str(os.getpid())), "w").close()
        time.sleep(600)
    open(os.path.join(folder, str(os.getpid())), "w").close()
    {how}
executor = CrewExecutor(2)
futures = [executor.submit(work, sys.argv[1]) for _ in range(2)]
more = [executor.submit(time.sleep, 30) for _ in range(20)]
futures[0].result()
"""

HOWS = {"asleep": "time.sleep(600)", "in python": "while True: pass", "in c": "sum(range(10**12))"}


def _run(script: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]  # noqa: PLW1510  check is in the options
        [sys.executable, "-c", script, *arguments],
        **{"capture_output": True, "text": True, "timeout": 60, "check": False} | options,
    )


def _pids(folder: Path) -> list[int]:
    return [int(entry.name) for entry in folder.iterdir()]


@pytest.mark.parametrize("how", HOWS)
def test_after_kill_9_of_the_client_nothing_is_left(how: str, tmp_path: Path) -> None:
    client = subprocess.Popen([sys.executable, "-c", SLEEPERS.format(how=HOWS[how]), str(tmp_path)])
    wait_until(lambda: len(_pids(tmp_path)) == 6, "both tasks, their children and grandchildren run")
    family = {child.pid for child in psutil.Process(client.pid).children(recursive=True)} | set(_pids(tmp_path))
    client.kill()
    client.wait()
    wait_until(lambda: not any(map(is_alive, family)), "no process of the client is left", 10)


def test_one_ctrl_c_ends_a_script_with_long_tasks(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    with open(tmp_path / "errors", "w+") as errors:
        client = subprocess.Popen(
            [sys.executable, "-c", SLEEPERS.format(how="time.sleep(600)"), str(marks)],
            stderr=errors,
            start_new_session=True,
        )
        wait_until(lambda: len(_pids(marks)) == 6, "both tasks run")
        grandchildren = {pid for pid in _pids(marks) if os.getpgid(pid) == pid and os.getsid(pid) == pid}
        family = {child.pid for child in psutil.Process(client.pid).children(recursive=True)} | set(_pids(marks))
        os.killpg(client.pid, signal.SIGINT)
        client.wait(timeout=10)
        wait_until(lambda: not any(map(is_alive, family - grandchildren)), "no worker is left", 10)
        for pid in grandchildren:  # what a task detached from its group survives an orderly end
            os.kill(pid, signal.SIGKILL)
        errors.seek(0)

        assert errors.read().count("Traceback") == 1
        assert client.returncode == -signal.SIGINT


def test_a_forked_child_of_a_client_ends_cleanly_and_gets_a_clear_error() -> None:
    script = """
import gc, os, sys
from crew_executor import CrewExecutor
executor = CrewExecutor(1)
future = executor.submit(len, 3_000_000 * "x")  # more than a socket takes at once: NNG writes it
assert future.result() == 3_000_000
pid = os.fork()
if pid == 0:
    for attempt in (lambda: executor.submit(int), lambda: CrewExecutor(1)):
        try:
            attempt()
        except RuntimeError as error:
            print("refused:", "spawn" in str(error), flush=True)
    executor.shutdown()
    del executor
    gc.collect()
    sys.exit(3)
_pid, status = os.waitpid(pid, 0)
print("child", os.waitstatus_to_exitcode(status), "parent", executor.submit(int).result())
"""
    done = _run(script)

    assert (done.stdout, done.returncode) == ("refused: True\nrefused: True\nchild 3 parent 0\n", 0)


def test_a_forked_pool_of_the_client_works_beside_ours() -> None:
    script = """
import multiprocessing, operator
from crew_executor import CrewExecutor
executor = CrewExecutor(1)
executor.submit(int).result()
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.starmap(operator.add, [(1, 1), (2, 2)]), executor.submit(int).result())
    pool.close()
    pool.join()
"""
    done = _run(script)

    assert (done.stdout, done.returncode) == ("[2, 4] 0\n", 0)


def test_a_task_may_use_executors_of_its_own() -> None:
    script = """
import concurrent.futures, operator
from crew_executor import CrewExecutor
def nested():
    with concurrent.futures.ProcessPoolExecutor(1) as inner:
        first = inner.submit(operator.add, 1, 1).result()
    with concurrent.futures.ThreadPoolExecutor(1) as inner:
        return first + inner.submit(operator.add, 1, 1).result()
with CrewExecutor(1) as executor:
    print(executor.submit(nested).result())
"""
    done = _run(script)

    assert (done.stdout, done.returncode) == ("4\n", 0)


SIMPLE = """
import operator
from crew_executor import CrewExecutor
with CrewExecutor(2) as executor:
    assert list(executor.map(operator.add, range(50), range(50))) == [2 * i for i in range(50)]
    try:
        executor.submit(operator.truediv, 1, 0).result()
    except ZeroDivisionError:
        import os
        os.write({descriptor}, b"ok\\n")
"""


@pytest.mark.parametrize("switch", ["NO_MEMBARRIER", "NO_MEMFD", "NO_PIDFD", "NO_PRCTL"])
def test_it_works_without_what_only_linux_has(switch: str) -> None:
    done = _run(SIMPLE.format(descriptor=1), env={**os.environ, f"CREW_EXECUTOR_{switch}": "1"})

    assert (done.stdout, done.stderr, done.returncode) == ("ok\n", "", 0)


def test_the_supervisor_sees_the_clients_death_without_pidfd(tmp_path: Path) -> None:
    script = SLEEPERS.format(how="time.sleep(600)")
    environment = {**os.environ, "CREW_EXECUTOR_NO_PIDFD": "1"}
    client = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment)
    wait_until(lambda: len(_pids(tmp_path)) == 6, "both tasks run")
    client.kill()
    client.wait()
    wait_until(lambda: not any(map(is_alive, _pids(tmp_path))), "nothing is left", 10)


@pytest.mark.parametrize("options", [["-W", "error"], ["-O"], ["-I"], ["-X", "dev"]])
def test_interpreter_options_do_not_matter(options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *options, "-c", SIMPLE.format(descriptor=1)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr, done.returncode) == ("ok\n", "", 0)


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_closed_standard_descriptors_do_not_matter(closed: str) -> None:
    read, write = os.pipe()
    command = f'exec "{sys.executable}" -c "$1" ' + " ".join({"0": "<&-", "1": ">&-", "2": "2>&-"}[fd] for fd in closed)
    # A task writes to both, as C libraries do, and so does the client.
    shout = "\nimport os\ndef shout():\n    for fd in (1, 2): os.write(fd, b'x' * 100)\n"
    script = shout + SIMPLE.format(descriptor=write).replace(
        "    try:", "    executor.submit(shout).result(); shout()\n    try:"
    )
    subprocess.run(
        ["/bin/sh", "-c", command, "sh", script], pass_fds=(write,), timeout=60, check=True, capture_output=True
    )
    os.close(write)

    assert os.read(read, 10) == b"ok\n"
    os.close(read)


def test_an_empty_environment_and_a_deleted_directory_do_not_matter(tmp_path: Path) -> None:
    # Imported before: CPython 3.13.0 itself cannot import socket in a directory that is gone.
    script = "import crew_executor, multiprocessing.connection, os, socket; os.rmdir(os.getcwd())\n" + SIMPLE.format(
        descriptor=1
    )
    place = tmp_path / "place"
    place.mkdir()
    done = _run(script, cwd=place, env={})

    assert (done.stdout, done.stderr, done.returncode) == ("ok\n", "", 0)


def test_a_stray_module_beside_the_script_does_not_break_workers(tmp_path: Path) -> None:
    for name in ("queue", "selectors", "crew_helper"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('a stray module was imported')\n")
    (tmp_path / "script.py").write_text("import sys; sys.path.append(sys.path.pop(0))\n" + SIMPLE.format(descriptor=1))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_workers_use_the_clients_copy_of_the_package_whatever_the_path_says(tmp_path: Path) -> None:
    other = tmp_path / "crew_executor"
    other.mkdir()
    (other / "__init__.py").write_text("raise ImportError('another copy')")
    root = Path(crew_executor.__file__).parents[1]
    script = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from crew_executor import CrewExecutor\n"
        "with CrewExecutor(1) as executor: print(executor.submit(pow, 2, 10).result())"
    )
    run = _run(script, env={**os.environ, "PYTHONPATH": str(tmp_path)})

    assert (run.stdout, run.stderr) == ("1024\n", "")


def test_output_of_tasks_reaches_the_clients_streams_and_stdin_is_empty() -> None:
    script = """
import os, sys
from crew_executor import CrewExecutor
def task():
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.system("echo from a child")
    return sys.stdin.read() if sys.stdin else ""
with CrewExecutor(1) as executor:
    assert executor.submit(task).result() == ""
"""
    done = _run(script, input="not for workers")

    assert sorted(done.stdout.split("\n")) == ["", "from a child", "to stdout"]
    assert done.stderr == "to stderr\n"


def test_a_stopped_client_comes_back_to_a_working_pool(tmp_path: Path) -> None:
    script = """
import sys, time
from crew_executor import CrewExecutor
with CrewExecutor(2, idle_timeout=0.5) as executor:
    executor.submit(int).result()
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum(executor.map(abs, range(100))))
"""
    client = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    client.stdout.readline()
    client.send_signal(signal.SIGSTOP)
    time.sleep(2.5)  # longer than a stall that is told from slowness
    client.send_signal(signal.SIGCONT)
    out, _errors = client.communicate("\n", timeout=30)

    assert (out, client.returncode) == ("4950\n", 0)


def test_a_shell_that_was_interrupted_once_finishes_what_was_submitted_later(tmp_path: Path) -> None:
    lines = (
        "from crew_executor import CrewExecutor; from pathlib import Path; import time",
        "executor = CrewExecutor(1)",
        "raise KeyboardInterrupt",
        f"path = {str(tmp_path / 'written')!r}",
        "futures = [executor.submit(time.sleep, 0.2), executor.submit(Path(path).write_text, 'done')]",
        "exit()",
    )
    done = subprocess.run(
        [sys.executable, "-q", "-i"], input="\n".join(lines), capture_output=True, text=True, timeout=60, check=False
    )

    assert "KeyboardInterrupt" in done.stderr
    assert (done.returncode, (tmp_path / "written").read_text()) == (0, "done")


LEFT = """
import asyncio, sys, time
from pathlib import Path
from crew_executor import CrewExecutor
def save(path):
    time.sleep(0.2)
    Path(path).touch()
def generate():
    with CrewExecutor(2) as executor:
        for number in range(4):
            yield executor.submit(save, f"{sys.argv[1]}/{number}")
def leave(how):
    with CrewExecutor(2) as executor:
        for number in range(4):
            executor.submit(save, f"{sys.argv[1]}/{number}")
        raise how
"""


@pytest.mark.parametrize("how", ["ValueError", "GeneratorExit", "closed"])
def test_a_with_block_that_is_left_finishes_its_work(how: str, tmp_path: Path) -> None:
    end = (
        "generator = generate()\nfor _ in range(4): next(generator)\ngenerator.close()\n"
        if how == "closed"
        else f"try: leave({how})\nexcept BaseException: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", LEFT + end, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]


def test_a_with_block_left_by_sys_exit_says_what_it_ends(tmp_path: Path) -> None:
    done = _run(LEFT + "leave(SystemExit(3))\n", str(tmp_path))

    assert (done.returncode, done.stdout) == (3, "")
    assert "running tasks are ended" in done.stderr
    assert "call shutdown() before" in done.stderr
