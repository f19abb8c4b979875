"""Workers in a real Dask cluster of this machine: what works, what fails and is told, what stays in the cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from integration import conftest
from integration.helpers import add, is_alive, touch_and_wait, wait_until
from integration.launching import SECONDS, executor_of, failure_of
from integration.test_cluster_pages import check

from crew_executor import LaunchError, WorkerCrashError
from crew_executor.errors import BrokenCrewError
from crew_executor.launchers import DaskLauncher, Job, JobState
from crew_executor.launchers import dask as launcher_module
from crew_executor.testing import LauncherConformance

from .hosted import agent_of, agents_below, all_stopped, warning_of

distributed = pytest.importorskip("distributed", reason="distributed is not installed")

pytestmark = [pytest.mark.engines, pytest.mark.timeout(120)]

Make = Callable[..., DaskLauncher]


CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    workers, address = int(sys.argv[1]), "127.0.0.1"
    with LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=":0", host=address, resources={"THING": 1}
    ) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@contextmanager
def cluster_of(workers: int) -> Iterator[str]:
    """The scheduler's address of a cluster of processes of this machine, with one slot each."""
    with scheduler_of(workers) as (_process, address):
        yield address


@contextmanager
def scheduler_of(workers: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The same, with the scheduler's process."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(workers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address
        mine = {process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))}
        conftest.lasting.update(mine)
        yield process, address
    conftest.lasting.difference_update(mine)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two Dask workers."""
    with cluster_of(2) as address:
        # What distributed opens once stays open: no test is to be blamed for it.
        with distributed.Client(address, set_as_default=False) as client:
            client.submit(add, 1, 2).result(SECONDS)
        yield address


@pytest.fixture
def client(cluster: str) -> Iterator[Any]:
    """A user's client, by which one sees what is in the cluster: nothing, at the end."""
    with distributed.Client(cluster, set_as_default=False) as made:
        yield made
        wait_until(lambda: not tasks_of(made), "no task is in the cluster", SECONDS)
        wait_until(lambda: not agents_below(os.getpid()), "no agent is left", SECONDS)


def tasks_of(client: Any) -> list[str]:
    """Return the tasks that the scheduler knows."""
    found: list[str] = client.run_on_scheduler(_task_names)
    return found


def _task_names(dask_scheduler: Any) -> list[str]:
    return list(dask_scheduler.tasks)


@pytest.fixture
def make(client: Any) -> Make:
    """Makes launchers with these options on top."""

    def launcher(cluster: Any = client, **options: Any) -> DaskLauncher:
        return DaskLauncher(cluster, **{"host": "127.0.0.1", **options})

    return launcher


def _busy(started: str, release: str) -> None:
    touch_and_wait(started, release)


class TestDaskLauncher(LauncherConformance):
    """The contract."""

    @pytest.fixture(autouse=True)
    def _in_cluster(self, make: Make, client: Any, tmp_path: Path) -> None:
        self._make = make
        self._client = client
        self._folder = tmp_path

    def launcher(self, **options: Any) -> DaskLauncher:
        """Return one."""
        return self._make(**options)

    def refused_launcher(self, **options: Any) -> DaskLauncher:
        """Return one of a cluster that is not there."""
        return self._make("tcp://127.0.0.1:9", **options)

    @contextmanager
    def _full(self) -> Iterator[None]:
        """Have other tasks in all slots."""
        release = self._folder / "release"
        futures = []
        for number in range(2):
            started = self._folder / f"started{number}"
            futures.append(self._client.submit(_busy, str(started), str(release), pure=False))
            wait_until(started.exists, "it has a slot", SECONDS)
        try:
            yield
        finally:
            release.touch()
            for future in futures:
                future.result(SECONDS)

    def pending(self) -> AbstractContextManager[None]:
        """Fill the cluster."""
        return self._full()

    def end_from_outside(self, launcher: Any, host: str, pid: int) -> bool:
        """Kill the agent."""
        os.kill(agent_of(pid), signal.SIGKILL)
        return True

    def lose(self, host: str) -> AbstractContextManager[None]:
        """Stop the agent."""
        return all_stopped(os.getpid())

    def client_script(self) -> str:
        """Make one."""
        address = self._client.scheduler.address
        return (
            f"from crew_executor.launchers import DaskLauncher\nlauncher = DaskLauncher({address!r}, host='127.0.0.1')"
        )


