"""Workers have what the client's process is like when they are launched, whatever earlier ones had."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from crew_executor import BrokenCrewError, CrewExecutor
from crew_executor.launchers import LocalLauncher, local
from crew_executor.launchers.supervisor_handle import SupervisorHandle
from crew_executor.process_settings import current_environment

SETTINGS = """
import os, resource, sys
from crew_executor import CrewExecutor
from crew_executor.launchers import LocalLauncher
from crew_executor.launchers import LocalLauncher
def look():
    mask = os.umask(0)
    os.umask(mask)
    return (
        mask, resource.getrlimit(resource.RLIMIT_NOFILE)[0], os.nice(0), sorted(os.sched_getaffinity(0)),
        sys.getrecursionlimit(), sys.get_int_max_str_digits(),
    )
before = look()
with CrewExecutor(1) as executor:  # its supervisor has what is now
    assert executor.submit(look).result() == before
os.umask(0o77)
resource.setrlimit(resource.RLIMIT_NOFILE, (500, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
os.nice(3)
os.sched_setaffinity(0, before[3][:1])
sys.setrecursionlimit(5000)
sys.set_int_max_str_digits(10000)
launcher = LocalLauncher(python=sys.executable if "own" in sys.argv else None)
with CrewExecutor(1, launcher=launcher, max_tasks_per_child=1) as executor:
    found, again = executor.submit(look).result(), executor.submit(look).result()
    assert found == again == look() == (0o77, 500, before[2] + 3, before[3][:1], 5000, 10000), (found, again)
    os.umask(before[0])
    sys.setrecursionlimit(before[4])
    wanted = (before[0], *found[1:4], before[4], found[5])
    for _ in range(5):  # the successors of a moment ago may be there already
        found = executor.submit(look).result()
    assert found == look() == wanted, found
"""


@pytest.mark.parametrize("interpreter", ["forked", "own"])
def test_workers_have_the_clients_settings(interpreter: str) -> None:
    command = [sys.executable, "-W", "error", "-c", SETTINGS, interpreter]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _mine() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MINE")}


@pytest.mark.parametrize("interpreter", ["forked", "own"])
def test_workers_have_the_clients_environment_as_it_is(interpreter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = LocalLauncher(python=sys.executable if interpreter == "own" else None)
    monkeypatch.setenv("MINE", "1")
    monkeypatch.setenv("MINE_TOO", "\N{SNOWMAN}")
    with CrewExecutor(1, launcher=launcher) as executor:
        assert executor.submit(_mine).result() == {"MINE": "1", "MINE_TOO": "\N{SNOWMAN}"}
        monkeypatch.setenv("MINE", "2")
        assert executor.submit(_mine).result()["MINE"] == "1"  # it is there already
    monkeypatch.delenv("MINE_TOO")
    with CrewExecutor(1, launcher=launcher) as executor:
        assert executor.submit(_mine).result() == {"MINE": "2"}
    monkeypatch.delenv("MINE")
    with CrewExecutor(1, launcher=launcher) as executor:
        assert executor.submit(_mine).result() == {}


def _set_mine() -> None:
    os.environ.update({"MINE": "2", "MINE_NEW": "3"})


def test_what_a_task_does_to_its_environment_is_not_its_successors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "1")
    with CrewExecutor(1, max_tasks_per_child=1) as executor:
        executor.submit(_set_mine).result()
        assert executor.submit(_mine).result() == {"MINE": "1"}


def test_executors_side_by_side_give_their_workers_what_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One supervisor forks them all, and is told only what has changed."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with (
        CrewExecutor(2, launcher=LocalLauncher(gpus=["3", "5"]), max_tasks_per_child=1) as with_gpus,
        CrewExecutor(1, max_tasks_per_child=1) as without,
    ):
        on_gpus = with_gpus.options(resources={"gpus": 1})
        devices = set()
        for _ in range(8):
            devices |= {on_gpus.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() for _ in range(2)}
            assert without.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() is None
    assert devices == {"3", "5"}


def test_an_environment_that_cannot_be_had_costs_its_own_launches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the client has made another locale of the supervisor's, in which a value cannot be said."""
    with CrewExecutor(1) as other:
        running = other.submit(os.getpid)
        before = current_environment()
        with monkeypatch.context() as patch:
            patch.setattr(local, "current_environment", lambda: {**before, "A=B": "1"})
            with pytest.raises(BrokenCrewError, match="environment cannot be had here"):
                CrewExecutor(1, launcher=LocalLauncher(max_failed_launches=1)).submit(os.getpid).result()
        with CrewExecutor(1) as next_one:
            assert next_one.submit(os.getenv, "PATH").result() == os.environ.get("PATH")
        assert running.result() == other.submit(os.getpid).result()


def test_the_time_zone_goes_with_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with CrewExecutor(1) as executor:  # its supervisor is there before
        executor.submit(os.getpid).result()
    try:
        for zone, offset in (("AAA-3", "+0300"), ("BBB+5", "-0500")):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            with CrewExecutor(1) as executor:
                assert executor.submit(time.strftime, "%z").result() == time.strftime("%z") == offset
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_could_not_be_told_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when too many descriptors of this user are on their way: that is no end of the supervisor."""
    failures = []
    send = SupervisorHandle._send

    def fail_once(self: SupervisorHandle, descriptors: tuple[int, ...] = (), /, **message: Any) -> None:
        if message["op"] == "launch" and not failures:
            failures.append(OSError(errno.ETOOMANYREFS, "too many references"))
            raise failures[0]
        send(self, descriptors, **message)

    monkeypatch.setenv("MINE", "1")
    monkeypatch.setattr(SupervisorHandle, "_send", fail_once)
    with CrewExecutor(1) as executor:  # a launch that is lost would be missed after startup_timeout, a minute
        assert executor.submit(_mine).result() == {"MINE": "1"}
    assert failures
