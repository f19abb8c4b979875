"""Workers that use much memory: replaced between tasks, limited within one, killed by the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_executor import CrewExecutor, WorkerCrashError
from crew_executor.launchers import LocalLauncher

from .helpers import add, append_line, die, identity

MB = 1_000_000
_kept: list[bytearray] = []


def _leak(size: int) -> int:
    """Keep so many bytes, and touch them."""
    _kept.append(bytearray(b"x") * size)
    return os.getpid()


def _use(size: int) -> int:
    return len(bytearray(b"x") * size)


def test_a_worker_above_its_size_is_replaced_between_tasks(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with CrewExecutor(1, launcher=LocalLauncher(max_worker_memory=150 * MB)) as executor:
        first = executor.submit(_leak, 1 * MB).result(timeout=30)
        assert executor.submit(_leak, 1 * MB).result(timeout=30) == first
        fat = executor.submit(_leak, 200 * MB)  # its result still arrives
        behind = [executor.submit(append_line, str(path), str(number)) for number in range(100)]

        assert fat.result(timeout=30) == first
        assert [future.result(timeout=30) for future in behind] == list(map(str, range(100)))
        assert executor.submit(os.getpid).result(timeout=30) != first
        assert any("max_worker_memory" in decision for decision in executor.stats().decisions)
    assert path.read_text().split() == list(map(str, range(100)))


def test_workers_that_leak_all_the_time_lose_no_task() -> None:
    with CrewExecutor(2, launcher=LocalLauncher(max_worker_memory=100 * MB)) as executor:
        pids = list(executor.map(_leak, [20 * MB] * 60))

        assert executor.stats().done == 60
    assert len(set(pids)) > 4


def test_a_task_that_grows_past_the_limit_fails_alone(tmp_path: Path) -> None:
    with CrewExecutor(1, launcher=LocalLauncher(max_task_memory=300 * MB)) as executor:
        error = executor.submit(_use, 1000 * MB).exception(timeout=30)

        assert isinstance(error, MemoryError)
        notes = getattr(error, "__notes__", [])
        assert any(f"{300 * MB} bytes" in note and "max_task_memory" in note for note in notes)
        assert executor.submit(_use, 100 * MB).result(timeout=30) == 100 * MB
        assert isinstance(executor.submit(_use, 1000 * MB).exception(timeout=30), MemoryError)


def _chew() -> None:
    kept = []
    while True:
        kept.append(bytearray(b"x") * MB)


def test_a_task_that_ran_out_of_memory_leaves_room_for_the_next() -> None:
    with CrewExecutor(1, launcher=LocalLauncher(max_task_memory=300 * MB)) as executor:
        for _ in range(3):
            assert isinstance(executor.submit(_chew).exception(timeout=30), MemoryError)
            assert executor.submit(_use, 100 * MB).result(timeout=30) == 100 * MB


def test_an_argument_above_the_limit_fails_its_own_task(tmp_path: Path) -> None:
    """The worker receives it, and cannot open it: it must not die of it, and be launched again for ever."""
    with CrewExecutor(1, launcher=LocalLauncher(max_task_memory=300 * MB)) as executor:
        bad = executor.submit(len, bytes(400 * MB))
        good = executor.submit(pow, 2, 3)

        assert isinstance(bad.exception(timeout=30), MemoryError)
        assert good.result(timeout=30) == 8
        assert executor.stats().launched <= 2


def test_the_limits_hold_for_interpreters_of_their_own() -> None:
    launcher = LocalLauncher(python=sys.executable, max_task_memory=300 * MB, max_worker_memory=150 * MB)
    with CrewExecutor(1, launcher=launcher) as executor:
        assert isinstance(executor.submit(_use, 1000 * MB).exception(timeout=30), MemoryError)
        pid = executor.submit(_leak, 200 * MB).result(timeout=30)
        assert executor.submit(os.getpid).result(timeout=30) != pid


@pytest.mark.parametrize("name", ["max_worker_memory", "max_task_memory"])
@pytest.mark.parametrize("value", [0, -1, 2**70])
def test_limits_must_be_above_zero(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be None or a number of bytes above 0 and up to .*, not {value}"):
        LocalLauncher(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["1", 1.5, float("inf")])
def test_limits_must_be_whole_numbers(value: object) -> None:
    with pytest.raises(TypeError, match="max_task_memory must be None or a whole number of bytes, not"):
        LocalLauncher(max_task_memory=value)  # type: ignore[arg-type]


def test_a_crash_tells_how_much_memory_the_worker_had() -> None:
    with CrewExecutor(1) as executor:
        executor.submit(_leak, 100 * MB).result(timeout=30)
        future = executor.submit(die)
        error = future.exception(timeout=30)

        assert isinstance(error, WorkerCrashError)
        assert error.max_rss > 100 * MB
        assert " MB of memory" in str(error)
        assert future.record().max_rss == error.max_rss
        assert error.verdict == ""


# ---------------------------------------------------------------------- killed by the kernel

KILLED_FOR_MEMORY = """
import sys
from crew_executor import CrewExecutor
from integration.test_memory import _use, MB
from integration.helpers import add
with CrewExecutor(2) as executor:
    executor.submit(add, 1, 1).result()
    good = [executor.submit(add, number, 0) for number in range(10)]
    error = executor.submit(_use, 1000 * MB).exception()
    assert [future.result() for future in good] == list(range(10))
    assert executor.submit(add, 1, 1).result() == 2
print(type(error).__name__, error.signal, error.verdict, sep="|")
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group with little memory; version 1 or 2, whichever the machine has."""
    memory = Path("/sys/fs/cgroup/memory")
    root = memory if memory.exists() else Path("/sys/fs/cgroup")
    limit = "memory.limit_in_bytes" if memory.exists() else "memory.max"
    folder = root / f"crew_executor_test_{os.getpid()}"
    try:
        folder.mkdir()
        (folder / limit).write_text(str(300 * MB))
    except OSError as error:
        if folder.exists():
            folder.rmdir()
        pytest.skip(f"control groups cannot be made here ({error}): needs root and a writable /sys/fs/cgroup")
    yield folder
    folder.rmdir()


def test_a_worker_killed_by_the_kernel_for_memory_is_told_as_such(group: Path) -> None:
    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    client = subprocess.run(
        [sys.executable, "-c", KILLED_FOR_MEMORY],
        capture_output=True, text=True, timeout=60, check=False, env=environment, preexec_fn=enter,
    )  # fmt: skip

    assert client.stderr == ""
    name, signal_name, verdict = client.stdout.strip().split("|")
    assert (name, signal_name) == ("WorkerCrashError", "SIGKILL")
    assert verdict.startswith("by the kernel for memory")


def test_one_that_is_killed_by_somebody_else_is_not() -> None:
    with CrewExecutor(1) as executor:
        error = executor.submit(die).exception(timeout=30)

        assert isinstance(error, WorkerCrashError)
        assert "for memory" not in str(error)
        assert executor.submit(identity, 1).result(timeout=30) == add(0, 1)
