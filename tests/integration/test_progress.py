"""Progress of real tasks: on a terminal, in a pipe, in a notebook, and where nothing can be written."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FuturesTimeoutError
from pathlib import Path
from typing import Any

import pytest

import crew_executor
from crew_executor import CrewExecutor, WorkerCrashError, screens
from crew_executor.futures import CrewFuture

from .helpers import die, fail_with_cause, identity, touch_and_wait, wait_until
from .test_notebook import Notebook


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and keeps all that was ever drawn."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        return [line.strip() for line in self.getvalue().replace("\n", "\r").split("\r") if line.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Stand in for stderr; without tqdm."""
    for name in ("tqdm", "tqdm.std"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    # Not sys.stderr itself: pytest takes that back when the test begins.
    monkeypatch.setattr(screens, "sys", types.SimpleNamespace(stderr=made, modules=sys.modules))
    return made


@pytest.fixture(scope="module")
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(2) as made:
        yield made


@pytest.fixture
def _no_leaks(_warm_up: None) -> None:
    """The executor of the module lives on."""


def fail_at(wrong: int, number: int) -> int:
    if number == wrong:
        raise LookupError(number)
    return number


def wait_if_zero(release: str, number: int) -> int:
    if number == 0:
        wait_until(Path(release).exists, "the test has seen enough")
    return number


def exhaust(results: Iterator[Any]) -> int:
    return sum(1 for _ in results)


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "together": ({}, {}),
    "as they come": ({"ordered": False}, {}),
    "with a buffer": ({}, {"buffersize": 7}),
    "with a large buffer": ({"ordered": False}, {"buffersize": 200}),
    "in chunks": ({}, {"chunksize": 7}),
    "in chunks with a buffer": ({"ordered": False}, {"chunksize": 7, "buffersize": 20}),
    "with futures": ({"retries": 1}, {}),
    "with futures as they come": ({"retries": 1, "ordered": False}, {"buffersize": 5}),
}
"""Options and arguments of all the ways that items go."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_sized", [True, False], ids=["list", "generator"])
def test_a_map_says_at_its_end_that_all_are_done(
    way: str, is_sized: bool, executor: CrewExecutor, terminal: Terminal
) -> None:
    options, arguments = WAYS[way]
    items = list(range(100))
    view = executor.options(progress=True, name="fit", **options)
    results = list(view.map(identity, items if is_sized else iter(items), **arguments))

    assert sorted(results) == items  # type: ignore[type-var]
    assert terminal.lines()[-1].startswith("fit: 100 % 100/100 in ")
    assert terminal.getvalue().endswith("\n")


@pytest.mark.parametrize("way", ["together", "in chunks", "with futures"])
def test_what_is_done_is_counted_not_what_is_consumed(
    way: str, executor: CrewExecutor, terminal: Terminal, tmp_path: Path
) -> None:
    """The first task waits until the others are shown as done; only then there is a first result."""
    options, arguments = WAYS[way]
    release = tmp_path / "release"
    size = arguments.get("chunksize", 1)
    total = 5 * size
    view = executor.options(progress=True, name="fit", **options)
    others = f"{total - size}/{total}"
    seen = threading.Thread(target=lambda: (wait_until(lambda: others in terminal.getvalue(), others), release.touch()))
    seen.start()
    results = view.map(wait_if_zero, [str(release)] * total, range(total), **arguments)

    assert list(results) == list(range(total))
    seen.join()
    assert "2 workers" in terminal.getvalue()


@pytest.mark.parametrize("way", WAYS)
def test_a_map_that_waits_for_its_first_result_is_shown(
    way: str, executor: CrewExecutor, terminal: Terminal, tmp_path: Path
) -> None:
    options, arguments = WAYS[way]
    release = tmp_path / "release"
    size = arguments.get("chunksize", 1)
    text = f"0 % 0/{size}"
    seen = threading.Thread(target=lambda: (wait_until(lambda: text in terminal.getvalue(), text), release.touch()))
    seen.start()
    results = executor.options(progress=True, **options).map(
        wait_if_zero, [str(release)] * size, [0] * size, **arguments
    )

    assert exhaust(results) == size
    seen.join()


@pytest.mark.parametrize("way", WAYS)
def test_a_map_that_fails_says_so_and_how_far_it_came(way: str, executor: CrewExecutor, terminal: Terminal) -> None:
    options, arguments = WAYS[way]
    view = executor.options(progress=True, **options)
    with pytest.raises(LookupError):
        exhaust(view.map(fail_at, [41] * 100, range(100), **arguments))

    last = terminal.lines()[-1]
    assert "fail_at: " in last
    assert "1 failed" in last


@pytest.mark.parametrize("way", WAYS)
def test_a_map_that_nobody_finishes_is_closed_in_its_own_line(
    way: str, executor: CrewExecutor, terminal: Terminal
) -> None:
    options, arguments = WAYS[way]
    results = executor.options(progress=True, **options).map(identity, range(100), **arguments)
    next(results)
    results.close()  # type: ignore[attr-defined]

    assert terminal.getvalue().endswith("\n")


@pytest.mark.parametrize("way", WAYS)
def test_an_error_of_the_items_is_the_callers(way: str, executor: CrewExecutor, terminal: Terminal) -> None:
    def numbers() -> Iterator[int]:
        yield from range(30)
        raise LookupError

    options, arguments = WAYS[way]
    with pytest.raises(LookupError):
        exhaust(executor.options(progress=True, **options).map(identity, numbers(), **arguments))

    assert terminal.getvalue().endswith("\n")


@pytest.mark.parametrize("way", WAYS)
def test_no_result_is_kept_for_the_sake_of_progress(way: str, executor: CrewExecutor, terminal: Terminal) -> None:
    options, arguments = WAYS[way]
    results = executor.options(progress=True, **options).map(make_stream, range(10), **arguments)
    for _ in range(10):
        known = weakref.ref(next(results))

        assert known() is None


class Thing:
    """Can be referred to weakly, and pickled."""


def make_stream(_number: int) -> Thing:
    return Thing()


def test_a_map_of_nothing_shows_nothing(executor: CrewExecutor, terminal: Terminal) -> None:
    assert list(executor.options(progress=True).map(identity, [])) == []
    assert terminal.getvalue() == ""


def test_submit_shows_nothing(executor: CrewExecutor, terminal: Terminal) -> None:
    assert executor.options(progress=True).submit(identity, 5).result() == 5
    assert terminal.getvalue() == ""


def test_a_map_whose_time_is_over_has_no_failure(executor: CrewExecutor, terminal: Terminal, tmp_path: Path) -> None:
    release = tmp_path / "release"
    view = executor.options(progress=True)
    try:
        with pytest.raises(FuturesTimeoutError):
            exhaust(view.map(wait_if_zero, [str(release)] * 5, range(5), timeout=0.3))
    finally:
        release.touch()

    assert "failed" not in terminal.getvalue()


def test_futures_of_all_kinds_are_watched_together(executor: CrewExecutor, terminal: Terminal) -> None:
    with ThreadPoolExecutor(1) as threads, ProcessPoolExecutor(1) as processes, CrewExecutor(1) as other:
        futures: list[Future[Any]] = [
            pool.submit(identity, number) for number in range(5) for pool in (executor, threads, processes, other)
        ]
        futures += [executor.submit(fail_with_cause), other.submit(die), cancelled()]
        yielded = list(crew_executor.progress(futures, executor=executor, description="all"))

    assert set(futures) == set(yielded)
    last = terminal.lines()[-1]
    assert last.startswith("all: 100 % 23/23 in ")
    assert last.endswith("2 failed, 1 cancelled")
    assert isinstance(futures[-2].exception(), WorkerCrashError)


def cancelled() -> Future[Any]:
    future: Future[Any] = Future()
    future.cancel()
    return future


def test_a_result_is_unpickled_by_who_asks_for_it(executor: CrewExecutor, terminal: Terminal) -> None:
    futures = [executor.submit(identity, 1), executor.submit(fail_with_cause)]
    for future in crew_executor.progress(futures):
        assert isinstance(future, CrewFuture)
        assert not future._is_open
    assert "1 failed" in terminal.lines()[-1]


def test_a_ctrl_c_leaves_the_pool_usable_and_the_line_closed(
    executor: CrewExecutor, terminal: Terminal, tmp_path: Path
) -> None:
    started, release = tmp_path / "started", tmp_path / "release"

    def interrupt() -> None:
        wait_until(started.exists, "the task runs")
        wait_until(lambda: "0/1" in terminal.getvalue(), "it is waited for")
        os.kill(os.getpid(), signal.SIGINT)

    future = executor.submit(touch_and_wait, str(started), str(release))
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            exhaust(crew_executor.progress([future]))
    finally:
        release.touch()
        thread.join()

    assert terminal.getvalue().endswith("\n")
    assert len(list(crew_executor.progress([future]))) == 1


def test_a_task_can_have_progress_of_its_own(executor: CrewExecutor) -> None:
    assert executor.submit(map_in_task, executor).result() == (10, "identity: 100 % 10/10")


def map_in_task(executor: CrewExecutor) -> tuple[int, str]:
    sys.stderr, real = io.StringIO(), sys.stderr
    try:
        number = exhaust(executor.options(progress=True).map(identity, range(10)))
        return number, sys.stderr.getvalue()[-200:].partition(".")[2].partition("helpers.")[2].partition(" in ")[0]
    finally:
        sys.stderr = real


# ---------------------------------------------------------------------- programs

MAP = """
import sys
import crew_executor
from crew_executor import CrewExecutor

