"""A real Jupyter kernel: functions of the notebook, interrupts, restart and shutdown of the kernel.

What is sent here is what a notebook sends: cells as text, an interrupt by the kernel's manager.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import textwrap
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from . import clients
from .helpers import DEADLINE, wait_until

NUDGE_SECONDS = 2.0
"""After so long without an answer the kernel is woken by another connection."""

SETUP = """
    import concurrent.futures, os, sys, time, warnings
    from crew_executor import CrewExecutor

    FOLDER = {folder!r}

    def touch(name):
        open(os.path.join(FOLDER, str(name)), "w").close()

    def work(number=0):
        touch(f"task {{number}}")
        until = time.monotonic() + 30
        while time.monotonic() < until and not os.path.exists(os.path.join(FOLDER, "release")):
            time.sleep(0.01)
        return number

    executor = CrewExecutor(2)
"""
"""The first cell. Its tasks take 30 seconds, or until the test makes the file `release`."""


class Reply:
    """What came of a cell: the name of its exception with the traceback, its last value, what it wrote to stderr."""

    def __init__(self) -> None:
        self.stderr = ""
        self.error: str | None = None
        self.traceback = ""
        self.value: str | None = None

    def take(self, message: dict[str, Any]) -> bool:
        """Add a message of the cell; return whether it was the last."""
        kind, content = message["msg_type"], message["content"]
        if kind == "stream" and content["name"] == "stderr":
            self.stderr += content["text"]
        elif kind == "error":
            self.error = content["ename"]
            self.traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(content["traceback"]))  # without colours
        elif kind == "execute_result":
            self.value = content["data"]["text/plain"]
        return kind == "status" and content["execution_state"] == "idle"


class Notebook:
    """A kernel with the executor of SETUP, and its processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._output = ""
        self._arrived: deque[dict[str, Any]] = deque()  # and not looked at
        self._mark = clients.new_mark()
        environment = {**os.environ, **dict([self._mark])}
        environment.pop("PYTEST_CURRENT_TEST", None)  # ipykernel would not show the output of other processes
        # Not by TCP: the manager looks for free ports and lets them go, and what else runs here may take them.
        self.manager = KernelManager(transport="ipc", ip=str(folder / "kernel"))
        self.manager.start_kernel(env=environment, cwd=str(folder))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.begin()

    def begin(self) -> None:
        """Wait for the kernel and run the first cell."""
        self.client.wait_for_ready(timeout=DEADLINE)
        assert self.run(SETUP.format(folder=str(self._folder))).error is None

    def start(self, cell: str) -> str:
        """Send a cell, wait until the kernel has taken it, and return the id of the request.

        ipykernel 7 sometimes leaves a request lying (https://github.com/ipython/ipykernel/issues/1554): its reply to
        the request before takes the wake-up of this one's arrival. The next connection wakes it.
        """
        request: str = self.client.execute(textwrap.dedent(cell))
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            try:
                message = self.client.get_iopub_msg(timeout=NUDGE_SECONDS)
            except queue.Empty:
                self._nudge()
                continue
            self._arrived.append(message)
            if message["parent_header"].get("msg_id") == request:
                return request
        raise AssertionError(f"within {DEADLINE:g} s the kernel did not take a cell")

    def _nudge(self) -> None:
        """Connect once more, and leave."""
        other = self.manager.blocking_client()
        other.start_channels(shell=True, iopub=False, stdin=False, hb=False, control=False)
        other.kernel_info()
        with contextlib.suppress(queue.Empty):
            other.get_shell_msg(timeout=NUDGE_SECONDS)
        other.stop_channels()

    def reply(self, request: str) -> Reply:
        """Wait until a cell is over."""
        reply = Reply()
        while True:
            message = self._next()
            if message["parent_header"].get("msg_id") == request and reply.take(message):
                return reply

    def _next(self) -> dict[str, Any]:
        message: dict[str, Any]
        message = self._arrived.popleft() if self._arrived else self.client.get_iopub_msg(timeout=DEADLINE)
        if message["msg_type"] == "stream":
            self._output += message["content"]["text"]
        return message

    def wait_shown(self, text: str) -> None:
        """Wait until a text was shown, by whatever cell."""
        while text not in self._output:
            self._next()

    def run(self, cell: str) -> Reply:
        """Run a cell."""
        return self.reply(self.start(cell))

    def interrupt(self, request: str) -> Reply:
        """Interrupt a cell that waits, as the stop button does, and return what came of it."""
        clients.wait_asleep(self.manager.provisioner.pid)
        self.manager.interrupt_kernel()
        return self.reply(request)

    def wait_for(self, *names: str) -> None:
        """Wait until tasks or the cell have made these files."""
        wait_until(lambda: all(map(self.has, names)), f"{', '.join(names)} are there")

    def has(self, name: str) -> bool:
        """Answer whether a task or the cell has made this file."""
        return (self._folder / name).exists()

    def tasks(self) -> int:
        """Return how many tasks have begun."""
        return len(list(self._folder.glob("task *")))

    def release(self) -> None:
        """Let all tasks end."""
        (self._folder / "release").touch()

    def family(self) -> set[int]:
        """Return all processes that came of the kernel, and itself."""
        return clients.family_of(self._mark)

    def close(self) -> None:
        """Leave nothing of it."""
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        clients.kill_family(self._mark)


