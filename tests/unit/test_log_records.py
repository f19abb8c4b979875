"""Log records to JSON and back, and the levels that say which travel."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from crew_executor import log_records
from crew_executor.log_records import adopt_levels, current_levels, encode_record, show_record


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(log_records, "_adopted", {"levels": {}, "disable": logging.NOTSET})
    before = logging.root.level
    yield
    logging.root.setLevel(before)
    logging.disable(logging.NOTSET)


def travel(**attributes: Any) -> dict[str, Any]:
    """Return what arrives of a record."""
    fields = {"name": "there", "msg": "%s and %d", "args": ("one", 2), "levelno": logging.WARNING} | attributes
    arrived: dict[str, Any] = json.loads(json.dumps(encode_record(logging.makeLogRecord(fields))))
    return arrived


def test_a_record_is_handled_by_the_logger_of_its_name(caplog: pytest.LogCaptureFixture) -> None:
    show_record(travel(levelname="WARNING", lineno=7), "crew-1-1", "task one")

    (record,) = caplog.records
    assert (record.name, record.getMessage(), record.lineno) == ("there", "one and 2", 7)
    assert (record.processName, record.__dict__["worker"], record.__dict__["task"]) == (
        "crew-1-1",
        "crew-1-1",
        "task one",
    )


def test_levels_and_filters_of_this_process_hold(caplog: pytest.LogCaptureFixture) -> None:
    show_record(travel(levelno=logging.DEBUG), "crew-1-1", None)
    caplog.set_level(logging.ERROR, "there")
    show_record(travel(), "crew-1-1", None)

    assert caplog.records == []


def test_a_traceback_travels_as_text(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise LookupError("lost")
    except LookupError:
        fields = travel(exc_info=sys.exc_info())
    show_record(fields, "crew-1-1", None)

    assert 'raise LookupError("lost")' in caplog.text
    assert "LookupError: lost" in caplog.text


def test_what_users_have_added_travels_as_far_as_it_can(caplog: pytest.LogCaptureFixture) -> None:
    show_record(travel(number=3, text="words", thing={1, 2}), "crew-1-1", None)

    fields = caplog.records[0].__dict__
    assert (fields["number"], fields["text"], fields["thing"]) == (3, "words", "{1, 2}")


def test_an_endless_text_is_cut() -> None:
    fields = travel(msg="x" * 10_000_000, args=(), more="y" * 10_000_000)

    assert len(fields["msg"]) == len(fields["more"]) == log_records.TEXT_MAX


def test_a_filter_that_raises_harms_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_record: logging.LogRecord) -> bool:
        raise RuntimeError("no")

    logging.getLogger("there").addFilter(refuse)
    try:
        show_record(travel(), "crew-1-1", None)
    finally:
        logging.getLogger("there").removeFilter(refuse)

    assert "RuntimeError: no" in capsys.readouterr().err


def test_levels_are_taken_over_and_given_up_again() -> None:
    other = logging.getLogger("taken over")
    adopt_levels({"levels": {"": logging.ERROR, "taken over": logging.DEBUG}, "disable": logging.INFO})
    assert (logging.root.level, other.level, logging.root.manager.disable) == (
        logging.ERROR,
        logging.DEBUG,
        logging.INFO,
    )
    assert current_levels()["levels"]["taken over"] == logging.DEBUG
    adopt_levels({"levels": {"": logging.ERROR}, "disable": logging.NOTSET})
    assert (logging.root.level, other.level, logging.root.manager.disable) == (logging.ERROR, 0, 0)


def test_a_level_that_was_set_here_stays_until_the_client_changes_it() -> None:
    adopt_levels({"levels": {"": logging.ERROR}, "disable": 0})
    logging.root.setLevel(logging.DEBUG)
    adopt_levels({"levels": {"": logging.ERROR}, "disable": 0})
    assert logging.root.level == logging.DEBUG
    adopt_levels({"levels": {"": logging.INFO}, "disable": 0})
    assert logging.root.level == logging.INFO