with CrewExecutor(2) as executor:
    print(sum(executor.options(progress=True, name="fit").map(abs, range(2000))))
    futures = [executor.submit(abs, number) for number in range(50)]
    print(sum(future.result() for future in crew_executor.progress(futures, executor=executor)))
"""
PRINTED = b"1999000\n1225\n"

WITHOUT_TQDM = "import sys; sys.modules['tqdm'] = sys.modules['tqdm.std'] = None\n"


def run(script: str, stderr: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", WITHOUT_TQDM + script]
    # PYTHONUNBUFFERED would hide what stays in a buffer until the end.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    options = {"env": environment, **options}
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, timeout=50, check=False, **options)


def test_a_pipe_gets_whole_lines() -> None:
    done = run(MAP, subprocess.PIPE)
    lines = done.stderr.decode().splitlines()

    assert (done.returncode, done.stdout) == (0, PRINTED)
    assert b"\r" not in done.stderr
    assert b"\x1b" not in done.stderr
    assert lines[-2].startswith("fit: 100 % 2000/2000 in ")
    assert lines[-1].startswith("100 % 50/50 in ")


@contextlib.contextmanager
def nobody_reads() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@contextlib.contextmanager
def is_full() -> Iterator[int]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    yield writing
    os.close(writing)
    os.close(reading)


@contextlib.contextmanager
def no_space() -> Iterator[int]:
    writing = os.open("/dev/full", os.O_WRONLY)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("place", [nobody_reads, is_full, no_space])
def test_a_place_that_takes_nothing_does_no_harm(place: Callable[[], Any]) -> None:
    with place() as stderr:
        done = run(MAP, stderr)

    assert (done.returncode, done.stdout) == (0, PRINTED)


def test_a_program_without_stderr_does_its_work() -> None:
    done = run("import os; os.close(2); sys.stderr = None\n" + MAP, None)

    assert (done.returncode, done.stdout) == (0, PRINTED)


def on_a_terminal(script: str, columns: int) -> bytes:
    """Run a program whose stderr is a terminal of its own, and return what is drawn there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, columns)) if sys.version_info >= (3, 11) else None
    drawn: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: the last end on the other side is closed
            while text := os.read(ours, 65536):
                drawn.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        done = run(script, theirs, env={**os.environ, "TERM": "xterm"})
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)

    assert (done.returncode, done.stdout) == (0, PRINTED)
    return b"".join(drawn).replace(b"\r\n", b"\n")  # as the terminal's own mode makes it


