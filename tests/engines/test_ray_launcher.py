"""Workers as actors of a real Ray on this machine: what works, what fails and is told, what stays in its cluster."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from integration.helpers import add, is_alive, touch_and_wait, wait_until
from integration.launching import SECONDS, executor_of, failure_of
from integration.test_cluster_pages import check

from crew_executor import LaunchError, WorkerCrashError
from crew_executor.launchers import Job, JobState, RayLauncher
from crew_executor.testing import LauncherConformance

from .hosted import agent_of, agents_below, all_stopped, warning_of

ray = pytest.importorskip("ray", reason="ray is not installed")

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(120),
    # Ray announces that some day it will leave CUDA_VISIBLE_DEVICES alone where num_gpus=0.
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]

Make = Callable[..., RayLauncher]


RAY_ENVIRONMENT = {
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "100000000",
    "RAY_AUTH_MODE": "disabled",  # a token in the home directory would be asked for, and not be given
}


class RayHead:
    """Ray on this machine, with two CPUs and, as it believes, two GPUs.

    Its processes are no descendants of this one: they come and go as it likes, and no test is to be blamed for it.
    """

    def __init__(self, folder: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={self.address.rpartition(':')[2]}", "--num-cpus=2", "--num-gpus=2", "--include-dashboard=false",
            "--disable-usage-stats", "--object-store-memory=100000000", f"--temp-dir={folder}",
        ]  # fmt: skip
        log = Path(folder, "log")
        shell = subprocess.run(
            ["sh", "-c", 'setsid "$@" >"$0" 2>&1 </dev/null & echo $!', str(log), *command], stdout=subprocess.PIPE,
            text=True, check=True, env={**os.environ, **RAY_ENVIRONMENT},
        )  # fmt: skip
        self.pid = int(shell.stdout)
        wait_until(lambda: "Ray runtime started" in log.read_text("utf-8"), "Ray has started", SECONDS)

    def end(self) -> None:
        """End it, and all that it has started."""
        mine = psutil.Process(self.pid).children(recursive=True)
        psutil.Process(self.pid).terminate()
        wait_until(lambda: not is_alive(self.pid), "Ray has ended", SECONDS)
        wait_until(lambda: not any(is_alive(each.pid) for each in mine), "its processes have ended", SECONDS)


def _dying() -> Any:
    class Dying:  # travels by value
        def die(self) -> None:
            os.kill(os.getpid(), 9)

    return ray.remote(num_cpus=0)(Dying)


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    """What is undone when the last test is over."""
    with pytest.MonkeyPatch.context() as made:
        yield made


@pytest.fixture(scope="module")
def head(patch: pytest.MonkeyPatch) -> Iterator[RayHead]:
    """Ray, to which this process is connected, as a user of Ray would be."""
    folder = tempfile.mkdtemp(prefix="ray")  # short: there are sockets in it
    for name, value in RAY_ENVIRONMENT.items():
        patch.setenv(name, value)
    made = RayHead(folder)
    try:
        ray.init(made.address, log_to_driver=False)
        # What Ray opens once stays open: no test is to be blamed for it.
        ray.get(ray.remote(num_cpus=1)(lambda: None).remote(), timeout=SECONDS)
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(_dying().remote().die.remote(), timeout=SECONDS)
        ray.available_resources()
        yield made
        ray.shutdown()
    finally:
        made.end()
        shutil.rmtree(folder)


@pytest.fixture
def make(head: RayHead) -> Iterator[Make]:
    """Makes launchers with these options on top; at the end nothing is held in the cluster."""

    def launcher(**options: Any) -> RayLauncher:
        return RayLauncher(**{"host": "127.0.0.1", **options})

    yield launcher
    wait_until(lambda: not agents_below(head.pid), "no agent is left", SECONDS)
    wait_until(lambda: ray.available_resources().get("CPU") == 2, "no actor is left", SECONDS)


BUSY = """
import pathlib, sys, time
import ray

@ray.remote(num_cpus=1)
def busy(started, release):
    pathlib.Path(started).touch()
    while not pathlib.Path(release).exists():
        time.sleep(0.05)

