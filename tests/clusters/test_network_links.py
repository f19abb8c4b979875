"""Workers on network hosts while their links break in each way a link can, and while strangers come to the port."""

from __future__ import annotations

import ctypes
import hashlib
import os
import pickle
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from integration.helpers import DEADLINE, add, append_line, is_alive, touch_and_wait, wait_until
from integration.launching import all_idle, executor_of

from crew_executor.errors import WorkerCrashError

from .host_launcher import HostLauncher, host_name, link_of
from .hosts import Hosts, missing

pytestmark = [
    pytest.mark.network,
    pytest.mark.timeout(150, func_only=True),  # not the wait for hosts, which another run may have
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

LONG = 90.0
"""Seconds that anything over a bad link may take."""
MEMORY_MAX = 30_000_000
"""What strangers may leave behind in the client: the allocator keeps some of what 64 at a time took."""


# ---------------------------------------------------------------------- run on hosts


def end_during_cut(started: str, release: str, ended: str) -> str:
    """Wait to be released, tell the end by a file, and return the host's name."""
    touch_and_wait(started, release)
    Path(ended).touch()
    return socket.gethostname()


def host_and_pid(folder: str, release: str) -> tuple[str, int]:
    """Start, wait to be released, and tell where."""
    host = socket.gethostname()
    return host, touch_and_wait(f"{folder}/{host}", release)


def hold_the_lock(seconds: float) -> str:
    """Keep the interpreter's lock: nothing else of this process runs meanwhile."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return socket.gethostname()


def echo(data: bytes) -> bytes:
    """Return the argument."""
    return data


def digest(data: bytes) -> str:
    """Return what the data are like."""
    return hashlib.sha256(data).hexdigest()


class Array:
    """Has its data beside its pickle, as arrays have."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, _protocol: object) -> tuple[object, ...]:
        return Array, (pickle.PickleBuffer(self.data),)


def digest_there(array: Array, _number: int) -> tuple[str, str]:
    """Return where this is, and what the data are like."""
    return socket.gethostname(), digest(array.data)


# ---------------------------------------------------------------------- links break


def test_a_cut_of_five_seconds_is_survived_and_work_goes_on_meanwhile(hosts: Hosts, tmp_path: Path) -> None:
    started, release, ended, log = (str(tmp_path / name) for name in ("started", "release", "ended", "log"))
    launcher = HostLauncher(hosts, ["h1"], workers_per_job=2, lost_after=30.0)
    with executor_of(launcher) as executor:
        executor.submit(append_line, log, "warm").result(DEADLINE)
        task = executor.submit(end_during_cut, started, release, ended)
        early = [executor.submit(append_line, log, str(number)) for number in range(200)]
        wait_until(Path(started).exists, "the task runs")
        hosts.cut("h1")
        cut_at = time.monotonic()
        Path(release).touch()
        late = [executor.submit(append_line, log, str(number)) for number in range(200, 400)]
        wait_until(Path(ended).exists, "the task ends, of which nobody can hear", 5)
        assert not task.done()
        time.sleep(5 - (time.monotonic() - cut_at))  # the cut itself
        assert not task.done()
        hosts.heal("h1")

        assert task.result(DEADLINE) == "h1"
        assert [each.result(DEADLINE) for each in [*early, *late]] == [str(number) for number in range(400)]

    assert Counter(Path(log).read_text().split()) == Counter(["warm", *map(str, range(400))])
    assert len(launcher.jobs) == 1


def test_a_cut_in_which_the_link_is_given_up_is_survived_over_the_next(hosts: Hosts, tmp_path: Path) -> None:
    """Silence is noticed after a quarter of lost_after, on both sides; then there are three quarters to come back."""
    started, release, log = str(tmp_path / "started"), str(tmp_path / "release"), str(tmp_path / "log")
    launcher = HostLauncher(hosts, ["h1"], workers_per_job=2, lost_after=16.0)
    with executor_of(launcher) as executor:
        task = executor.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the task runs")
        link = link_of(executor)
        hosts.cut("h1")
        tasks = [executor.submit(append_line, log, str(number)) for number in range(300)]
        wait_until(lambda: not link.has_link, "the client gives the link up")
        Path(release).touch()
        hosts.heal("h1")

        assert task.result(DEADLINE) == int(Path(started).read_text())
        assert [each.result(DEADLINE) for each in tasks] == [str(number) for number in range(300)]
        assert link.links == 2

    assert sorted(map(int, Path(log).read_text().split())) == list(range(300))
    assert len(launcher.jobs) == 1


def test_resets_in_the_middle_of_thousands_of_tasks_lose_and_double_nothing(hosts: Hosts, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    launcher = HostLauncher(hosts, workers_per_job=2, lost_after=20.0)  # rule 4 of network.py: some are only silent
    broken = 0
    with executor_of(launcher, 4, min_workers=4) as executor:
        all_idle(executor, 4)
        tasks = []
        for number in range(4000):
            tasks.append(executor.submit(append_line, log, str(number)))
            if number % 250 == 249:
                side = "host" if number % 500 == 249 else "head"
                broken += hosts.reset(hosts.names[number // 500 % 2], launcher.jobs[0].port, by=side)  # type: ignore[arg-type]
                if number % 1000 == 999:
                    tasks[-100].result(DEADLINE)  # not all of them in one go
        large = executor.submit(echo, bytes(8_000_000))
        wait_until(lambda: large.running() or large.done(), "a large task is on its way")
        broken += sum(hosts.reset(name, launcher.jobs[0].port) for name in hosts.names)

        assert [task.result(DEADLINE) for task in tasks] == [str(number) for number in range(4000)]
        assert large.result(DEADLINE) == bytes(8_000_000)

    assert broken >= 4  # not all: some links were not back yet
    assert sorted(map(int, Path(log).read_text().split())) == list(range(4000))
    assert len(launcher.jobs) == 2


# ---------------------------------------------------------------------- hosts are lost


def test_a_host_that_crashes_is_given_up_and_its_tasks_fail_or_run_on_another(hosts: Hosts, tmp_path: Path) -> None:
    release = str(tmp_path / "release")
    launcher = HostLauncher(hosts, lost_after=4.0)
    with executor_of(launcher, 2, min_workers=2) as executor:
        all_idle(executor, 2)
        tasks = [executor.submit(host_and_pid, str(tmp_path), release) for _ in range(2)]
        wait_until(lambda: all((tmp_path / name).exists() for name in hosts.names), "both hosts work")
        launcher.names.remove("h1")
        hosts.crash("h1")
        # h2 still has its own task: the one of h1 must be known to be lost without anybody's help.
        wait_until(lambda: any(task.done() for task in tasks), "the lost one is told")
        (lost,) = [task for task in tasks if task.done()]
        error = lost.exception()
        assert isinstance(error, WorkerCrashError)
        assert error.host == "h1"
        assert "its host h1 is lost: nothing was heard of it for lost_after=4 s" in str(error)
        Path(release).touch()
        assert {task.result(DEADLINE)[0] for task in tasks if task is not lost} == {"h2"}

        Path(release).unlink()
        hosts.heal("h1")
        launcher.names.append("h1")
        for name in hosts.names:
            (tmp_path / name).unlink()
        view = executor.options(crash_retries=1)
        tasks = [view.submit(host_and_pid, str(tmp_path), release) for _ in range(2)]
        wait_until(lambda: all((tmp_path / name).exists() for name in hosts.names), "h1 works again, and h2")
        launcher.names.remove("h2")
        hosts.crash("h2")
        Path(release).touch()
        assert [task.result(DEADLINE)[0] for task in tasks] == ["h1", "h1"]
        assert sorted(task.record().attempts for task in tasks) == [1, 2]
        hosts.heal("h2")


def test_on_a_host_cut_off_for_too_long_tasks_have_ended_before_they_run_elsewhere(
    hosts: Hosts, tmp_path: Path
) -> None:
    started, release, log = str(tmp_path / "started"), str(tmp_path / "release"), str(tmp_path / "log")
    launcher = HostLauncher(hosts, ["h1"], lost_after=12.0)
    with executor_of(launcher, 1) as executor:
        assert executor.submit(append_line, log, "warm").result(DEADLINE) == "warm"
        view = executor.options(crash_retries=1)
        task = view.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the task runs")
        first = int(Path(started).read_text())
        Path(started).unlink()
        behind = [view.submit(append_line, log, str(number)) for number in range(50)]
        launcher.names[:] = ["h2"]
        hosts.cut("h1")
        wait_until(Path(started).exists, "the task runs elsewhere")
        assert not is_alive(first)
        assert int(Path(started).read_text()) in hosts.processes("h2")
        hosts.heal("h1")
        Path(release).touch()
        assert task.result(DEADLINE) == int(Path(started).read_text()) != first
        assert [each.result(DEADLINE) for each in behind] == [str(number) for number in range(50)]

    assert task.record().attempts == 2
    assert Counter(Path(log).read_text().split()) == Counter(["warm", *map(str, range(50))])


def test_outcomes_that_come_too_late_are_dropped(hosts: Hosts, tmp_path: Path) -> None:
    """The task ends there while nobody can hear of it; here it is lost, and stays so when the link is whole again."""
    started, release, ended = str(tmp_path / "started"), str(tmp_path / "release"), str(tmp_path / "ended")
    launcher = HostLauncher(hosts, ["h1"], lost_after=4.0)
    with executor_of(launcher, 1) as executor:
        task = executor.submit(end_during_cut, started, release, ended)
        wait_until(Path(started).exists, "the task runs")
        launcher.names[:] = ["h2"]
        hosts.cut("h1")
        Path(release).touch()
        wait_until(Path(ended).exists, "the task has ended")
        error = task.exception(DEADLINE)
        assert isinstance(error, WorkerCrashError)
        hosts.heal("h1")
        assert executor.submit(host_name).result(DEADLINE) == "h2"
        wait_until(lambda: not hosts.processes("h1"), "the silent host has ended all")
        assert task.exception() is error
        assert Counter(each.host for each in executor.stats().workers) == {"h2": 1}


# ---------------------------------------------------------------------- links are bad


def test_a_lossy_long_and_slow_link_carries_everything(hosts: Hosts, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    for name in hosts.names:
        hosts.delay(name, 30)
        hosts.rate(name, "10mbit")
        hosts.loss(name, 10)
    launcher = HostLauncher(hosts, workers_per_job=2, lost_after=30.0)
    data = os.urandom(100_000)
    with executor_of(launcher, 4) as executor:
        handle = executor.share(data)
        assert executor.submit(digest, handle).result(LONG) == digest(data)
        assert executor.submit(echo, data).result(LONG) == data
        assert list(executor.map(add, range(1000), range(1000))) == list(range(0, 2000, 2))
        tasks = [executor.submit(append_line, log, str(number)) for number in range(200)]
        assert [task.result(LONG) for task in tasks] == [str(number) for number in range(200)]
        for name in hosts.names:  # the farewell need not be lossy
            hosts.loss(name, 0)
        # On a fast machine the second agent may still be on its way: it would look for us, HostLauncher for its end.
        wait_until(lambda: "starting" not in {each.state for each in executor.stats().workers}, "all have come", LONG)

    assert sorted(map(int, Path(log).read_text().split())) == list(range(200))
    assert len(launcher.jobs) <= 2


def test_a_link_that_is_full_is_not_taken_for_a_lost_host(hosts: Hosts, caplog: pytest.LogCaptureFixture) -> None:
    """10 MB take 8 s, which is more than lost_after, and they go there and back."""
    hosts.rate("h1", "10mbit")
    launcher = HostLauncher(hosts, ["h1"], workers_per_job=2, lost_after=5.0)
    data = os.urandom(10_000_000)
    with executor_of(launcher) as executor:
        assert executor.submit(host_name).result(DEADLINE) == "h1"
        back = executor.submit(echo, data)
        assert [executor.submit(add, number, 1).result(LONG) for number in range(10)] == list(range(1, 11))
        assert back.result(LONG) == data
        assert link_of(executor).links == 1

    assert len(launcher.jobs) == 1
    assert "is lost" not in caplog.text


def test_a_share_leaves_the_client_once_for_each_host(hosts: Hosts) -> None:
    size = 5_000_000
    data = os.urandom(size)
    launcher = HostLauncher(hosts, workers_per_job=4)
    with executor_of(launcher, 8, min_workers=8) as executor:
        all_idle(executor, 8)
        before = {name: bytes_to(name) for name in hosts.names}
        handle = executor.share(Array(data))
        results = list(executor.map(digest_there, [handle] * 64, range(64), chunksize=1))
        passed = {name: bytes_to(name) - before[name] for name in hosts.names}

    assert {each for _host, each in results} == {digest(data)}
    assert {host for host, _each in results} == set(hosts.names)
    for name in hosts.names:
        assert size < passed[name] < 1.2 * size


def bytes_to(host: str) -> int:
    """Return how much has left this machine for a host so far."""
    return int(Path(f"/sys/class/net/crewt-{host}/statistics/tx_bytes").read_text())


def test_a_task_that_holds_the_interpreters_lock_is_not_taken_for_death(hosts: Hosts) -> None:
    launcher = HostLauncher(hosts, lost_after=4.0)
    with executor_of(launcher, 2, min_workers=2) as executor:
        all_idle(executor, 2)
        tasks = [executor.submit(hold_the_lock, 7.0) for _ in range(2)]
        assert sorted(task.result(DEADLINE) for task in tasks) == hosts.names

    assert len(launcher.jobs) == 2