@pytest.mark.skipif(sys.version_info < (3, 11), reason="termios sets no size of a terminal before Python 3.11")
@pytest.mark.parametrize(
    ("columns", "last"), [(80, b"\r100 % 50/50 in "), (0, b"\r100 % 50/50 in "), (10, b"\r100 % 50/")]
)
def test_a_terminals_line_is_written_over(columns: int, last: bytes) -> None:
    drawn = on_a_terminal(MAP, columns)
    before_last = drawn[: drawn.rindex(last)]

    assert b"\x1b" not in drawn
    assert drawn.count(b"\n") == 2  # one for each bar
    assert before_last.endswith(b"\n") or b"\r" in before_last
    assert max(len(line.strip()) for line in drawn.replace(b"\n", b"\r").split(b"\r")) < (columns or 80)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="as above")
def test_tqdm_draws_its_bar_where_it_is_installed() -> None:
    pytest.importorskip("tqdm")
    drawn = on_a_terminal(
        MAP.replace("import sys", "import sys; del sys.modules['tqdm'], sys.modules['tqdm.std']", 1), 80
    )

    assert "fit: 100%|█" in drawn.decode()
    assert "| 50/50 [" in drawn.decode()


@pytest.mark.parametrize("argument", ["", "file=sys.stdout, "])
def test_a_notebook_without_tqdm_gets_a_line(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    with contextlib.closing(Notebook(tmp_path)) as notebook:
        notebook.run(WITHOUT_TQDM + "import crew_executor")
        reply = notebook.run(
            "futures = [executor.submit(pow, n, 2) for n in range(9)]\n"
            f"len(list(crew_executor.progress(futures, {argument}executor=executor)))"
        )

        assert (reply.error, reply.value) == (None, "9")
        if not argument:
            assert reply.stderr.startswith("100 % 9/9 in ")
        assert notebook.run("list(executor.options(progress=True).map(abs, [-1]))").value == "[1]"


FORKS = """
import io, os, sys
import crew_executor
from crew_executor import CrewExecutor
from helpers import touch_and_wait

with CrewExecutor(1) as executor:
    shown = io.StringIO()
    futures = [executor.submit(abs, -1), executor.submit(touch_and_wait, sys.argv[1], sys.argv[2])]
    yielded = crew_executor.progress(futures, file=shown)
    next(yielded)
    pid = os.fork()
    if pid == 0:
        before = shown.getvalue()
        try:
            next(yielded)
        except RuntimeError as error:
            os._exit(0 if "forked child" in str(error) and shown.getvalue() == before else 5)
        os._exit(6)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    open(sys.argv[2], "w").close()
    next(yielded).result()
    print(next(yielded, "all"), "2/2" in shown.getvalue())
"""


def test_a_forked_child_neither_waits_nor_shows(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "started"), str(tmp_path / "release")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-W", "ignore", "-c", FORKS, *arguments]
    done = subprocess.run(command, capture_output=True, timeout=50, check=False, env=environment, text=True)

    assert (done.stdout, done.stderr) == ("0\nall True\n", "")


def test_who_does_not_ask_for_it_does_not_import_it() -> None:
    script = """
with CrewExecutor(1) as executor:
    list(executor.options(name="work", ordered=False).map(abs, range(10)))
    list(executor.options(retries=1).map(abs, range(10)))
parts = {"gauge", "screens", "meter"} & {name.rpartition(".")[2] for name in sys.modules}
print(sorted(parts))
"""
    done = run("import sys\nfrom crew_executor import CrewExecutor\n" + script, subprocess.PIPE)

    assert (done.stdout, done.stderr) == (b"[]\n", b"")


def test_the_option_does_not_hide_the_function() -> None:
    done = run(MAP + "print(callable(crew_executor.progress))", subprocess.DEVNULL)

    assert done.stdout == PRINTED + b"True\n"


def test_an_error_of_an_iterator_that_submits_is_the_callers(executor: CrewExecutor, terminal: Terminal) -> None:
    def submit() -> Iterator[Future[Any]]:
        yield executor.submit(identity, 1)
        raise LookupError

    with pytest.raises(LookupError):
        exhaust(crew_executor.progress(submit()))
