"""How many workers there are by default: what the machine, its scheduler and its containers allow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crew_executor.cpus import usable_cpus


@pytest.fixture(autouse=True)
def _eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)


def count(folder: Path, membership: str, files: dict[str, str]) -> int:
    """Return the CPUs of a process with these control groups."""
    for name, text in files.items():
        file = folder / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "membership").write_text(membership)
    return usable_cpus(str(folder / "membership"), str(folder / "root"))


def test_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(str(tmp_path / "none"), str(tmp_path)) == 8


def test_without_an_affinity_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cpus(str(tmp_path / "none"), str(tmp_path)) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus(str(tmp_path / "none"), str(tmp_path)) == 1


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("9900000 100000", 8), ("", 8)],
)
def test_the_quota_of_a_container_counts(tmp_path: Path, quota: str, expected: int) -> None:
    assert count(tmp_path, "0::/\n", {"cpu.max": quota}) == expected


def test_the_smallest_quota_above_a_group_counts(tmp_path: Path) -> None:
    files = {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000", "cpu.max": "400000 100000"}
    assert count(tmp_path, "0::/a/b\n", files) == 3


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("250000", 3)])
def test_the_first_version_of_control_groups_counts(
    tmp_path: Path, controllers: str, quota: str, expected: int
) -> None:
    files = {f"{controllers}/a/cpu.cfs_quota_us": quota, f"{controllers}/a/cpu.cfs_period_us": "100000"}
    assert count(tmp_path, f"5:{controllers}:/a\n4:cpuset:/\n0::/\n", files) == expected


def test_in_a_container_the_group_is_mounted_as_the_root(tmp_path: Path) -> None:
    assert count(tmp_path, "5:cpu:/elsewhere\n0::/elsewhere\n", {"cpu.max": "200000 100000"}) == 2


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("64", 8), ("0", 1), ("two", 8), ("", 8)])
def test_what_slurm_gives_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, expected: int) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    assert usable_cpus(str(tmp_path / "none"), str(tmp_path)) == expected
