"""Packages that make a ProcessPoolExecutor of their own get ours instead: tqdm, black, pylint, compileall."""

from __future__ import annotations

import compileall
import io
import multiprocessing
import textwrap
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any
from unittest import mock

import black
import black.concurrency
import pylint.lint
import pytest
from pylint.reporters.text import TextReporter
from tqdm import tqdm
from tqdm.contrib.concurrent import process_map

from crew_executor import CrewExecutor, callbacks

from .helpers import WORKERS
from .tasks import count_primes, getpid_of

LIMITS = list(range(1000, 6000, 10))
EXPECTED = list(map(count_primes, LIMITS))


@pytest.fixture
def made() -> Iterator[mock.Mock]:
    """Put ours in the place of concurrent.futures.ProcessPoolExecutor, and note with which arguments it is made."""
    with mock.patch("concurrent.futures.ProcessPoolExecutor", wraps=CrewExecutor) as pool:
        yield pool


@pytest.fixture
def _lock() -> Iterator[None]:
    tqdm.set_lock(multiprocessing.get_context("spawn").RLock())
    yield
    del tqdm._lock


def files_in(directory: Path, text: str) -> list[Path]:
    paths = [directory / f"module{number}.py" for number in range(12)]
    for path in paths:
        path.write_text(text)
    return paths


def last_line(bar: io.StringIO) -> str:
    return bar.getvalue().rstrip("\n").rpartition("\r")[2]


@pytest.mark.parametrize("chunksize", [1, 10])
@pytest.mark.usefixtures("_lock")
def test_process_map_of_tqdm(made: mock.Mock, chunksize: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is moved by callbacks, one for each future, and has moved to its end when the last result is there."""
    monkeypatch.setattr(callbacks, "PATIENCE_SECONDS", 30)
    bar = io.StringIO()
    results = process_map(count_primes, LIMITS, max_workers=WORKERS, chunksize=chunksize, file=bar)

    assert results == EXPECTED
    assert {"max_workers", "initializer", "initargs"} == made.call_args.kwargs.keys()
    assert f"{len(LIMITS) // chunksize}/{len(LIMITS)}" in last_line(bar)


@pytest.mark.usefixtures("_lock")
def test_process_map_runs_in_workers(made: mock.Mock) -> None:
    pids = process_map(getpid_of, range(20), max_workers=WORKERS, max_tasks_per_child=5, disable=True)

    assert 4 <= len(set(pids)) <= 20
    assert multiprocessing.current_process().pid not in pids


def test_bars_around_results() -> None:
    bar = io.StringIO()
    with CrewExecutor(WORKERS) as executor:
        mapped = list(tqdm(executor.map(count_primes, LIMITS), total=len(LIMITS), file=bar))
        assert f"{len(LIMITS)}/{len(LIMITS)}" in last_line(bar)
        futures = [executor.submit(count_primes, limit) for limit in LIMITS]
        completed = [future.result() for future in tqdm(as_completed(futures), total=len(futures), file=bar)]

    assert f"{len(LIMITS)}/{len(LIMITS)}" in last_line(bar)
    assert mapped == EXPECTED
    assert sorted(completed) == sorted(EXPECTED)


def test_black_formats_files(tmp_path: Path) -> None:
    paths = files_in(tmp_path, "print( 'hello' )\n")
    arguments = ["--quiet", "--no-cache", f"--workers={WORKERS}", *map(str, paths)]
    with mock.patch("black.concurrency.ProcessPoolExecutor", wraps=CrewExecutor) as pool:
        black.main(arguments, standalone_mode=False)

    assert mock.call(max_workers=WORKERS) == pool.call_args
    assert {'print("hello")\n'} == {path.read_text() for path in paths}


def test_pylint_finds_what_it_finds_alone(made: mock.Mock, tmp_path: Path) -> None:
    """With an initializer whose argument is the linter."""
    paths = files_in(
        tmp_path, textwrap.dedent("""\
            import os


            def area(width, height):
                return width * width
            """)
    )  # fmt: skip
    crew, serial = lint(paths, WORKERS), lint(paths, 1)

    assert {"max_workers", "initializer", "initargs"} == made.call_args.kwargs.keys()
    assert 24 == len(serial)
    assert serial == crew


def lint(paths: list[Path], jobs: int) -> list[str]:
    output = io.StringIO()
    arguments = [f"--jobs={jobs}", "--rcfile=", "--disable=all", "--enable=unused-import,unused-argument"]
    pylint.lint.Run([*arguments, *map(str, paths)], reporter=TextReporter(output), exit=False)
    return sorted(line for line in output.getvalue().splitlines() if line.count(":") > 2)


def test_compileall_compiles_a_directory(made: mock.Mock, tmp_path: Path) -> None:
    paths = files_in(tmp_path, "print('hello')\n")

    assert compileall.compile_dir(tmp_path, workers=WORKERS, quiet=2)
    assert WORKERS == made.call_args.kwargs["max_workers"]
    assert len(paths) == len(list(tmp_path.glob("__pycache__/*.pyc")))


def test_arguments_of_ours_that_the_package_does_not_know(tmp_path: Path) -> None:
    pools = []

    def make(*args: Any, **kwargs: Any) -> CrewExecutor:
        pools.append(CrewExecutor(*args, **kwargs, name="black", idle_timeout=60))
        return pools[-1]

    paths = files_in(tmp_path, "print( 'hello' )\n")
    with mock.patch("black.concurrency.ProcessPoolExecutor", make):
        black.main(["--quiet", "--no-cache", "--workers=2", *map(str, paths)], standalone_mode=False)

    assert [12] == [pool.stats().done for pool in pools]
