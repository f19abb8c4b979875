"""Tasks that need what only some workers have: GPUs, licences, whatever users call so."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from crew_executor import CrewExecutor, WorkerCrashError
from crew_executor.launchers import LocalLauncher

from .agents import ProcessLauncher
from .helpers import append_line, touch_and_wait, wait_until
from .launching import executor_of

GPU = {"gpus": 1}


@pytest.fixture(autouse=True)
def _no_devices_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def see(seconds: float = 0.0) -> tuple[str | None, int]:
    """Take so long; return which GPUs this process may use, and which process it is."""
    time.sleep(seconds)
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()


def see_in_a_subtask(executor: CrewExecutor) -> str | None:
    return executor.options(resources=GPU).submit(see).result()[0]


def need_too_much_in_a_subtask(executor: CrewExecutor) -> Any:
    return executor.options(resources={"gpus": 7}).submit(see).result()


def test_each_gpu_is_seen_by_one_worker_and_the_others_see_none() -> None:
    with CrewExecutor(3, launcher=LocalLauncher(gpus=2), scaling="none") as executor:
        seen = {}
        while len(seen) < 3:
            seen.update({pid: devices for devices, pid in executor.map(see, [0.05] * 6)})

    assert sorted(map(str, seen.values())) == ["", "0", "1"]


def test_tasks_go_to_workers_that_have_what_they_need_and_others_go_past_them() -> None:
    with CrewExecutor(3, launcher=LocalLauncher(gpus=1)) as executor:
        special = [executor.options(resources=GPU).submit(see, 0.1) for _ in range(5)]
        plain = [executor.submit(see) for _ in range(20)]

        assert {devices for devices, _pid in (future.result(timeout=30) for future in special)} == {"0"}
        assert {devices for devices, _pid in (future.result(timeout=30) for future in plain)} <= {"0", ""}
        assert [devices for devices, _pid in executor.options(resources=GPU).map(see, [0.0] * 3)] == ["0"] * 3


def test_no_more_workers_come_than_can_run_what_waits() -> None:
    with CrewExecutor(8, launcher=LocalLauncher(gpus=2)) as executor:
        special = executor.options(resources=GPU)
        assert len({pid for _devices, pid in special.map(see, [0.05] * 10)}) <= 2
        assert executor.stats().launched == 2


def test_a_need_that_nobody_can_meet_is_an_error_at_once() -> None:
    with CrewExecutor(2, launcher=LocalLauncher(gpus=1, resources={"licences": 1}), name="pool") as executor:
        with pytest.raises(
            ValueError, match=r"no worker of executor pool can have gpus=2: the best equipped has gpus=1"
        ):
            executor.options(resources={"gpus": 2}).submit(see)
        with pytest.raises(ValueError, match="can have tapes=1"):
            list(executor.options(resources={"tapes": 1}).map(see, [0.0]))
        assert executor.options(resources={"licences": 1}).submit(abs, -1).result(timeout=30) == 1
        with pytest.raises(ValueError, match=r"can have gpus=7"):
            executor.submit(need_too_much_in_a_subtask, executor).result(timeout=30)
    with CrewExecutor(1) as executor:
        with pytest.raises(ValueError, match="the best equipped has nothing"):
            executor.options(resources=GPU).submit(see)


def test_a_successor_has_the_gpu_of_the_dead() -> None:
    with CrewExecutor(2, launcher=LocalLauncher(gpus=1), min_workers=2) as executor:
        special = executor.options(resources=GPU)
        devices, pid = special.submit(see).result(timeout=30)
        crash = special.submit(os.kill, pid, signal.SIGKILL).exception(timeout=30)

        assert isinstance(crash, WorkerCrashError)
        again, other = special.submit(see).result(timeout=30)
        assert (devices, again) == ("0", "0")
        assert other != pid


def test_a_worker_comes_though_others_are_idle_that_lack_what_is_needed() -> None:
    with CrewExecutor(2, launcher=LocalLauncher(gpus=1), max_tasks_per_child=3) as executor:
        special = executor.options(resources=GPU)
        both = {
            pid: devices
            for devices, pid in (each.result() for each in [special.submit(see, 0.3), executor.submit(see, 0.3)])
        }
        assert sorted(both.values()) == ["", "0"]
        for _ in range(2):  # the life of the one with the GPU is used up then; the other stays, idle
            special.submit(see).result(timeout=30)
        wait_until(lambda: [worker.state for worker in executor.stats().workers] == ["idle"], "one is left, idle")

        assert special.submit(see).result(timeout=30)[0] == "0"


def test_a_task_that_waits_for_a_subtask_lends_its_gpu() -> None:
    with CrewExecutor(2, launcher=LocalLauncher(gpus=1)) as executor:
        special = executor.options(resources=GPU)
        futures = [special.submit(see_in_a_subtask, executor) for _ in range(6)]

        assert [future.result(timeout=50) for future in futures] == ["0"] * 6


def test_tasks_that_wait_for_ordinary_subtasks_do_not_pile_up_workers() -> None:
    with CrewExecutor(1, launcher=LocalLauncher(gpus=1)) as executor:
        futures = [executor.options(resources=GPU).submit(wait_for_a_subtask, executor) for _ in range(10)]
        most = 0
        while not all(future.done() for future in futures):
            most = max(most, len(executor.stats().workers))

        assert most <= 4, "the one, its stand-in, and those that are about to leave"
        assert [future.result(timeout=1) for future in futures] == [5] * 10


def wait_for_a_subtask(executor: CrewExecutor) -> int:
    return executor.submit(abs, -5).result()


def run_alone(folder: str) -> str:
    """Fail if somebody else has the same GPU now."""
    device = os.environ["CUDA_VISIBLE_DEVICES"]
    fd = os.open(os.path.join(folder, device), os.O_CREAT | os.O_EXCL)
    time.sleep(0.02)
    os.close(fd)
    os.unlink(os.path.join(folder, device))
    return device


@pytest.mark.parametrize(("workers", "gpus", "tasks_max"), [(2, 1, 1), (4, 2, 1), (3, 2, 3), (1, 1, 1)])
def test_workers_that_are_replaced_never_share_a_gpu(tmp_path: Path, workers: int, gpus: int, tasks_max: int) -> None:
    launcher = LocalLauncher(gpus=gpus)
    with CrewExecutor(workers, launcher=launcher, max_tasks_per_child=tasks_max) as executor:
        special = executor.options(resources=GPU)
        plain = [executor.submit(see) for _ in range(12)]
        devices = [
            future.result(timeout=50) for future in [special.submit(run_alone, str(tmp_path)) for _ in range(12)]
        ]

        assert set(devices) <= {"0", "1"}
        assert all(future.result(timeout=50) for future in plain)


def test_a_fixed_pool_has_the_gpus_and_has_them_again() -> None:
    launcher = LocalLauncher(gpus=1)
    with CrewExecutor(2, launcher=launcher, scaling="none", min_workers=1, max_tasks_per_child=1) as executor:
        special = executor.options(resources=GPU)

        assert [special.submit(see).result(timeout=30)[0] for _ in range(3)] == ["0"] * 3


def test_what_was_submitted_is_done_at_shutdown_though_nobody_asks_for_workers() -> None:
    executor = CrewExecutor(2, launcher=LocalLauncher(gpus=1), scaling="manual")
    executor.launch_workers(2)
    special = executor.options(resources=GPU)
    pid = special.submit(see).result(timeout=30)[1]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: [worker.state for worker in executor.stats().workers] == ["idle"], "one is left, idle")
    future = special.submit(see)
    executor.shutdown()

    assert future.result(timeout=1)[0] == "0"


def test_who_has_a_higher_priority_is_before_those_with_needs(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    with CrewExecutor(1, launcher=LocalLauncher(gpus=1)) as executor:
        executor.submit(time.sleep, 0.2)
        futures = [executor.options(resources=GPU).submit(append_line, log, "special") for _ in range(2)]
        futures.append(executor.options(priority=1).submit(append_line, log, "urgent"))
        for future in futures:
            future.result(timeout=30)

    assert Path(log).read_text().split() == ["urgent", "special", "special"]


def test_a_long_ordinary_task_is_not_in_the_way_of_one_with_needs(tmp_path: Path) -> None:
    with CrewExecutor(2, launcher=LocalLauncher(gpus=1)) as executor:
        executor.submit(touch_and_wait, str(tmp_path / "started"), str(tmp_path / "go"))
        wait_until((tmp_path / "started").exists, "the ordinary task runs")

        assert executor.options(resources=GPU).submit(see).result(timeout=30)[0] == "0"
        (tmp_path / "go").touch()


def test_one_worker_at_a_time_is_launched_where_that_is_said() -> None:
    with CrewExecutor(6, launcher=LocalLauncher(gpus=2), scaling="one") as executor:
        futures = [executor.submit(see, 0.05) for _ in range(6)]
        futures += [executor.options(resources=GPU).submit(see, 0.05) for _ in range(2)]
        while not all(future.done() for future in futures):
            assert sum(worker.state == "starting" for worker in executor.stats().workers) <= 1


def test_a_user_who_is_told_of_fewer_gpus_shares_out_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    with CrewExecutor(1, launcher=LocalLauncher(gpus=2)) as executor:
        assert executor.submit(see).result(timeout=30)[0] == "5,7"
    with CrewExecutor(1) as executor:
        assert executor.submit(see).result(timeout=30)[0] == "5,7"


@pytest.mark.launchers
def test_workers_of_a_job_share_its_gpus_evenly() -> None:
    launcher = ProcessLauncher(workers_per_job=2, resources={"scratch": 1})
    launcher.gpus = 2
    with executor_of(launcher, 2) as executor:
        view = executor.options(resources={"gpus": 1, "scratch": 1})
        seen = {
            pid: devices
            for devices, pid in (each.result(timeout=30) for each in [view.submit(see, 0.5) for _ in range(2)])
        }
        assert sorted(map(str, seen.values())) == ["0", "1"]
        with pytest.raises(ValueError, match="can have gpus=2"):
            executor.options(resources={"gpus": 2}).submit(see)
