"""Checks reader.py without a link: how a worker begins, and what is no beginning."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from crew_executor.core.messages import Frame, Kind, encode_control
from crew_executor.errors import ProtocolError
from crew_executor.reader import Reading


def ready(listener: Any, fields: dict[str, Any], parts: tuple[bytes, ...] = ()) -> None:
    """Let a worker that was welcomed say READY."""
    reading = Reading(Mock(), listener)
    reading.take(Frame(Kind.HELLO, 1, 1, 0, 0, memoryview(b"")))
    reading.take(Frame(Kind.READY, 1, 2, 0, 0, memoryview(encode_control(fields, parts))))


def test_a_worker_that_says_nothing_more_has_joined() -> None:
    listener = Mock()
    ready(listener, {})

    assert 1 == listener.worker_joined.call_count
    assert not listener.initializer_failed.called


@pytest.mark.parametrize(
    ("fields", "parts"), [({"is_ready": True}, ()), ({"doing": "initializer"}, ()), ({}, (b"", b""))]
)
def test_half_a_failure_is_an_offence_of_this_worker_alone(fields: dict[str, Any], parts: tuple[bytes, ...]) -> None:
    """An error of another kind would be taken for the reader's, and break the pool."""
    listener = Mock()
    with pytest.raises(ProtocolError, match="READY tells of a failure"):
        ready(listener, fields, parts)
    assert not listener.worker_joined.called