# ---------------------------------------------------------------------- in the cluster


def test_an_agent_takes_a_slot_and_gives_it_back(make: Make, client: Any) -> None:
    launcher = make()
    with executor_of(launcher, 3) as executor:
        executor.submit(add, 1, 2).result(SECONDS)
        (name,) = tasks_of(client)
        assert name.startswith("crew-")
        (task,) = launcher._tasks.values()
        assert task.status().state is JobState.RUNNING
        assert task.worker in client.scheduler_info()["workers"]
        assert client.submit(add, 3, 4, pure=False).result(SECONDS) == 7  # the other slot is free

    assert tasks_of(client) == []


def test_the_address_will_do(make: Make, cluster: str) -> None:
    with executor_of(make(cluster), 1) as executor:
        assert executor.submit(add, 1, 2).result(SECONDS) == 3


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    check("dask.md", "LocalCluster", tmp_path)


def test_without_any_it_is_the_client_of_this_process(make: Make, cluster: Any) -> None:
    with distributed.Client(cluster):
        with executor_of(make(None), 1) as executor:
            assert executor.submit(add, 1, 2).result(SECONDS) == 3
    with pytest.raises(LaunchError, match=r"no Dask client in this process: give DaskLauncher\(client\)"):
        make(None).check()


def test_agents_run_where_they_may(make: Make, client: Any) -> None:
    where = list(client.scheduler_info()["workers"])[1]
    with executor_of(make(workers=[where], resources={"THING": 1}), 1) as executor:
        parent = psutil.Process(agent_of(executor.submit(os.getpid).result(SECONDS))).ppid()
        assert client.run(os.getpid)[where] == parent


def test_its_interpreter_is_that_of_the_dask_worker(make: Make) -> None:
    launcher = make()
    launcher.python = "/nowhere/python"  # as if this client had another
    with executor_of(launcher, 1) as executor:
        assert executor.submit(add, 1, 2).result(SECONDS) == 3


# ---------------------------------------------------------------------- what ends


def test_a_job_that_is_cancelled_ends_its_agent_and_frees_the_slot(make: Make, client: Any) -> None:
    launcher = make()
    with executor_of(launcher, 1) as executor:
        agent = agent_of(executor.submit(os.getpid).result(SECONDS))
        launcher.cancel(list(launcher._tasks.values()))
        wait_until(lambda: not is_alive(agent), "the agent has ended", SECONDS)
        wait_until(lambda: tasks_of(client) == [], "the task is gone", SECONDS)
        task = executor.options(crash_retries=1).submit(add, 1, 2)  # may be sent to the one that is gone
        assert task.result(SECONDS) == 3


