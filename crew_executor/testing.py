"""What a launcher must do, as tests: a launcher's own tests inherit LauncherConformance, and say how to break things.

    class TestMyLauncher(LauncherConformance):
        def launcher(self, **options):
            return MyLauncher(**options)

Needs pytest, which this package does not. What a launcher's tests cannot bring about is skipped, with the reason.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from .errors import BrokenCrewError, LaunchError, WorkerCrashError
from .executor import CrewExecutor
from .launchers import Launcher

DEADLINE = 60.0
"""Seconds that anything may take here."""
NOWHERE = "240.0.0.1"
"""An address that leads nowhere at once: it is reserved, and no system sends anything there."""


class LauncherConformance:
    """Tests of one launcher. Subclass it; launcher() is required, the other methods let more be tested."""

    def launcher(self, **options: Any) -> Launcher:
        """Return a launcher that works, with these options of Launcher on top."""
        raise NotImplementedError

    def refused_launcher(self, **options: Any) -> Launcher | None:  # noqa: ARG002
        """Return a launcher whose submissions are refused, or None."""
        return None

    def pending(self) -> AbstractContextManager[None] | None:
        """Return a context in which no job starts, or None."""
        return None

    def end_from_outside(self, launcher: Launcher, host: str, pid: int) -> bool:  # noqa: ARG002
        """End the job in which a worker runs, as an administrator would; return whether that can be done here."""
        return False

    def lose(self, host: str) -> AbstractContextManager[None] | None:  # noqa: ARG002
        """Return a context in which nothing is heard of a host, or None."""
        return None

    def client_script(self) -> str | None:
        """Return Python code that makes a `launcher`, to be run in a client that is killed; or None."""
        return None

    def is_alive(self, host: str, pid: int) -> bool:  # noqa: ARG002
        """Answer whether a worker's process is there."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    # ------------------------------------------------------------------ the tests

    def test_workers_come_work_and_leave(self) -> None:
        """From none to two and back to none, and again."""
        with CrewExecutor(2, launcher=self.launcher(), idle_timeout=0.5) as executor:
            for _ in range(2):
                assert list(executor.map(abs, range(-100, 0))) == list(range(100, 0, -1))
                _wait_until(lambda: not executor.stats().workers, "idle workers leave")

    def test_two_workers_at_a_time(self) -> None:
        """Two tasks run in two workers if the first is still busy when the second has come.

        How long that takes is the scheduler's to say; so they take longer each time.
        """
        with CrewExecutor(2, launcher=self.launcher()) as executor:
            for seconds in (1.0, 4.0, 16.0):
                futures = [executor.submit(_sleep, seconds) for _ in range(2)]
                if len({future.result()[1] for future in futures}) == 2:
                    return
            raise AssertionError(f"both ran in one worker, though each took {seconds:g} s")

    def test_what_is_refused_is_told(self) -> None:
        """A submission that is refused ends in a LaunchError, not in waiting."""
        launcher = self.refused_launcher(max_failed_launches=2)
        if launcher is None:
            _skip("no submission of this launcher can be made to be refused here")
        self._expect_failure(launcher)

    def test_an_agent_that_never_comes_is_told(self) -> None:
        """A job whose agent cannot reach the client ends in a LaunchError that says what was tried."""
        launcher = self.launcher(startup_timeout=5.0, max_failed_launches=1)
        launcher.hosts = (NOWHERE,)
        assert NOWHERE in self._expect_failure(launcher)

    def _expect_failure(self, launcher: Launcher) -> str:
        with CrewExecutor(1, launcher=launcher) as executor:
            error = executor.submit(abs, -1).exception(DEADLINE)
        assert isinstance(error, BrokenCrewError)
        assert isinstance(error.__cause__, LaunchError)
        return str(error)

    def test_pending_jobs_are_waited_for_and_not_doubled(self) -> None:
        """As long as a job is pending nothing else is launched, however long its start takes."""
        pending = self.pending()
        if pending is None:
            _skip("no job of this launcher can be made to pend here")
        launcher = self.launcher(startup_timeout=3.0)
        launcher.poll_seconds = (0.2, 0.5)
        with CrewExecutor(1, launcher=launcher) as executor:
            with pending:
                future = executor.submit(abs, -1)
                time.sleep(2 * launcher.startup_timeout)
                assert not future.done()
            assert future.result(DEADLINE) == 1
            assert executor.stats().launched == 1

    def test_a_job_that_is_ended_costs_its_tasks_alone(self) -> None:
        """The running task fails, or runs again if its user wants that; the pool goes on."""
        launcher = self.launcher()
        with CrewExecutor(1, launcher=launcher) as executor:
            host, pid = executor.submit(_sleep, 0.0).result(DEADLINE)
            lost = executor.submit(_sleep, 60.0)
            _wait_until(lost.running, "the task is sent")
            _wait_until(lambda: _is_busy(executor), "the worker is busy")
            if not self.end_from_outside(launcher, host, pid):
                executor.kill_workers()
                _skip("no job of this launcher can be ended from outside here")
            assert isinstance(lost.exception(DEADLINE), WorkerCrashError)
            assert executor.submit(abs, -1).result(DEADLINE) == 1

    def test_a_host_that_falls_silent_is_given_up(self) -> None:
        """Its tasks fail, or run elsewhere if their user wants that; its late outcomes change nothing."""
        launcher = self.launcher(lost_after=4.0)
        with CrewExecutor(1, launcher=launcher) as executor:
            host, _pid = executor.submit(_sleep, 0.0).result(DEADLINE)
            silence = self.lose(host)
            if silence is None:
                _skip("no host of this launcher can be lost here")
            lost = executor.submit(_sleep, 1.0)
            _wait_until(lambda: _is_busy(executor), "the worker is busy")
            with silence:
                assert isinstance(lost.exception(DEADLINE), WorkerCrashError)
            assert executor.submit(abs, -1).result(DEADLINE) == 1

    def test_nothing_outlives_a_client_that_is_killed(self) -> None:
        """After kill -9 of the client its workers end by themselves."""
        code = self.client_script()
        if code is None:
            _skip("this launcher has no script for a client")
        script = f"{code}\n{_CLIENT}"
        client = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        try:
            assert client.stdout is not None
            host, pid = client.stdout.readline().split()
            assert self.is_alive(host, int(pid))
        finally:
            client.send_signal(signal.SIGKILL)
            client.communicate()
        _wait_until(lambda: not self.is_alive(host, int(pid)), "the worker of the killed client is gone")


_CLIENT = """
from crew_executor import CrewExecutor
from crew_executor.testing import _sleep
executor = CrewExecutor(1, launcher=launcher)
print(*executor.submit(_sleep, 0.0).result(), flush=True)
executor.submit(_sleep, 600.0).result()
"""


def _sleep(seconds: float) -> tuple[str, int]:
    """Take so long; return which host and process this is."""
    import socket

    time.sleep(seconds)
    return socket.gethostname(), os.getpid()


def _is_busy(executor: CrewExecutor) -> bool:
    return any(worker.state == "busy" for worker in executor.stats().workers)


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    pause = threading.Event()
    until = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"within {DEADLINE:g} s this did not happen: {what}")
        pause.wait(0.02)


def _skip(why: str) -> NoReturn:
    import pytest

    pytest.skip(why)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Have a process stand still: for lose(), where an agent is on this machine."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
