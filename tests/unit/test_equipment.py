"""Checks launchers/equipment.py, and what launchers say that their workers have."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from crew_executor.launchers import Job, Launcher, LocalLauncher
from crew_executor.launchers.equipment import (
    Equipment,
    Outfit,
    check_gpus,
    exclusive,
    own_devices,
    shared,
    visible_devices,
)


def test_gpus_are_numbered_as_this_process_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert own_devices(2) == ("0", "1")
    assert own_devices(["GPU-8f", 3]) == ("GPU-8f", "3")
    assert own_devices(None) is None

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6,7")
    assert own_devices(2) == ("4", "6")
    with pytest.raises(ValueError, match=r"gpus=4, but CUDA_VISIBLE_DEVICES leaves this process 3 GPUs"):
        own_devices(4)


@pytest.mark.parametrize(
    ("gpus", "kind"),
    [
        ("all", TypeError), (b"01", TypeError), (1.5, TypeError), (True, TypeError), (-1, ValueError),
        (["0", "0"], ValueError), (["0,1"], ValueError), ([""], ValueError), ([None], ValueError),
    ],
)  # fmt: skip
def test_what_is_no_number_of_gpus_is_refused(gpus: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="gpus must"):
        LocalLauncher(gpus=gpus)


@pytest.mark.parametrize(("value", "seen"), [("-1", ()), ("NoDevFiles", ()), ("0,-1,1", ("0",)), ("", ())])
def test_what_cuda_does_not_take_for_a_gpu_ends_its_list(
    monkeypatch: pytest.MonkeyPatch, value: str, seen: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)

    assert visible_devices() == seen


def test_gpus_of_a_job_are_a_whole_number() -> None:
    assert check_gpus(None) is None
    assert check_gpus(3) == 3
    with pytest.raises(TypeError, match="whole number"):
        check_gpus("a100:2")
    with pytest.raises(ValueError, match="at least 0"):
        check_gpus(-1)


def test_sets_of_gpus_are_alike() -> None:
    assert exclusive("ab", 4) == [("a",), ("b",)]
    assert exclusive("abcd", 2) == [("a", "b"), ("c", "d")]
    assert exclusive("abc", 2) == [("a",), ("b",)]
    assert exclusive("", 2) == []


def test_workers_of_a_job_share_evenly() -> None:
    assert [shared("abcd", place, 2) for place in range(3)] == [("a", "b"), ("c", "d"), ("a", "b")]
    assert [shared("ab", place, 4) for place in range(4)] == [("a",), ("b",), ("a",), ("b",)]
    assert shared("", 0, 1) == ()


def test_workers_here_have_sets_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    outfit = LocalLauncher(gpus=2, resources={"db": 1}).outfit(3)

    assert outfit.sets == [Equipment({"db": 1, "gpus": 1}, ("0",)), Equipment({"db": 1, "gpus": 1}, ("1",))]
    assert (outfit.resources, outfit.devices) == ({"db": 1}, ()), "the others see none"
    assert LocalLauncher().outfit(1) == Outfit({}, None, ())
    with pytest.raises(ValueError, match="leave them out of resources="):
        LocalLauncher(gpus=1, resources={"gpus": 1})


class OneHost(Launcher):
    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        raise NotImplementedError


@pytest.mark.parametrize(("gpus", "each"), [(2, 0.5), (4, 1), (6, 1), (8, 2), (0, None)])
def test_all_workers_of_jobs_have_the_same(gpus: int, each: float | None) -> None:
    launcher = OneHost(workers_per_job=4, resources={"scratch_gb": 10})
    launcher.gpus = gpus

    assert launcher.outfit(2) == Outfit({"scratch_gb": 10, **({} if each is None else {"gpus": each})})
    launcher.gpus = None
    assert launcher.outfit(1) == Outfit({"scratch_gb": 10})
