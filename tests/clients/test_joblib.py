"""joblib.Parallel on the backend "crew": its calls, their errors, and what travels."""

from __future__ import annotations

import multiprocessing
import operator
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from integration.helpers import die, touch_and_wait, wait_until
from joblib import Parallel, delayed

import crew_executor.joblib
from crew_executor import CrewExecutor, CrewFuture, WorkerCrashError

from .helpers import kept, pids, run_script

pytestmark = pytest.mark.usefixtures("crew_backend")
LARGE = 300_000
"""Floats in an array that is above joblib's 1 MB."""


def is_idle(executor: CrewExecutor) -> bool:
    stats = executor.stats()
    return (stats.queued, stats.running) == (0, 0)


# ---------------------------------------------------------------------- run in workers


class Odd(Exception):
    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")
        self.left = left


def fail_at(number: int, at: int) -> int:
    if number == at:
        try:
            [].pop()
        except IndexError as error:
            raise Odd(number, at) from error
    return number


def fail_when(path: str) -> None:
    wait_until(Path(path).exists, f"{path} appears")
    raise ValueError("the first")


def kind_of(array: Any) -> tuple[str, bool, float]:
    return type(array).__name__, array.flags.writeable, float(array.sum())


def write(array: Any, place: int) -> None:
    array[place] = place + 1


# ---------------------------------------------------------------------- calls


def test_importing_the_package_does_not_import_joblib() -> None:
    program = "import sys, crew_executor.view; assert not {'joblib', 'numpy'} & set(sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0


def test_calls_run_in_workers_and_come_back_in_order() -> None:
    assert [i * i for i in range(50)] == Parallel(n_jobs=2)(delayed(operator.mul)(i, i) for i in range(50))
    assert os.getpid() not in pids()


def test_no_calls_at_all() -> None:
    assert [] == Parallel(n_jobs=2)([])


def test_tiny_calls_are_put_together() -> None:
    parallel = Parallel(n_jobs=2)

    assert list(range(5000)) == parallel(delayed(abs)(i) for i in range(5000))
    assert parallel.n_dispatched_batches < 1000


def test_a_batch_size_is_kept() -> None:
    parallel = Parallel(n_jobs=2, batch_size=5, pre_dispatch="all")

    assert list(range(20)) == parallel(delayed(abs)(i) for i in range(20))
    assert parallel.n_dispatched_batches == 4


@pytest.mark.parametrize("dispatched", [2, 6])
def test_calls_are_read_ahead_only_so_far(dispatched: int, tmp_path: Path) -> None:
    read = []
    release = tmp_path / "release"

    def calls() -> Iterator[Any]:
        for number in range(8):
            read.append(number)
            yield delayed(touch_and_wait)(str(tmp_path / str(number)), str(release))

    results = Parallel(n_jobs=2, batch_size=1, return_as="generator", pre_dispatch=dispatched)(calls())
    first_read = len(read)
    release.touch()

    assert len(list(results)) == 8
    assert first_read == dispatched


def test_a_generator_gives_results_as_they_come_in_order(tmp_path: Path) -> None:
    release = str(tmp_path / "release")
    calls = [delayed(abs)(-1), delayed(touch_and_wait)(str(tmp_path / "started"), release), delayed(abs)(-2)]
    results = Parallel(n_jobs=2, return_as="generator", pre_dispatch="all")(calls)

    assert next(results) == 1
    Path(release).touch()
    assert next(results) > 2
    assert list(results) == [2]


def test_an_unordered_generator_gives_first_what_is_done_first(tmp_path: Path) -> None:
    release = str(tmp_path / "release")
    calls = [delayed(touch_and_wait)(str(tmp_path / "started"), release), delayed(abs)(-1), delayed(abs)(-2)]
    results = Parallel(n_jobs=2, return_as="generator_unordered", pre_dispatch="all")(calls)

    assert {next(results), next(results)} == {1, 2}
    Path(release).touch()
    assert len(list(results)) == 1


def test_two_calls_in_turns_on_one_configuration(tmp_path: Path) -> None:
    release = tmp_path / "release"
    first = Parallel(n_jobs=2, return_as="generator", pre_dispatch=1, batch_size=1)(
        delayed(touch_and_wait)(str(tmp_path / str(number)), str(release)) for number in range(4)
    )
    second = Parallel(n_jobs=2, return_as="generator", pre_dispatch=2)(delayed(abs)(i) for i in range(20))

    assert list(second) == list(range(20))
    release.touch()
    assert len(list(first)) == 4


def test_a_generator_that_is_dropped_ends_its_calls(tmp_path: Path) -> None:
    calls = [delayed(abs)(-1), *(delayed(touch_and_wait)(str(tmp_path / str(i)), "/nowhere") for i in range(4))]
    results = Parallel(n_jobs=2, return_as="generator", pre_dispatch="all", batch_size=1)(calls)
    assert next(results) == 1

    with pytest.warns(UserWarning, match="have been cancelled"):
        del results

    wait_until(lambda: is_idle(kept()), "the calls are over")
    assert len(list(tmp_path.iterdir())) <= 2
    assert os.getpid() not in pids()


