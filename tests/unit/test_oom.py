"""Checks oom.py: the counter is found in both versions of control groups, and each rise is told of one death."""

from __future__ import annotations

from pathlib import Path

import pytest

from crew_executor.oom import OomCounter

VERSION_2 = "0::/user/job 1\n"
VERSION_1 = "12:cpuset:/\n4:memory,hugetlb:/user/job 1\n1:name=systemd:/user\n0::/user/job 1\n"


class Group:
    """A control group in files, and the membership of this process in it."""

    def __init__(self, directory: Path, membership: str, counter: str) -> None:
        self.membership = directory / "cgroup"
        self.membership.write_text(membership)
        self.root = directory / "fs"
        self.file = self.root / counter
        self.file.parent.mkdir(parents=True)
        self.count(0)

    def count(self, number: int) -> None:
        self.file.write_text(f"low 3\noom 9\noom_kill {number}\noom_group_kill 7\n")

    def counter(self) -> OomCounter:
        return OomCounter(str(self.membership), str(self.root))


@pytest.fixture(
    params=[
        (VERSION_2, "user/job 1/memory.events"),
        (VERSION_2, "memory.events"),  # in a container that sees its own group as the root
        (VERSION_1, "memory/user/job 1/memory.oom_control"),
        (VERSION_1, "memory/memory.oom_control"),
        ("4:memory:/a:b\n", "memory/a:b/memory.oom_control"),
    ],
    ids=["2", "2 in a container", "1", "1 in a container", "a colon in the name"],
)
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Group:
    return Group(tmp_path, *request.param)


def test_nothing_is_said_while_the_counter_stands(group: Group) -> None:
    group.count(5)
    counter = group.counter()

    assert "" == counter.verdict()


def test_a_rise_is_told_once(group: Group) -> None:
    group.count(5)
    counter = group.counter()
    group.count(6)

    assert "by the kernel for memory (the control group's oom_kill counter rose to 6)" == counter.verdict()
    assert "" == counter.verdict()


def test_of_two_that_die_together_both_are_told(group: Group) -> None:
    counter = group.counter()
    group.count(2)

    assert [True, True, False] == [bool(counter.verdict()) for _ in range(3)]


def test_what_rose_before_a_launch_is_not_laid_to_the_new_worker(group: Group) -> None:
    """Another process of the group was killed: a neighbour, or a child of some task."""
    counter = group.counter()
    group.count(3)
    counter.rebase()

    assert "" == counter.verdict()


def test_a_group_that_is_gone_says_nothing(group: Group) -> None:
    counter = group.counter()
    group.file.unlink()

    assert "" == counter.verdict()


@pytest.mark.parametrize("text", ["", "oom_kill\n", "oom_kill many\n", "oom 4\n", "\xff\n"])
def test_a_counter_that_looks_otherwise_says_nothing(group: Group, text: str) -> None:
    group.file.write_bytes(text.encode("latin-1"))
    counter = group.counter()
    verdict = counter.verdict()
    group.count(1)

    assert "" == verdict
    assert counter.verdict()


def test_without_a_membership_nothing_is_known(tmp_path: Path) -> None:
    assert "" == OomCounter(str(tmp_path / "missing"), str(tmp_path)).verdict()


@pytest.mark.parametrize(
    "membership",
    [b"", b"\n", b"garbage\n", b"0:\n", b"\xff:\xfe\n", b"5:cpu:/\n", b"0::/" + b"x" * 300],
    ids=["empty", "an empty line", "no colon", "one colon", "not text", "no memory", "a name too long"],
)
def test_a_membership_that_looks_otherwise_keeps_nobody_from_work(tmp_path: Path, membership: bytes) -> None:
    (tmp_path / "cgroup").write_bytes(membership)
    counter = OomCounter(str(tmp_path / "cgroup"), str(tmp_path))
    counter.rebase()

    assert "" == counter.verdict()


def test_a_group_without_a_counter_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text(VERSION_1)

    assert "" == OomCounter(str(tmp_path / "cgroup"), str(tmp_path / "nothing here")).verdict()