def test_the_loss_of_a_dask_worker_is_no_fault_of_tasks(cluster: str, tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    with cluster_of(1) as another:
        launcher = DaskLauncher(another, host="127.0.0.1")
        with executor_of(launcher, 1) as executor:
            task = executor.options(crash_retries=1).submit(touch_and_wait, str(started), str(release))
            wait_until(started.exists, "the task runs", SECONDS)
            agent = agent_of(int(started.read_text()))
            started.unlink()
            (first,) = launcher._tasks.values()
            dask_worker = psutil.Process(agent).ppid()
            os.kill(dask_worker, signal.SIGKILL)
            wait_until(lambda: not is_alive(agent), "the agent has ended with it", SECONDS)
            wait_until(lambda: first.is_lost, "Dask has told", SECONDS)
            assert first.status().state is JobState.ENDED
            assert first.status().is_taken_away
            wait_until(started.exists, "the task runs again, beside another one", SECONDS)
            release.touch()
            assert task.result(SECONDS)


def test_a_task_whose_job_is_ended_by_dask_fails(make: Make, client: Any, tmp_path: Path) -> None:
    started = tmp_path / "started"
    with executor_of(make(), 1) as executor:
        lost = executor.submit(touch_and_wait, str(started), str(tmp_path / "never"))
        wait_until(started.exists, "the task runs", SECONDS)
        os.kill(agent_of(int(started.read_text())), signal.SIGKILL)
        assert isinstance(lost.exception(SECONDS), WorkerCrashError)


def test_a_scheduler_that_is_gone_is_told(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(launcher_module, "CONNECT_SECONDS", 2)
    started = tmp_path / "started"
    with scheduler_of(1) as (scheduler, address):
        launcher = DaskLauncher(address, host="127.0.0.1")
        gone = f"the Dask scheduler at {address} is gone"
        with executor_of(launcher, 1) as executor:
            lost = executor.submit(touch_and_wait, str(started), str(tmp_path / "never"))
            wait_until(started.exists, "the task runs", SECONDS)
            (task,) = launcher._tasks.values()
            scheduler.kill()
            assert isinstance(lost.exception(SECONDS), (WorkerCrashError, BrokenCrewError))
            wait_until(lambda: task.status().state is JobState.ENDED, "it is noted", SECONDS)
            assert gone in launcher.explain(task)
            launcher.cancel([task])
            error = executor.submit(add, 1, 2).exception(SECONDS)
            assert isinstance(error, BrokenCrewError)
            assert gone in str(error)
    assert "DaskLauncher failed" not in caplog.text


# ---------------------------------------------------------------------- what is told


def test_what_no_dask_worker_has_is_told_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = warning_of(make(workers=["nobody"]), monkeypatch, caplog)
    assert words.count("perhaps for ever: the cluster has no Dask worker ['nobody']; see workers=") == 1
    words = warning_of(make(resources={"THING": 2}), monkeypatch, caplog)
    assert words.count("perhaps for ever: no Dask worker that may run them has THING=2; see resources=") == 1


def test_what_is_only_taken_is_no_reason_for_a_warning(make: Make, client: Any) -> None:
    launcher = make(resources={"THING": 1}, workers=[0, *client.scheduler_info()["workers"]])
    launcher.check()
    assert launcher._lack() == ""
    launcher.close()


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"client": 5}, TypeError, "client must be a Client or Cluster of distributed, or an address, not 5"),
        ({"priority": "high"}, TypeError, "priority must be a number, not 'high'"),
        ({"priority": float("nan")}, ValueError, "priority must be a number, not nan"),
        ({"resources": "GPU"}, TypeError, "resources must be amounts by name"),
        ({"resources": {"GPU": -1}}, ValueError, "resources must have names with amounts"),
    ],
)
def test_options_that_are_none_are_refused(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        DaskLauncher(**options)


@pytest.mark.parametrize("address", ["foo", "tcp://127.0.0.1:9"])
def test_an_address_that_leads_nowhere_is_told_and_nothing_else(address: str) -> None:
    script = (
        "from crew_executor.launchers import DaskLauncher, dask\n"
        f"dask.CONNECT_SECONDS = 1\nDaskLauncher({address!r}).check()\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)

    assert f"LaunchError: the Dask scheduler of {address!r} cannot be reached" in run.stderr
    assert "Exception ignored" not in run.stderr


def test_an_agent_that_fails_is_told_with_its_words(make: Make) -> None:
    words = failure_of(make(python="/nowhere/python", max_failed_launches=1))

    assert "its job ended before its agent had come" in words
    assert "/nowhere/python -m crew_executor worker -" in words
    assert f"there is no interpreter /nowhere/python on {os.uname().nodename}: give python=" in words
    assert "No such file or directory" in words


def test_nobody_is_shown_the_invitation(make: Make, client: Any) -> None:
    launcher = make(python="/bin/false")
    launcher.check()
    try:
        job = Job("crew-1-1", 1, 1, b"0123456789\n", {}, None, "/bin/false", 0)
        (task,) = launcher.submit(job, 1)
        wait_until(task.future.done, "it has failed", SECONDS)  # type: ignore[attr-defined]
        assert "ended with exit code 1" in launcher.explain(task)
        assert "0123456789" not in launcher.explain(task)
        logs = str(client.get_worker_logs())
        assert "Compute Failed" in logs
        assert "0123456789" not in logs
    finally:
        launcher.close()


def test_an_asynchronous_client_is_refused() -> None:
    async def refuse() -> None:
        async with distributed.LocalCluster(
            n_workers=0, processes=False, asynchronous=True, dashboard_address=":0"
        ) as cluster:
            async with distributed.Client(cluster, asynchronous=True) as client:
                for each in (cluster, client):
                    with pytest.raises(ValueError, match="Give the scheduler's address"):
                        DaskLauncher(each)

    asyncio.run(refuse())


def test_without_distributed_it_says_what_to_install(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)

    with pytest.raises(LaunchError, match=r"pip install crew-executor\[dask\]"):
        make().check()