def test_calls_from_several_threads() -> None:
    results: dict[int, list[int]] = {}

    def client(number: int) -> None:
        results[number] = Parallel(n_jobs=2, backend="crew")(delayed(abs)(i + number) for i in range(100))

    clients = [threading.Thread(target=client, args=(number,)) for number in range(3)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()

    assert {number: list(range(number, number + 100)) for number in range(3)} == results


# ---------------------------------------------------------------------- errors and ends


def test_an_exception_keeps_type_attributes_cause_and_frames() -> None:
    with pytest.raises(Odd, match=r"^3 and 3$") as caught:
        Parallel(n_jobs=2)(delayed(fail_at)(number, 3) for number in range(10))

    assert caught.value.left == 3
    assert isinstance(caught.value.__cause__, IndexError)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "fail_at"
    assert "__call__" in names[:-1]  # joblib's own here


def test_a_generator_raises_in_its_place() -> None:
    results = Parallel(n_jobs=2, return_as="generator")(delayed(fail_at)(number, 3) for number in range(4))

    with pytest.raises(Odd) as caught:
        list(results)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fail_at"


def test_what_cannot_be_pickled_is_an_error() -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        Parallel(n_jobs=2)(delayed(abs)(threading.Lock()) for _ in range(3))


def test_a_failed_call_leaves_nothing_behind(tmp_path: Path) -> None:
    fail = tmp_path / "fail"
    waiting = [delayed(touch_and_wait)(str(tmp_path / f"{i} started"), "/nowhere") for i in range(10)]
    calls = [delayed(fail_when)(str(fail)), *waiting]
    results = Parallel(n_jobs=2, batch_size=1, return_as="generator", pre_dispatch="all")(calls)
    fail.touch()

    with pytest.raises(ValueError, match="the first"):
        next(results)

    wait_until(lambda: is_idle(kept()), "no call runs")
    # One beside the first, and one that its worker took before the failure was known here.
    assert len(list(tmp_path.glob("* started"))) <= 2
    assert os.getpid() not in pids()


def test_the_last_call_is_ended_first(pool: CrewExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a worker whose task is ended begins the next one before that is ended, too."""
    submitted = []
    kill = CrewFuture.kill

    def note(future: CrewFuture[Any]) -> bool:
        submitted.append(future._submitted)
        return kill(future)

    monkeypatch.setattr(CrewFuture, "kill", note)
    with joblib.parallel_config(backend="crew", executor=pool), pytest.raises(multiprocessing.TimeoutError):
        Parallel(n_jobs=3, timeout=0.1, batch_size=1, pre_dispatch="all")([delayed(time.sleep)(60)] * 8)

    assert len(set(submitted)) > 1
    assert submitted == sorted(submitted, reverse=True)


def test_a_call_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    calls = [delayed(touch_and_wait)(str(tmp_path / str(i)), "/nowhere") for i in range(6)]
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(n_jobs=2, timeout=0.2, batch_size=1)(calls)

    wait_until(lambda: is_idle(kept()), "no call runs")
    assert len(list(tmp_path.iterdir())) <= 2


def test_a_parallel_that_failed_can_be_used_again() -> None:
    # What joblib has put together and not yet sent of a failed call it sends with the next, on any backend.
    with Parallel(n_jobs=2, batch_size=1, pre_dispatch="all") as parallel:
        with pytest.raises(Odd):
            parallel(delayed(fail_at)(number, 3) for number in range(10))
        assert list(range(10)) == parallel(delayed(abs)(i) for i in range(10))


def test_a_dead_worker_fails_the_call_and_not_the_next() -> None:
    with pytest.raises(WorkerCrashError):
        Parallel(n_jobs=2)(delayed(die)() for _ in range(2))

    assert os.getpid() not in pids()


def test_ctrl_c_ends_the_calls(tmp_path: Path) -> None:
    script = """
        import os, signal, sys, threading, time
        from joblib import Parallel, delayed
        import crew_executor.joblib

        def work(number):
            open(f"{number} started", "w").close()
            if number < 2:
                time.sleep(3600)

        def interrupt():
            while not (os.path.exists("0 started") and os.path.exists("1 started")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        crew_executor.joblib.register()
        threading.Thread(target=interrupt).start()
        try:
            Parallel(n_jobs=2, backend="crew", batch_size=1, pre_dispatch="all")(delayed(work)(i) for i in range(50))
        except KeyboardInterrupt:
            print("interrupted")
        print(Parallel(n_jobs=2, backend="crew")(delayed(abs)(i) for i in range(3)))
        print(sorted(name for name in os.listdir() if name.endswith("started")))
    """
    run = run_script(tmp_path, script, "-W", "error")

    assert ("interrupted\n[0, 1, 2]\n['0 started', '1 started']\n", "") == (run.stdout, run.stderr)
    assert run.returncode == 0


@pytest.mark.parametrize("rest", ["", "results = Parallel(n_jobs=2, return_as='generator', backend='crew')(endless())"])
def test_the_interpreter_ends_quietly(rest: str, tmp_path: Path) -> None:
    script = f"""
        import itertools
        from joblib import Parallel, delayed
        import crew_executor.joblib

        def endless():
            return (delayed(abs)(i) for i in itertools.count())

        crew_executor.joblib.register()
        print(Parallel(n_jobs=2, backend="crew")(delayed(abs)(i) for i in range(3)))
        {rest}
    """
    run = run_script(tmp_path, script, *(() if rest else ("-W", "error")))

    assert (0, "[0, 1, 2]\n") == (run.returncode, run.stdout)
    assert "Traceback" not in run.stderr
    assert rest or not run.stderr


# ---------------------------------------------------------------------- what travels


def test_a_script_needs_no_guard_and_no_module(tmp_path: Path) -> None:
    script = """
        from joblib import Parallel, delayed, parallel_config
        import crew_executor.joblib

        factor = 3

        class Point:
            def __init__(self, x):
                self.x = x

        def scaled(point):
            return Point(point.x * factor)

        crew_executor.joblib.register()
        with parallel_config(backend="crew", n_jobs=2):
            print([point.x for point in Parallel()(delayed(scaled)(Point(i)) for i in range(4))])
            step = 10
            print(Parallel()(delayed(lambda x: x + step)(i) for i in range(4)))
            print(all(type(point) is Point for point in Parallel()(delayed(scaled)(Point(i)) for i in range(4))))
    """
    run = run_script(tmp_path, script, "-W", "error")

    assert (0, "[0, 3, 6, 9]\n[10, 11, 12, 13]\nTrue\n", "") == (run.returncode, run.stdout, run.stderr)


def in_shared_memory() -> set[Path]:
    """Return what joblib has there of this process: others may run tests, too."""
    return {path for path in Path("/dev/shm").iterdir() if f"_{os.getpid()}_" in path.name}


def test_a_large_array_is_mapped_and_its_file_removed(tmp_path: Path) -> None:
    large, small = np.ones(LARGE), np.ones(3)
    before = in_shared_memory()
    parallel = Parallel(n_jobs=2, temp_folder=tmp_path)

    assert [("memmap", False, LARGE)] * 3 == parallel(delayed(kind_of)(large) for _ in range(3))
    assert [("ndarray", True, 3)] * 3 == parallel(delayed(kind_of)(small) for _ in range(3))
    assert [("memmap", False, LARGE)] * 3 == Parallel(n_jobs=2)(delayed(kind_of)(large) for _ in range(3))
    assert [] == list(tmp_path.iterdir())
    assert before == in_shared_memory()


def test_a_large_array_is_written_once(tmp_path: Path) -> None:
    large, release = np.ones(LARGE), tmp_path / "release"
    folder = tmp_path / "arrays"
    folder.mkdir()
    calls = [delayed(touch_and_wait)(str(tmp_path / "0"), str(release)), *[delayed(kind_of)(large)] * 9]
    parallel = Parallel(n_jobs=2, batch_size=1, return_as="generator", pre_dispatch="all", temp_folder=folder)
    results = parallel(calls)
    files = [path for path in folder.rglob("*") if path.is_file()]
    release.touch()

    assert len(list(results)) == 10
    assert len(files) == 1
    assert [] == list(folder.iterdir())


def test_arrays_are_copied_where_that_is_wanted() -> None:
    calls = [delayed(kind_of)(np.ones(LARGE))] * 2

    assert [("ndarray", True, LARGE)] * 2 == Parallel(n_jobs=2, max_nbytes=None)(calls)
    assert [("memmap", True, LARGE)] * 2 == Parallel(n_jobs=2, mmap_mode="c")(calls)


def test_workers_elsewhere_get_copies(pool: CrewExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_executor.joblib, "LocalLauncher", type("Other", (), {}))
    with joblib.parallel_config(backend="crew", executor=pool):
        results = Parallel(n_jobs=2)(delayed(kind_of)(np.ones(LARGE)) for _ in range(2))

    assert [("ndarray", True, LARGE)] * 2 == results


def test_calls_write_into_an_array_of_the_users(tmp_path: Path) -> None:
    shared = np.memmap(tmp_path / "shared", dtype=float, shape=6, mode="w+")

    Parallel(n_jobs=2)(delayed(write)(shared, place) for place in range(6))

    assert [1, 2, 3, 4, 5, 6] == shared.tolist()


def test_files_of_a_failed_call_are_removed(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        Parallel(n_jobs=2, temp_folder=tmp_path)(delayed(operator.attrgetter("none"))(np.ones(LARGE)) for _ in range(3))

    assert [] == list(tmp_path.iterdir())