address, folder = sys.argv[1:]
ray.init(address, log_to_driver=False)
ray.get([busy.remote(f"{folder}/started{number}", f"{folder}/release") for number in range(2)])
"""


@contextmanager
def full_until(head: RayHead, folder: Path) -> Iterator[None]:
    """Have tasks of somebody else take all CPUs."""
    with subprocess.Popen([sys.executable, "-c", BUSY, head.address, str(folder)]) as process:
        try:
            wait_until(lambda: len(list(folder.glob("started*"))) == 2, "they run", SECONDS)
            yield
        finally:
            (folder / "release").touch()
            process.wait(SECONDS)


class TestRayLauncher(LauncherConformance):
    """The contract."""

    @pytest.fixture(autouse=True)
    def _in_cluster(self, make: Make, head: RayHead, tmp_path: Path) -> None:
        self._make = make
        self._head = head
        self._folder = tmp_path

    def launcher(self, **options: Any) -> RayLauncher:
        """Return one."""
        return self._make(**options)

    def refused_launcher(self, **options: Any) -> RayLauncher:
        """Return one that asks for what Ray does not understand."""
        return self._make(resources={"CPU": 1}, **options)

    def pending(self) -> AbstractContextManager[None]:
        """Fill the cluster."""
        return full_until(self._head, self._folder)

    def end_from_outside(self, launcher: Any, host: str, pid: int) -> bool:
        """Kill the agent."""
        os.kill(agent_of(pid), signal.SIGKILL)
        return True

    def lose(self, host: str) -> AbstractContextManager[None]:
        """Stop the agent."""
        return all_stopped(self._head.pid)

    def client_script(self) -> str:
        """Make one, that connects by itself."""
        return (
            "from crew_executor.launchers import RayLauncher\n"
            f"launcher = RayLauncher(address={self._head.address!r}, host='127.0.0.1')"
        )


# ---------------------------------------------------------------------- in the cluster


def test_an_agent_that_ends_gives_its_resources_back(make: Make) -> None:
    with executor_of(make(), 1, idle_timeout=0.2) as executor:
        assert executor.submit(add, 1, 2).result(SECONDS) == 3
        wait_until(lambda: ray.available_resources().get("CPU") == 1, "they are taken", SECONDS)
        wait_until(lambda: ray.available_resources().get("CPU") == 2, "they are free again", SECONDS)


def visible_devices() -> str:
    """Return what Ray has set for this worker."""
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_workers_see_the_gpus_that_ray_has_given(make: Make) -> None:
    with executor_of(make(num_gpus=2, num_cpus=0), 1) as executor:
        assert sorted(executor.submit(visible_devices).result(SECONDS).split(",")) == ["0", "1"]
    with executor_of(make(num_gpus=1), 2, min_workers=2) as executor:
        assert {executor.submit(visible_devices).result(SECONDS) for _ in range(4)} <= {"0", "1"}


def variable() -> str | None:
    """Return what the actors' environment has."""
    return os.environ.get("CREW_TEST_RAY")


def test_a_runtime_env_is_that_of_the_workers(make: Make) -> None:
    with executor_of(make(runtime_env={"env_vars": {"CREW_TEST_RAY": "there"}}), 1) as executor:
        assert executor.submit(variable).result(SECONDS) == "there"