@pytest.fixture(scope="module", autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use no kernel and no configuration of whoever runs the tests."""
    place = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            (place / name).mkdir()
            patch.setenv(name, str(place / name))
        yield


@pytest.fixture(autouse=True)
def _no_leaks() -> None:
    """The executors live in the kernel, not here; and jupyter_client keeps the descriptors of an event loop."""


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    with contextlib.closing(Notebook(tmp_path)) as made:
        yield made


def test_functions_of_the_notebook_travel(notebook: Notebook) -> None:
    cells = [
        ("def double(x): return 2 * x", None),
        ("executor.submit(double, 21).result()", "42"),
        ("def double(x): return 'redefined'", None),
        ("executor.submit(double, 21).result()", "'redefined'"),
        ("scale = 10", None),
        ("list(executor.map(lambda x: scale * x, range(3)))", "[0, 10, 20]"),
        ("class Point:\n    def __init__(self, x): self.x = x\n    def move(self): return Point(self.x + 1)", None),
        ("moved = executor.submit(Point(1).move).result()\n(type(moved) is Point, moved.x)", "(True, 2)"),
        (
            "sum(f.result() for f in concurrent.futures.as_completed(executor.submit(pow, n, 2) for n in range(4)))",
            "14",
        ),
        ("await executor.submit(pow, 2, 10)", "1024"),
    ]
    for cell, value in cells:
        reply = notebook.run(cell)

        assert (reply.error, reply.stderr, reply.value) == (None, "", value), cell


def test_what_a_task_logs_is_shown_by_the_handlers_of_the_notebook(notebook: Notebook) -> None:
    notebook.run("executor.submit(pow, 2, 2).result()")
    notebook.run(
        "import logging\n"
        "logging.basicConfig(level=logging.INFO, force=True, format='%(processName)s, %(task)s: %(message)s')\n"
        "def log(): logging.getLogger('mine').info('in the task')"
    )
    notebook.run("executor.options(name='one').submit(log).result()")

    notebook.wait_shown("crew-1-1, one: in the task")


def test_a_cell_that_waits_for_room_is_not_told_of_the_kernels_own_event_loop(notebook: Notebook) -> None:
    notebook.run("bounded = CrewExecutor(1, max_pending=1)")
    waiting = notebook.run("[bounded.submit(time.sleep, 0.2) for _ in range(3)][-1].result()")
    in_a_coroutine = notebook.run("async def use():\n    bounded.map(time.sleep, [0.2] * 3)\nawait use()")
    notebook.run("bounded.shutdown()")

    assert (waiting.error, waiting.stderr) == (None, "")
    assert in_a_coroutine.error is None
    assert "submit() waits for room" in in_a_coroutine.stderr


def test_an_error_of_a_task_is_shown_with_the_lines_of_the_notebook(notebook: Notebook) -> None:
    notebook.run("def fail():\n    raise LookupError('in the task')")
    reply = notebook.run("executor.submit(fail).result()")

    assert reply.error == "LookupError"
    assert "raise LookupError" in reply.traceback
    assert notebook.run("executor.submit(pow, 2, 2).result()").value == "4"


def test_output_and_warnings_of_tasks_are_shown_and_break_nothing(notebook: Notebook) -> None:
    notebook.run("def chat(i): print('line', i, 'x' * 1000); print('error line', i, file=sys.stderr)")
    notebook.run("for _ in executor.map(chat, range(500)): pass")
    notebook.run("executor.submit(print, 'the last line').result()")
    notebook.wait_shown("the last line")
    notebook.run("executor.submit(os.system, 'echo from a process of a task').result()")
    notebook.wait_shown("from a process of a task")
    reply = notebook.run(
        "future = executor.submit(warnings.warn, 'look out'); future.result(); future.record().warnings"
    )
    notebook.wait_shown("look out")

    assert reply.error is None
    assert "look out" in str(reply.value)
    assert notebook.run("executor.submit(lambda: sys.stdin.read()).result()").value == "''"
    assert notebook.run("executor.submit(pow, 2, 2).result()").value == "4"


def test_an_interrupt_gives_control_back_and_the_pool_goes_on(notebook: Notebook) -> None:
    request = notebook.start("executor.submit(work).result()")
    notebook.wait_for("task 0")

    assert notebook.interrupt(request).error == "KeyboardInterrupt"
    assert notebook.run("executor.submit(pow, 2, 2).result(timeout=20)").value == "4"  # by the other worker
    assert notebook.run("executor.stats().running").value == "1"  # the interrupt was for the cell, not for the task
    notebook.release()
    assert notebook.run("[f.result(timeout=20) for f in [executor.submit(work, n) for n in range(4)]]").value == (
        "[0, 1, 2, 3]"
    )


INTERRUPTED_MAPS = {
    "waiting": "list(executor.map(work, range(100)))",
    "waiting, in chunks": "list(executor.map(work, range(100), chunksize=2))",
    "in the body of a loop": """
        for number in executor.map(lambda n: work(n) if n else 0, range(100)):
            touch("body")
            time.sleep(600)
    """,
    "reading its input": """
        def numbers():
            yield from range(100)
            time.sleep(600)
        list(executor.map(work, numbers()))
    """,
}


@pytest.mark.parametrize("place", INTERRUPTED_MAPS)
def test_queued_work_of_an_interrupted_map_is_cancelled(place: str, notebook: Notebook) -> None:
    request = notebook.start(INTERRUPTED_MAPS[place])
    wait_until(lambda: notebook.tasks() == 2, "two tasks run")
    if "body" in place:
        notebook.wait_for("body")

    assert notebook.interrupt(request).error == "KeyboardInterrupt"
    assert notebook.run("executor.stats().queued").value == "0"
    notebook.release()
    assert notebook.run("executor.submit(pow, 2, 2).result(timeout=20)").value == "4"
    # The chunk that runs is finished: with one worker per chunk, the other may still be at its second item.
    wait_until(lambda: notebook.tasks() == (4 if "chunks" in place else 2), "no task but these has run")


def test_interrupting_again_and_again_leaves_the_pool_usable(notebook: Notebook) -> None:
    for number in range(5):
        request = notebook.start(f"touch('cell {number}'); concurrent.futures.wait([executor.submit(work, {number})])")
        notebook.wait_for(f"cell {number}")

        assert notebook.interrupt(request).error == "KeyboardInterrupt"
    notebook.release()
    assert notebook.run("executor.submit(pow, 2, 2).result(timeout=20)").value == "4"


def test_an_interrupted_with_block_leaves_no_worker(notebook: Notebook) -> None:
    before = notebook.family()
    request = notebook.start("with CrewExecutor(2) as own:\n    list(own.map(work, range(100)))")
    notebook.wait_for("task 0", "task 1")

    assert len(notebook.family()) == len(before) + 2
    assert notebook.interrupt(request).error == "KeyboardInterrupt"
    assert notebook.family() == before
    assert notebook.run("executor.submit(pow, 2, 2).result(timeout=20)").value == "4"


@pytest.mark.parametrize("are_busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("now", [False, True], ids=["orderly", "now"])
def test_a_restarted_kernel_leaves_no_worker_and_can_begin_again(now: bool, are_busy: bool, notebook: Notebook) -> None:
    notebook.run("first = [executor.submit(work, n) for n in range(1002)]")
    notebook.wait_for("task 0", "task 1")
    if not are_busy:
        notebook.release()
        notebook.run("concurrent.futures.wait(first)")
    before = notebook.family()
    notebook.manager.restart_kernel(now=now)
    wait_until(lambda: not before & notebook.family(), "all processes of the old kernel are gone", 10)
    notebook.begin()

    assert notebook.run("executor.submit(pow, 2, 2).result(timeout=20)").value == "4"


@pytest.mark.parametrize("state", ["idle", "busy", "interrupted"])
def test_a_kernel_that_is_shut_down_leaves_no_worker(state: str, notebook: Notebook) -> None:
    request = notebook.start("list(executor.map(work, range(1002)))")
    notebook.wait_for("task 0", "task 1")
    if state == "idle":
        notebook.release()
        notebook.reply(request)
    elif state == "interrupted":
        notebook.interrupt(request)
    else:
        notebook.interrupt(request)
        notebook.run("futures = [executor.submit(work, n) for n in range(1002)]")
    notebook.manager.shutdown_kernel()
    wait_until(lambda: not notebook.family(), "no process of the kernel is left", 10)
