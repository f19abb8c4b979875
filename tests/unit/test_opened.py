"""Checks opened.py."""

from __future__ import annotations

import pytest

from crew_executor import opened
from crew_executor.opened import Opened


def test_it_remembers_by_the_bytes() -> None:
    remembered: Opened[str] = Opened()
    remembered.add(b"one", "first")
    remembered.add(b"two", "second")
    remembered.add(b"one", "again")

    assert (remembered.get(b"one"), remembered.get(b"two"), remembered.get(b"three")) == ("again", "second", None)


def test_it_forgets_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "OPENED_MAX", 3)
    remembered: Opened[int] = Opened()
    for number in range(10):
        remembered.add(bytes([number]), number)
        assert remembered.get(bytes([number])) == number
        assert len(remembered) <= 3


def test_it_forgets_when_they_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "OPENED_BYTES_MAX", 100)
    remembered: Opened[int] = Opened()
    for number in range(10):
        remembered.add(bytes([number]) * 40, number)
        remembered.add(bytes([number]) * 40, number)  # which is no more than once
        assert remembered.get(bytes([number]) * 40) == number
        assert len(remembered) <= 2
    remembered.add(bytes(200), 1)
    assert remembered.get(bytes(200)) == len(remembered) == 1
