"""Checks launchers/equipment.py, and what launchers say that their workers have."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from crew_executor.launchers import Job, Launcher, LocalLauncher
from crew_executor.launchers.equipment import Equipment, exclusive, own_devices, shared


def test_gpus_are_numbered_as_this_process_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert own_devices(2) == ("0", "1")
    assert own_devices(["GPU-8f", 3]) == ("GPU-8f", "3")
    assert own_devices(None) is None

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6,7")
    assert own_devices(2) == ("4", "6")
    with pytest.raises(ValueError, match=r"gpus=4, but CUDA_VISIBLE_DEVICES leaves this process 3 GPUs"):
        own_devices(4)


@pytest.mark.parametrize(("gpus", "kind"), [("all", TypeError), (1.5, TypeError), (True, TypeError), (-1, ValueError)])
def test_what_is_no_number_of_gpus_is_refused(gpus: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="gpus must be"):
        LocalLauncher(gpus=gpus)


def test_each_gpu_has_one_worker() -> None:
    assert exclusive("ab", 4) == [("a",), ("b",), (), ()]
    assert exclusive("abcd", 2) == [("a", "b"), ("c", "d")]
    assert exclusive("abc", 2) == [("a",), ("b",)]
    assert exclusive("", 2) == [(), ()]


def test_workers_of_a_job_share_evenly() -> None:
    assert [shared("abcd", place, 2) for place in range(3)] == [("a", "b"), ("c", "d"), ("a", "b")]
    assert [shared("ab", place, 4) for place in range(4)] == [("a",), ("b",), ("a",), ("b",)]
    assert shared("", 0, 1) == ()


def test_the_first_workers_here_have_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second, third = LocalLauncher(gpus=2, resources={"db": 1}).equipment(3)

    assert first == Equipment({"db": 1, "gpus": 1}, ("0",))
    assert second == Equipment({"db": 1, "gpus": 1}, ("1",))
    assert third == Equipment({"db": 1}, ())
    assert LocalLauncher().equipment(1) == [Equipment({}, None)]


class OneHost(Launcher):
    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        raise NotImplementedError


def test_all_workers_of_jobs_have_the_same() -> None:
    launcher = OneHost(workers_per_job=4, resources={"scratch_gb": 10})
    launcher.gpus = 2

    assert launcher.equipment(2) == [Equipment({"scratch_gb": 10, "gpus": 0.5})] * 2
    launcher.gpus = None
    assert launcher.equipment(1) == [Equipment({"scratch_gb": 10})]
