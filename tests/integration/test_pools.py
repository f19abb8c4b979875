"""Executors that are globals of importable modules: in its workers they stand for the pool, and nothing multiplies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TREES = """
import os
from crew_executor import CrewExecutor
{make}
def leaves(tree):
    if isinstance(tree, int):
        return {{os.getppid()}}
    return set.union(*executor.map(leaves, tree))
def main():
    supervisors = executor.submit(leaves, [1, [2, [3, 4]], [5, 6]]).result()
    assert len(supervisors) == 1, supervisors
"""
MAKERS = {
    "a global": "executor = CrewExecutor(2)",
    "one of two": "other, executor = [CrewExecutor(2) for _ in range(2)]",
    "by a function": "def make(): return CrewExecutor(2)\nexecutor = make()",
    "in a class": "class Pools:\n    one = CrewExecutor(2)\nexecutor = Pools.one",
}


def run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        # The folder by name: PYTHONSAFEPATH, which tox sets, keeps `-c` from finding modules in its working directory.
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("maker", MAKERS)
def test_tasks_submit_to_the_pool_that_runs_them(maker: str, tmp_path: Path) -> None:
    (tmp_path / "trees.py").write_text(TREES.format(make=MAKERS[maker]))
    done = run(tmp_path, "import trees; trees.main()")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("make", ["CrewExecutor(1)", "(lambda: CrewExecutor(1))()"], ids=["a global", "by a function"])
@pytest.mark.parametrize("is_other", [False, True], ids=["its own pool", "another pool"])
def test_a_module_that_submits_while_it_is_imported_does_not_do_so_in_its_workers(
    make: str, is_other: bool, tmp_path: Path
) -> None:
    (tmp_path / "greedy.py").write_text(
        "from crew_executor import CrewExecutor\ndef work(): return 1\n"
        f"executor = {make}\n{'executor = CrewExecutor(1)' if is_other else ''}\nfuture = executor.submit(work)\n"
    )
    program = (
        "import greedy\ntry: greedy.future.result(30)\n"
        "except RuntimeError as error: print(str(error).partition(' (')[0])"
    )
    done = run(tmp_path, program)

    assert (done.returncode, done.stdout, done.stderr) == (0, "greedy submits tasks while it is imported\n", "")


def test_a_function_may_make_a_pool_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "nested.py").write_text(
        "import os\nfrom crew_executor import CrewExecutor\n"
        "def work():\n"
        "    with CrewExecutor(1) as executor:\n"
        "        return os.getpid(), executor.submit(os.getppid).result()\n"
    )
    program = (
        "import nested\nfrom crew_executor import CrewExecutor\n"
        "with CrewExecutor(1) as executor:\n"
        "    worker, supervisor = executor.submit(nested.work).result()\n"
        "    print(worker == executor.stats().workers[0].pid, supervisor != worker)"
    )
    done = run(tmp_path, program)

    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n", "")


SCRIPT = """
import concurrent.futures, multiprocessing, sys
from crew_executor import CrewExecutor
def double(number): return 2 * number
def work(method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(double, 4).result(30)
"""
GUARDED = """
if __name__ == "__main__":
    with CrewExecutor(1) as executor:
        print(executor.submit(work, sys.argv[1]).result())
"""
UNGUARDED = "with CrewExecutor(1) as executor: print(executor.submit(work, sys.argv[1]).exception())\n"


@pytest.mark.parametrize("how", ["script", "module"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_task_may_have_processes_that_import_the_script(method: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SCRIPT + GUARDED)
    done = subprocess.run(
        [sys.executable, *(["-m", "program"] if how == "module" else ["program.py"]), method],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=50,
        check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout, done.stderr) == (0, "8\n", "")


def test_such_a_process_starts_no_pool_of_a_script_without_guard(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SCRIPT + UNGUARDED)
    done = subprocess.run(
        [sys.executable, "program.py", "spawn"], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )

    assert done.returncode == 0
    assert "terminated abruptly" in done.stdout
    assert "was spawned by multiprocessing and is importing the main module" in done.stderr
