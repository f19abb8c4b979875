"""Large buffers in shared memory: nobody sees another's changes, whoever dies, and wherever they cannot be had."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crew_executor import CrewExecutor, WorkerCrashError, segments
from crew_executor.segments import SEGMENTS_MAX

from .helpers import die, touch_and_wait, wait_until

pytestmark = pytest.mark.skipif(not segments.are_available(), reason="this system has no memfd_create()")

SIZE = 1_000_000


class Block:
    """An object with a buffer that may be left out of its pickle, as numpy's arrays have."""

    def __init__(self, memory: Any) -> None:
        self.memory = memoryview(memory)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.memory),)

    def value(self) -> int:
        """Return the byte that all of it has; fail if it differs."""
        (value,) = set(self.memory[:: SIZE // 1000])
        return int(value)


def block(value: int, size: int = SIZE) -> Block:
    """Return one that has this byte everywhere."""
    return Block(bytearray([value]) * size)


def echo(one: Block) -> Block:
    """Return it."""
    return one


def value_of(one: Block) -> int:
    """Return its byte."""
    return one.value()


def grow(one: Block) -> Block:
    """Change it in place, and return it."""
    one.memory[:] = bytes([one.value() + 1]) * len(one.memory)
    return one


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(2) as made:
        yield made


def in_use(executor: CrewExecutor) -> int:
    """Return how many segments the client has that are not free."""
    pool = executor._dispatcher.segments
    return len(pool._all) - len(pool._free)


# ---------------------------------------------------------------------- there and back


def test_they_travel_in_shared_memory_and_it_is_used_again(executor: CrewExecutor) -> None:
    for value in range(20):
        assert executor.submit(echo, block(value)).result().value() == value

    assert len(executor._dispatcher.segments._all) <= 3  # its sender may still have one in its hand


def test_what_a_task_changes_is_its_own(executor: CrewExecutor) -> None:
    one = block(1)
    other = executor.submit(grow, one).result()

    assert (one.value(), other.value()) == (1, 2)


def test_what_is_changed_after_submit_does_not_matter(executor: CrewExecutor, tmp_path: Path) -> None:
    waits = [executor.submit(touch_and_wait, str(tmp_path / f"{number}"), str(tmp_path / "go")) for number in range(2)]
    one = block(1)
    future = executor.submit(value_of, one)
    one.memory[:] = bytes(SIZE)
    (tmp_path / "go").touch()

    assert future.result() == 1
    assert len(waits) == 2


_kept: list[Block] = []


def keep(one: Block) -> int:
    """Keep it, and return how many are kept in this process."""
    _kept.append(one)
    return len(_kept)


def values_kept() -> list[int]:
    """Return what those that were kept are by now."""
    return [one.value() for one in _kept]


def test_what_a_task_keeps_is_never_written_over() -> None:
    with CrewExecutor(1) as executor:
        for value in range(5):
            executor.submit(keep, block(value)).result()
            executor.submit(value_of, block(100 + value)).result()

        assert executor.submit(values_kept).result() == [0, 1, 2, 3, 4]


def test_what_the_client_keeps_is_never_written_over(executor: CrewExecutor) -> None:
    kept = [executor.submit(grow, block(value)).result() for value in range(10)]
    for value in range(10):
        executor.submit(grow, block(100 + value)).result()

    assert [one.value() for one in kept] == list(range(1, 11))
    for one in kept:
        one.memory[:] = bytes(SIZE)


def fork_and_keep(one: Block, path: str) -> None:
    """Leave a child behind that reads the block when its file appears."""
    if os.fork():
        return
    with contextlib.suppress(BaseException):
        os.setsid()
        wait_until(Path(path, "go").exists, "go")
        Path(path, "found").write_text(str(one.value()))
    os._exit(0)


def test_what_a_forked_child_of_a_task_reads_is_never_written_over(tmp_path: Path) -> None:
    with CrewExecutor(1) as executor:
        executor.submit(fork_and_keep, block(7), str(tmp_path)).result()
        for value in range(100, 105):
            executor.submit(value_of, block(value)).result()
        (tmp_path / "go").touch()
        wait_until((tmp_path / "found").exists, "the child has read")
        wait_until(lambda: bool((tmp_path / "found").read_text()), "the child has written")

    assert (tmp_path / "found").read_text() == "7"


def test_many_at_a_time_more_than_there_may_be_segments(executor: CrewExecutor) -> None:
    futures = [executor.submit(grow, block(number % 200)) for number in range(2 * SEGMENTS_MAX)]
    results = [future.result() for future in futures]

    assert [one.value() for one in results] == [number % 200 + 1 for number in range(2 * SEGMENTS_MAX)]


def test_in_map_as_well(executor: CrewExecutor) -> None:
    results = list(executor.map(grow, (block(number) for number in range(50))))

    assert [one.value() for one in results] == list(range(1, 51))
    assert executor._dispatcher.segments._all, "they were not sent over the link"


def size_of(number: int) -> Block | int:
    """Return a large block for every third number, else the number; warn of every fifth."""
    if number % 5 == 0:
        warnings.warn(f"number {number}", stacklevel=1)
    return block(number) if number % 3 == 0 else number


def test_large_and_small_results_in_one_map(executor: CrewExecutor) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = list(executor.map(size_of, range(100)))

    assert [one.value() if isinstance(one, Block) else one for one in results] == list(range(100))
    assert sorted(str(warning.message) for warning in caught) == sorted(f"number {n}" for n in range(0, 100, 5))


def noisy(one: Block) -> Block:
    """Write, warn, and return it."""
    print("noise")
    warnings.warn("watch out", stacklevel=1)
    return one


def test_output_and_warnings_come_with_them(executor: CrewExecutor) -> None:
    view = executor.options(capture_output=True, retries=1, retry_on=ValueError)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        future = view.submit(noisy, block(3))
        assert future.result().value() == 3
    assert [str(warning.message) for warning in caught] == ["watch out"]
    assert future.record().output == "noise\n"
    assert [warning.message for warning in future.record().warnings] == ["watch out"]


def test_between_a_task_and_its_subtask() -> None:
    with CrewExecutor(2) as executor:
        assert executor.submit(submit_inside, executor, 4).result().value() == 5


def submit_inside(executor: CrewExecutor, value: int) -> Block:
    """Let a subtask make a block."""
    return executor.submit(grow, block(value)).result()


def test_functions_by_value_take_them_too(executor: CrewExecutor) -> None:
    captured = block(2)

    assert executor.submit(lambda one: one.value() + captured.value(), block(3)).result() == 5


# ---------------------------------------------------------------------- attempts and ends


def grow_and_fail(one: Block, log: str) -> Block:
    """Change it in place; fail at first."""
    grow(one)
    if not Path(log).exists():
        Path(log).touch()
        raise ValueError("at first")
    return one


def grow_and_die(one: Block, log: str) -> Block:
    """Change it in place; die at first."""
    grow(one)
    if not Path(log).exists():
        Path(log).touch()
        die()
    return one


def test_another_attempt_gets_what_the_first_was_given(executor: CrewExecutor, tmp_path: Path) -> None:
    retried = executor.options(retries=1).submit(grow_and_fail, block(1), str(tmp_path / "a"))
    crashed = executor.options(crash_retries=1).submit(grow_and_die, block(1), str(tmp_path / "b"))

    assert (retried.result().value(), crashed.result().value()) == (2, 2)
    assert (retried.record().attempts, crashed.record().attempts) == (2, 2)


def test_nothing_is_left_of_a_worker_that_died(executor: CrewExecutor) -> None:
    with pytest.raises(WorkerCrashError):
        executor.submit(_die_with, block(1)).result()

    assert executor.submit(grow, block(1)).result().value() == 2
    wait_until(lambda: not in_use(executor), "all segments are free or given up")


def _die_with(_one: Block) -> None:
    die()


def test_results_of_a_worker_that_died_since_are_there(executor: CrewExecutor) -> None:
    future = executor.submit(grow, block(1))
    wait_until(future.done, "the task is done")
    for worker in executor.stats().workers:
        assert worker.pid
        os.kill(worker.pid, signal.SIGKILL)

    assert future.result().value() == 2


def test_what_is_taken_back_runs_elsewhere(executor: CrewExecutor, tmp_path: Path) -> None:
    # The estimate is short, so that several are sent ahead; then one of them takes long, and the others are taken back.
    executor.submit(wait_if, block(0), str(tmp_path)).result()
    futures = [executor.submit(wait_if, block(value), str(tmp_path)) for value in (1, 0, 0, 0, 0, 0, 0, 0, 0)]

    assert [future.result(30) for future in futures[1:]] == [0] * 8
    (tmp_path / "go").touch()
    assert futures[0].result(30) == 1
    wait_until(lambda: not in_use(executor), "all segments are free or given up")


def wait_if(one: Block, folder: str) -> int:
    """Wait for a file if the block says so."""
    if one.value():
        wait_until(Path(folder, "go").exists, "go")
    return one.value()


def test_cancelled_tasks_and_dropped_futures_give_their_segments_back(executor: CrewExecutor, tmp_path: Path) -> None:
    waits = [executor.submit(touch_and_wait, str(tmp_path / f"{number}"), str(tmp_path / "go")) for number in range(2)]
    futures = [executor.submit(value_of, block(1)) for _ in range(6)]
    for future in futures[:3]:
        assert future.cancel()
    (tmp_path / "go").touch()
    for future in [*waits, *futures[3:]]:
        future.result()

    wait_until(lambda: not in_use(executor), "all segments are free or given up")


def test_a_stopped_task_gives_its_segments_back(executor: CrewExecutor, tmp_path: Path) -> None:
    future = executor.options(cancel_running=True).submit(wait_with, block(1), str(tmp_path))
    wait_until((tmp_path / "started").exists, "the task has started")
    future.cancel()
    executor.submit(value_of, block(1)).result()

    wait_until(lambda: not in_use(executor), "all segments are free or given up")


def wait_with(_one: Block, folder: str) -> None:
    """Say that it has started, and wait."""
    touch_and_wait(str(Path(folder, "started")), str(Path(folder, "never")))


def test_results_that_nobody_takes_are_freed(executor: CrewExecutor) -> None:
    for _ in range(3):
        for future in [executor.submit(grow, block(1)) for _ in range(20)]:
            wait_until(future.done, "the task is done")
        del future

    assert len(segments._mappings) < 20


# ---------------------------------------------------------------------- where they cannot be had


def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREW_EXECUTOR_NO_MEMFD", "1")


def _no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crew_executor.segment_port.SegmentPort.lend", lambda *_arguments, **_options: None)


@pytest.mark.parametrize("break_it", [_no_memory, _no_port], ids=["no memory", "no port"])
def test_then_they_travel_over_the_link(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    with CrewExecutor(2) as executor:
        futures = [executor.submit(grow, block(value)) for value in range(10)]

        assert [future.result().value() for future in futures] == list(range(1, 11))
        assert [one.value() for one in executor.map(grow, map(block, range(10)))] == list(range(1, 11))
        executor.submit(keep, block(5)).result()
        executor.submit(value_of, block(6)).result()


def test_a_client_without_descriptors_says_so_and_goes_on(executor: CrewExecutor) -> None:
    executor.submit(echo, block(1)).result()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        futures = [executor.submit(block, value) for value in range(10)]
        errors = [future.exception(30) for future in futures]
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert any(errors)
    assert {type(error) for error in errors if error} == {OSError}
    assert all("could not be mapped: Too many open files" in str(error) for error in errors if error)
    assert executor.submit(echo, block(9)).result().value() == 9


def test_several_threads_may_take_the_same_result(executor: CrewExecutor) -> None:
    future = executor.submit(grow, block(1))
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(future.result().value())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [2] * 8
