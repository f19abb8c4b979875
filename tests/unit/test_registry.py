"""Checks registry.py: the folders, their names, and what is not ours to read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crew_executor import registry


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "registry"))
    return tmp_path / "registry"


def found() -> list[tuple[int, int]]:
    return [(one.client_pid, one.supervisor_pid) for one in registry.entries()]


def test_a_name_tells_client_and_supervisor_and_anything_else_is_no_entry(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for name in ("12-34", "7-8", "x-1", "12", ".lock", "1-2-3", "\N{SUPERSCRIPT TWO}-\N{SUPERSCRIPT THREE}"):
        (folder / name).touch()

    assert found() == [(12, 34), (7, 8)]
    registry.remove(12, 34)
    registry.remove(12, 34)
    assert not (folder / "12-34").exists()


def test_without_a_folder_there_is_nobody() -> None:
    assert registry.entries() == []


def test_the_folders_do_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(registry.FOLDER_VARIABLE)
    here = registry.folders()
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/elsewhere")

    assert registry.folders() == here
    assert all(str(os.getuid()) in each for each in here)


@pytest.mark.parametrize("mode", [0o755, 0o720, 0o702])
def test_a_folder_that_others_can_enter_is_not_looked_into(folder: Path, mode: int) -> None:
    folder.mkdir()
    (folder / "1-2").touch()
    folder.chmod(mode)

    assert found() == []
    registry.remove(1, 2)
    assert (folder / "1-2").exists()


def test_a_folder_of_another_user_is_not_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    (folder / "1-2").touch()
    me = os.getuid()
    assert found() == [(1, 2)]
    monkeypatch.setattr(os, "getuid", lambda: me + 1)

    assert found() == []


def test_a_link_to_a_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "elsewhere" / "1-2").touch()
    folder.symlink_to(tmp_path / "elsewhere")

    assert found() == []
