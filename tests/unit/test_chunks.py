"""Checks chunks.py without workers: who waits for results of a map() is woken, and a Ctrl-C locks nobody out."""

from __future__ import annotations

import json
import threading
import warnings

import pytest

from crew_executor.chunks import Chunk, MapRun, _Block
from crew_executor.core.messages import Outcome, OutcomeFlag, encode_item, encode_item_warnings
from crew_executor.packer import Packer
from crew_executor.segments import SegmentPool
from crew_executor.shares import Shares

SECONDS = 10.0


def make_run(items: int) -> MapRun:
    """Return a map() whose items have been submitted, to nobody."""

    def submit(_chunk: Chunk, _key: str, *_more: object) -> None: ...

    packer = Packer(Shares("crew", lambda _number: None), SegmentPool())
    pairs = iter([(number,) for number in range(items)])
    run = MapRun(submit, lambda _run: None, abs, pairs, attach=lambda data: data, packer=packer)
    run.submit()
    return run


def finish(run: MapRun, place: int, items: int) -> None:
    run.take(_Block(place, items, b"", ZeroDivisionError(), 0))


def test_warnings_of_items_that_were_delivered_before_are_not_shown_again() -> None:
    run = make_run(2)
    chunk = Chunk(run, 0, b"", b"", [0, 0, 0])
    records = [encode_item_warnings(pack_warning(f"number {number}")) + encode_item(b"") for number in range(2)]
    part = (0).to_bytes(8, "little") + b"".join(records)
    flags = OutcomeFlag.WARNINGS
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chunk.finish(Outcome(1, 1, flags, (part,), 0.0, 0.0, 0.0, 0, first=0, items=1))
        chunk.finish(Outcome(1, 1, flags, (part,), 0.0, 0.0, 0.0, 0, first=1, items=1))

    assert [str(warning.message) for warning in caught] == ["number 0", "number 1"]


def pack_warning(message: str) -> bytes:
    entry = {"message": message, "module": "builtins", "category": "UserWarning", "filename": "<task>", "lineno": 1}
    return json.dumps([entry]).encode()


def in_thread(function: object, *args: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_results_arrive_though_a_ctrl_c_has_left_the_consumers_lock_locked() -> None:
    run = make_run(1)
    in_thread(run._changed.acquire).join(SECONDS)
    reader = in_thread(finish, run, 0, 1)
    reader.join(SECONDS)

    assert not reader.is_alive()
    with pytest.raises(ZeroDivisionError):
        next(run.results(None))


def test_who_waits_for_all_items_is_woken_when_more_have_arrived_than_it_knew_of() -> None:
    """A thread that still submits counts its items after they are out, and they may be done before it does."""
    run = make_run(5)
    waiter = in_thread(run.wait)
    while not run._changed._waiters:  # type: ignore[attr-defined]
        pass
    finish(run, 0, 3)
    finish(run, 3, 4)  # five were known of
    waiter.join(SECONDS)

    assert not waiter.is_alive()
