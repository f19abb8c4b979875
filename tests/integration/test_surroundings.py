"""The same script in every place where Python programs are run."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crew_executor import CrewExecutor

SCRIPT = """
import sys, threading
from crew_executor import CrewExecutor
def add_one(number):
    return number + 1

def where():
    return threading.current_thread() is threading.main_thread(), sys.stdin.read()

with CrewExecutor(2) as executor:
    results = list(executor.map(add_one, range(5)))
    places = executor.submit(where).result()
    squares = [executor.submit(lambda number=number: number ** 2).result() for number in range(3)]

with open({done!r}, "w") as file:
    print(results, places, squares, file=file)

"""
EXPECTED = "[1, 2, 3, 4, 5] (True, '') [0, 1, 4]\n"

WAYS = {
    "as a script": "{python} script.py",
    "from stdin": "{python} < script.py",
    "with -c": '{python} -c "$(cat script.py)"',
    "typed in": "{python} -i -q < script.py",
    "as a module": "{python} -m script",
    "with -O": "{python} -O script.py",
    "with -OO": "{python} -OO script.py",
    "with -I": "{python} -I script.py",
    "with -X dev": "{python} -X dev script.py",
    "under cProfile": "{python} -m cProfile -o profile script.py",
    "without a variable": "env -i {python} script.py",
    "without stdin": "{python} script.py <&-",
    "without stdout": "{python} script.py >&-",
    "without stderr": "{python} script.py 2>&-",
    "without any of them": "{python} script.py <&- >&- 2>&-",
    "with a long TMPDIR": "mkdir {long} && TMPDIR=$PWD/{long} {python} script.py",
    "without a TMPDIR": "TMPDIR=/nonexistent {python} script.py",
    "in a deleted directory": "mkdir gone && cd gone && rmdir ../gone && {python} {folder}/script.py",
    "with few descriptors": "ulimit -n 64 && {python} script.py",
    "without a network": "unshare -n {python} script.py",
    "in the background": "nohup {python} script.py & wait $!",
}


def _run(folder: Path, line: str, source: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(source.format(done=str(folder / "done")))
    python = f"{shlex.quote(sys.executable)} -W error"
    line = line.format(python=python, folder=shlex.quote(str(folder)), long="x" * 150)
    # Without what tox sets: `python -m script` looks into the working directory.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=50, check=False
    )


@pytest.mark.parametrize("way", WAYS)
def test_it_works(way: str, tmp_path: Path) -> None:
    if (
        way == "without a network"
        and subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("only root may take the network away, and not in every container")
    done = _run(tmp_path, WAYS[way])

    assert (done.returncode, (tmp_path / "done").read_text()) == (0, EXPECTED), done.stderr
    output = "\n".join(line.lstrip(">. ") for line in done.stderr.splitlines())
    assert output.strip() in ("", "nohup: ignoring input")


THREADS = """
import threading
from crew_executor import CrewExecutor
results = []
def use_one_together():
    results.extend(executor.map(pow, range(50), [2] * 50))
def use_an_own_one():
    with CrewExecutor(1) as own:
        results.extend(own.map(pow, range(50), [2] * 50))
with CrewExecutor(2) as executor:
    threads = [threading.Thread(target=use) for use in [use_one_together] * 6 + [use_an_own_one] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
with open({done!r}, "w") as file:
    print(sorted(results) == sorted([number ** 2 for number in range(50)] * 8), file=file)
"""


def test_it_works_from_threads(tmp_path: Path) -> None:
    done = _run(tmp_path, "{python} script.py", THREADS)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "done").read_text() == "True\n"


def test_it_works_in_a_test_of_pytest(tmp_path: Path) -> None:
    test = "from crew_executor import CrewExecutor\ndef test():\n    with CrewExecutor(1) as executor:\n"
    (tmp_path / "test_one.py").write_text(test + "        assert executor.submit(lambda: 3).result() == 3\n")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_one.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}

    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_later_tasks_know_what_was_added_to_sys_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"module_of_{tmp_path.name}".replace("-", "_")
    with CrewExecutor(1) as executor:
        executor.submit(int).result(timeout=30)  # the worker is there
        (tmp_path / f"{name}.py").write_text("def answer():\n    return 42\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        answer = importlib.import_module(name).answer

        assert executor.submit(answer).result(timeout=30) == 42
        assert list(executor.map(call, [answer] * 4, chunksize=2)) == [42] * 4


def call(function: Callable[[], object]) -> object:
    return function()
