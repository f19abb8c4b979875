"""Tasks that need what only some workers have: GPUs, licences, whatever users call so."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from crew_executor import CrewExecutor, WorkerCrashError
from crew_executor.launchers import LocalLauncher

from .agents import ProcessLauncher, executor_of
from .helpers import wait_until

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
        future = executor.options(resources=GPU).submit(see_in_a_subtask, executor)

        assert future.result(timeout=30) == "0"


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