def test_a_client_that_is_not_connected_is_and_is_not_afterwards(head: RayHead, make: Make) -> None:
    script = (
        "import ray\n"
        "from crew_executor import CrewExecutor\n"
        "from crew_executor.launchers import RayLauncher\n"
        f"launcher = RayLauncher(address={head.address!r}, host='127.0.0.1')\n"
        "for _ in range(2):\n"
        "    with CrewExecutor(1, launcher=launcher) as executor:\n"
        "        print(executor.submit(pow, 2, 10).result(), ray.is_initialized())\n"
        "    print(ray.is_initialized())\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)

    assert (0, "1024 True\nFalse\n" * 2) == (run.returncode, run.stdout), run.stderr
    assert "SIGTERM" not in run.stderr


def test_a_client_that_is_connected_stays_so(make: Make) -> None:
    with executor_of(make(), 1) as executor:
        assert executor.submit(add, 1, 2).result(SECONDS) == 3

    assert ray.is_initialized()


# ---------------------------------------------------------------------- what ends


def test_an_actor_that_dies_takes_its_agent_along_and_is_told(make: Make, tmp_path: Path) -> None:
    started = tmp_path / "started"
    launcher = make()
    with executor_of(launcher, 1) as executor:
        lost = executor.submit(touch_and_wait, str(started), str(tmp_path / "never"))
        wait_until(started.exists, "the task runs", SECONDS)
        agent = agent_of(int(started.read_text()))
        (actor,) = launcher._actors.values()
        assert actor.status().state is JobState.RUNNING
        os.kill(psutil.Process(agent).ppid(), signal.SIGKILL)
        wait_until(lambda: not is_alive(agent), "the agent has ended with it", SECONDS)
        wait_until(lambda: actor.status().state is JobState.ENDED, "Ray has told", SECONDS)
        assert "ActorDiedError" in launcher.explain(actor)
        assert isinstance(lost.exception(SECONDS), WorkerCrashError)
        assert executor.submit(add, 1, 2).result(SECONDS) == 3


def test_a_job_that_is_cancelled_ends_its_agent(make: Make) -> None:
    launcher = make()
    with executor_of(launcher, 1) as executor:
        agent = agent_of(executor.submit(os.getpid).result(SECONDS))
        launcher.cancel(list(launcher._actors.values()))
        wait_until(lambda: not is_alive(agent), "the agent has ended", SECONDS)
        task = executor.options(crash_retries=1).submit(add, 1, 2)
        assert task.result(SECONDS) == 3


# ---------------------------------------------------------------------- what is told


def test_an_agent_that_fails_is_told_with_its_words(make: Make) -> None:
    words = failure_of(make(python="/nowhere/python", max_failed_launches=1))

    assert "its job ended before its agent had come" in words
    assert "/nowhere/python -m crew_executor worker -" in words
    assert f"there is no interpreter /nowhere/python on {os.uname().nodename}: give python=" in words
    assert "No such file or directory" in words


def test_what_is_pending_says_what_it_waits_for(make: Make) -> None:
    launcher = make(resources={"THING": 7})
    launcher.check()
    try:
        (actor,) = launcher.submit(Job("crew-1-1", 1, 1, b"{}\n", {}, None, sys.executable, 0), 1)
        status = launcher.poll([actor])[actor]
        assert status.state is JobState.PENDING
        assert "'THING': 7" in status.words
        launcher.cancel([actor])
        wait_until(lambda: launcher.poll([actor])[actor].state is JobState.ENDED, "it is cancelled", SECONDS)
    finally:
        launcher.close()


def test_what_no_node_has_is_told_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = warning_of(make(num_cpus=100, num_gpus=1), monkeypatch, caplog)
    assert words.count("perhaps for ever: no node has CPU=100, GPU=1; see num_cpus=, workers_per_job=") == 1
    words = warning_of(make(workers_per_job=3), monkeypatch, caplog)
    assert words.count("no node has CPU=3;") == 1


def test_what_is_only_taken_is_no_reason_for_a_warning(
    make: Make, head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with full_until(head, tmp_path):
        assert warning_of(make(), monkeypatch, caplog) == ""


def test_an_actor_that_is_out_of_reach_has_not_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = make()
    with executor_of(launcher, 1) as executor:
        assert executor.submit(add, 1, 2).result(SECONDS) == 3
        (actor,) = launcher._actors.values()

        def unavailable(*_arguments: Any, **_options: Any) -> Any:
            raise ray.exceptions.ActorUnavailableError("for a while", None)

        with monkeypatch.context() as patch:
            patch.setattr(ray, "wait", lambda refs, **_options: (refs, []))
            patch.setattr(ray, "get", unavailable)
            assert actor.status().state is JobState.RUNNING
            assert "does not reach it now" in actor.status().words
        assert "it runs at" in actor.status().words
        assert executor.submit(add, 1, 2).result(SECONDS) == 3


def test_resources_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match="resources must be amounts by name"):
        RayLauncher(resources=["x"])  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:1"])
def test_an_address_that_leads_nowhere_is_told(address: str) -> None:
    script = f"from crew_executor.launchers import RayLauncher\nRayLauncher(address={address!r}).check()\n"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)

    assert f"LaunchError: Ray's cluster at {address!r} cannot be reached" in run.stderr


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tempfile.mkdtemp(prefix="ray")  # short: see above
    monkeypatch.setenv("RAY_TMPDIR", folder)
    try:
        check("ray.md", "ray.init", tmp_path)
    finally:
        shutil.rmtree(folder)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(LaunchError, match=r"pip install crew-executor\[ray\]"):
        RayLauncher().check()
