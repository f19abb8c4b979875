"""Calls and results to bytes: when plain pickle is enough."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from crew_executor import serialize


def no_cloudpickle(*_arguments: Any, **_options: Any) -> bytes:
    raise AssertionError("cloudpickle is asked")


def as_text(item: Any) -> Any:
    return (str, (b"some text", "ascii")) if isinstance(item, Exception) else NotImplemented


@pytest.mark.parametrize("reduce", [None, as_text], ids=["no reducer", "with a reducer"])
def test_what_needs_no_cloudpickle_is_a_plain_pickle(
    reduce: Callable[[Any], Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serialize, "dumps_by_value", no_cloudpickle)

    assert (len, [1.5]) == pickle.loads(serialize.dumps((len, [1.5]), reduce))


def test_a_reducer_is_asked_in_a_plain_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "dumps_by_value", no_cloudpickle)

    assert ["some text"] == pickle.loads(serialize.dumps([ValueError()], as_text))
