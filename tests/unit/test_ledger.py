"""Checks the notes of who has jobs at a scheduler."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from crew_executor.launchers import ledger
from crew_executor.launchers.slurm import SlurmLauncher


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ledger.FOLDER_VARIABLE, str(tmp_path / "deep" / "ledger"))
    return tmp_path / "deep" / "ledger"


def test_what_is_written_is_read_until_it_is_removed(folder: Path) -> None:
    ledger.write("abc", "mine", SlurmLauncher, "crew-abc-", "/jobs")
    (entry,) = ledger.entries()
    launcher = "crew_executor.launchers.slurm:SlurmLauncher"
    assert entry[:6] == ("abc", "mine", launcher, "crew-abc-", entry.host, os.getpid())
    assert entry.folder == "/jobs"
    assert entry.is_from_here()
    assert entry.is_alive()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.listdir(folder) == ["abc.json"]
    ledger.remove("abc")
    assert ledger.entries() == []
    ledger.remove("abc")  # again is no error


def test_a_later_process_with_the_clients_number_is_not_the_client() -> None:
    ledger.write("abc", "mine", SlurmLauncher, "crew-abc-", "/jobs")
    (entry,) = ledger.entries()
    assert not entry._replace(client_began=entry.client_began - 5).is_alive()


def test_a_client_on_another_host_is_not_taken_for_one_here() -> None:
    ledger.write("abc", "mine", SlurmLauncher, "crew-abc-", "/jobs")
    (entry,) = ledger.entries()
    elsewhere = entry._replace(host=f"not-{socket.gethostname()}")
    assert not elsewhere.is_from_here()
    assert not elsewhere.is_alive()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run": "abc"}', "null", '{"run": "abc", "new": 1}'])
def test_a_note_that_is_none_is_left_out(folder: Path, text: str) -> None:
    ledger.write("good", "mine", SlurmLauncher, "crew-good-", "/jobs")
    (folder / "abc.json").write_text(text)
    assert [entry.run for entry in ledger.entries()] == ["good"]


def test_a_note_under_another_name_is_left_out(folder: Path) -> None:
    ledger.write("good", "mine", SlurmLauncher, "crew-good-", "/jobs")
    (folder / "good.json").rename(folder / "other.json")
    assert ledger.entries() == []


def test_a_folder_that_cannot_be_made_is_no_reason_to_refuse_work(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file is in the way")
    ledger.write("abc", "mine", SlurmLauncher, "crew-abc-", "/jobs")
    assert ledger.entries() == []


def test_what_a_client_has_left_goes_with_its_note_and_nothing_else(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    own = ["crew-abc-1.invitation", "crew-abc-1.sh", "crew-abc-12.sh"]
    others = ["crew-abcd-1.sh", "crew-abc-1.log", "crew-abc-x.sh", "mycrew-abc-1.sh"]
    for name in own + others:
        (jobs / name).touch()
    ledger.write("abc", "mine", SlurmLauncher, "crew-abc-", str(jobs))
    (entry,) = ledger.entries()
    ledger.forget(entry)

    assert sorted(os.listdir(jobs)) == sorted(others)
    assert ledger.entries() == []
    ledger.forget(entry._replace(folder="/nosuch"))  # gone already
