"""Checks process_settings.py: what is read and set in this process."""

from __future__ import annotations

import os
from typing import Any

import pytest

from crew_executor.process_settings import adopt_settings, current_environment, current_settings, take_environment


def test_each_change_of_the_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = current_environment()
    assert before == dict(os.environ)
    assert current_environment() is before
    monkeypatch.setenv("MINE", "1")
    assert current_environment() == {**before, "MINE": "1"}
    monkeypatch.setenv("MINE", "2")
    assert current_environment()["MINE"] == "2"
    monkeypatch.delenv("MINE")
    assert current_environment() == before == dict(os.environ)


def test_a_change_that_is_undone_meanwhile_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread changes a variable while it is decoded, and takes that back."""
    monkeypatch.setenv("MINE", "home")
    monkeypatch.setenv("MINE_LAST", "1")  # it is decoded after the former
    decode, kept = os.fsdecode, os.environ._data  # type: ignore[attr-defined]

    def decode_while_it_changes(data: Any) -> str:
        kept[b"MINE"] = b"away"
        kept.pop(b"MINE_LAST", None)
        return decode(data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsdecode", decode_while_it_changes)
        patch.setattr(os.environ, "decodevalue", decode_while_it_changes)
        found = [current_environment()]
    os.environ.update(MINE="home", MINE_LAST="1")
    found.append(current_environment())
    assert [(each["MINE"], each["MINE_LAST"]) for each in found] == [("home", "1")] * 2


def test_another_mapping_in_its_place_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = {"MINE": "1"}
    monkeypatch.setattr(os, "environ", mapping)
    assert current_environment() == {"MINE": "1"}
    mapping["MINE"] = "2"
    assert current_environment() == {"MINE": "2"}


def test_an_environment_is_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    monkeypatch.setenv("MINE", "1")
    monkeypatch.setenv("MINE_TOO", "1")
    try:
        take_environment({**before, "MINE": "2", "MINE_NEW": "\udcff"})
        assert dict(os.environ) == {**before, "MINE": "2", "MINE_NEW": "\udcff"}
        assert os.getenv("MINE_NEW") == "\udcff"
    finally:
        take_environment(before)
    assert dict(os.environ) == before


def test_settings_are_read_and_set() -> None:
    before = current_settings()
    assert current_settings() == before
    mask = os.umask(before["umask"])
    assert mask == before["umask"]
    try:
        adopt_settings({**before, "umask": 0o26, "recursion_limit": before["recursion_limit"] + 100})
        assert current_settings() == {**before, "umask": 0o26, "recursion_limit": before["recursion_limit"] + 100}
    finally:
        adopt_settings(before)
    assert current_settings() == before
