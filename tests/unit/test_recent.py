"""Checks recent.py."""

from __future__ import annotations

import pytest

from crew_executor import recent
from crew_executor.recent import Recent


def test_it_remembers_the_last_with_a_key() -> None:
    remembered: Recent[str, str] = Recent()
    remembered.add("one", "first", 10)
    remembered.add("two", "second", 10)
    remembered.add("one", "again", 10)
    remembered.remove("two")
    remembered.remove("three")

    assert (remembered.get("one"), remembered.get("two"), remembered.get("three")) == ("again", None, None)


def test_it_forgets_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "RECENT_MAX", 3)
    remembered: Recent[int, int] = Recent()
    for number in range(10):
        remembered.add(number, number, 1)
        assert remembered.get(number) == number
        assert len(remembered) <= 3


def test_it_forgets_when_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "RECENT_BYTES_MAX", 100)
    remembered: Recent[int, int] = Recent()
    for number in range(10):
        for _ in range(3):  # which takes no more room than once
            remembered.add(number, number, 40)
        assert remembered.get(number) == number
        assert len(remembered) == 1 + number % 2
    remembered.add(99, 99, 200)
    assert (remembered.get(99), len(remembered)) == (99, 1)
    remembered.remove(99)
    remembered.add(1, 1, 60)
    remembered.add(2, 2, 40)
    assert len(remembered) == 2


def test_the_oldest_are_those_that_were_not_renewed() -> None:
    remembered: Recent[int, int] = Recent()
    for number in range(4):
        remembered.add(number, number, 1)
    remembered.renew(0)
    remembered.renew(9)

    assert remembered.oldest(2) == [(1, 1), (2, 2)]
    assert [key for key, _value in remembered.oldest(9)] == [1, 2, 3, 0]
