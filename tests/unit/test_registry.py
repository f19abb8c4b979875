"""Checks registry.py: the folder, its names, and what is not ours to read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crew_executor import registry


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "registry"))
    return tmp_path / "registry"


def test_a_name_tells_client_and_supervisor_and_anything_else_is_no_entry(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for name in ("12-34", "7-8", "x-1", "12", ".lock", "1-2-3"):
        (folder / name).touch()

    assert [(one.client_pid, one.supervisor_pid) for one in registry.entries()] == [(12, 34), (7, 8)]
    assert registry.path_of(12, 34) == str(folder / "12-34")
    registry.remove(12, 34)
    registry.remove(12, 34)
    assert not (folder / "12-34").exists()


def test_without_a_folder_there_is_nobody() -> None:
    assert registry.entries() == []


def test_the_folder_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(registry.FOLDER_VARIABLE)
    here = registry.folder()
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/elsewhere")

    assert registry.folder() == here
    assert str(os.getuid()) in here
