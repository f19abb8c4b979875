"""Waiting for a future: behind a bell, or at the hatch, where who waits finishes it himself, or is interrupted."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FuturesTimeoutError
from typing import Any, cast

import pytest

from crew_executor import serialize
from crew_executor.core.messages import Outcome, OutcomeFlag, encode_outcome
from crew_executor.core.task import Task
from crew_executor.core.worker import Worker
from crew_executor.errors import BrokenCrewError
from crew_executor.futures import CrewFuture, WorkerFacts
from crew_executor.hatch import Hatch
from crew_executor.ticket import Ticket

from .fakes import interrupt_at, make_outcome

FACTS = WorkerFacts("w1", "host", 7)


def answer_of(task_id: int, result: object = "answered", *, flags: int = 0, attempt: int = 1) -> bytes:
    return encode_outcome(make_outcome(task_id, attempt, flags=flags, parts=(serialize.dumps(result),)))


def report_of(task_id: int, result: object) -> Outcome:
    return make_outcome(task_id, parts=(serialize.dumps(result),))


class ScriptedHatch:
    """Say what is to be said. A step is an answer, None for a time that is over, or a call, after which one is rung."""

    def __init__(self, *steps: bytes | Callable[[], object] | None) -> None:
        self.steps = list(steps)
        self.waiters: list[object] = []
        self.is_watched = True
        self.rings = 0
        self.timeouts: list[float | None] = []

    def expects_waiter(self) -> bool:
        is_expected, self.is_watched = self.is_watched, False
        return is_expected

    def send(self, _frame: bytes) -> bool:
        return True

    def recv(self, timeout: float | None) -> bytes | None:
        self.timeouts.append(timeout)
        step = self.steps.pop(0)
        if step is None or isinstance(step, bytes):
            return step
        step()
        return b""

    def release(self) -> None:
        self.rings += 1


class Sent:
    """A future whose task, with number 1, was sent with a ticket."""

    def __init__(self, *steps: bytes | Callable[[], object] | None, is_watched: bool = True) -> None:
        self.hatch = ScriptedHatch(*steps)
        self.hatch.is_watched = is_watched
        self.ticket = Ticket(Worker("w1"), cast(Hatch, self.hatch), 77, FACTS, deque())
        self.future: CrewFuture[Any] = CrewFuture(int, time.time())
        self.task = self.future._task = Task(1, "f", b"payload", self.future)
        self.future._call = b"payload"
        assert self.ticket.use(self.task, [self.task])

    @property
    def known(self) -> list[bool]:
        return [place.outcome is not None for place in self.ticket.places()]


def test_who_waits_at_the_hatch_has_the_result_and_opens_the_next_place() -> None:
    sent = Sent(answer_of(1))

    assert "answered" == sent.future.result()
    assert [True] == sent.known
    assert sent.hatch.is_watched
    record = sent.future.record()
    assert ("success", "w1", "host", 7, 1) == (record.status, record.worker, record.host, record.pid, record.attempts)
    assert (None, None, None) == (sent.future._ticket, sent.future._task, sent.future._call), "it keeps nothing alive"


@pytest.mark.parametrize(
    "stray",
    [answer_of(2), answer_of(1, attempt=2), b"", b"no outcome at all", answer_of(1) + answer_of(1), bytes(4000)],
    ids=["of another", "of another attempt", "a ring", "rubbish", "two", "zeros"],
)
def test_what_is_not_the_answer_is_passed_over(stray: bytes) -> None:
    assert "answered" == Sent(stray, answer_of(1)).future.result()


def test_who_has_not_waited_before_is_not_answered_and_will_be_the_next_time() -> None:
    sent = Sent(is_watched=False)
    sent.future._finish(report_of(1, "reported"), FACTS)

    assert "reported" == sent.future.result()
    late = Sent(is_watched=False)
    with pytest.raises(FuturesTimeoutError):
        late.future.result(0)
    assert late.hatch.is_watched
    assert [] == late.hatch.timeouts


def test_two_do_not_wait_at_one_hatch() -> None:
    sent = Sent(is_watched=False)
    sent.hatch.waiters.append(object())
    with pytest.raises(FuturesTimeoutError):
        sent.future.result(0)

    assert not sent.hatch.is_watched, "or workers would answer where nobody waits"


@pytest.mark.parametrize("what", ["a callback", "a condition"])
def test_who_is_not_the_only_one_to_be_told_waits_behind_a_bell(what: str) -> None:
    sent = Sent(is_watched=False)
    if what == "a callback":
        sent.future.add_done_callback(lambda _future: None)
    else:
        sent.future._condition  # noqa: B018  as wait() asks for it
    with pytest.raises(FuturesTimeoutError):
        sent.future.result(0)

    assert (False, []) == (sent.hatch.is_watched, sent.hatch.timeouts)


@pytest.mark.parametrize("what", ["a callback", "a condition", "warnings"])
def test_what_is_more_than_a_result_is_left_to_the_dispatcher(what: str) -> None:
    told: list[object] = []
    sent = Sent(answer_of(1, flags=OutcomeFlag.RELEASED if what == "warnings" else 0))
    recv = sent.hatch.recv

    def come_between(timeout: float | None) -> bytes | None:
        if what == "a callback":
            sent.future.add_done_callback(told.append)
        elif what == "a condition":
            sent.future._condition  # noqa: B018
        return recv(timeout)

    sent.hatch.recv = come_between  # type: ignore[method-assign]
    with pytest.raises(FuturesTimeoutError):
        sent.future.result(0.01)
    assert [True] == sent.known
    sent.future._finish(report_of(1, "reported"), FACTS)

    assert "reported" == sent.future.result(0)
    assert told == ([sent.future] if what == "a callback" else [])


def test_a_time_that_is_over_ends_the_wait() -> None:
    sent = Sent(None)
    with pytest.raises(FuturesTimeoutError):
        sent.future.result(0)

    assert sent.hatch.timeouts == [0.0]
    assert not sent.hatch.waiters
    assert not sent.future._bells


def test_who_waits_at_the_hatch_is_woken_by_the_report() -> None:
    sent = Sent()
    sent.hatch.steps.append(lambda: sent.future._finish(report_of(1, "reported"), FACTS))

    assert "reported" == sent.future.result()
    assert sent.hatch.rings == 1
    assert [False] == sent.known


def test_who_waits_at_the_hatch_is_woken_by_a_cancel_and_by_a_loss() -> None:
    cancelled, lost = Sent(), Sent()
    cancelled.hatch.steps.append(cancelled.future._finish_cancelled)
    lost.hatch.steps.append(lambda: lost.future._finish_lost(BrokenCrewError("broken"), FACTS))

    with pytest.raises(CancelledError):
        cancelled.future.result()
    with pytest.raises(BrokenCrewError):
        lost.future.result()


@pytest.mark.parametrize("end", ["report", "loss", "cancel", "unsent"])
def test_what_was_finished_at_the_hatch_stays_so(end: str) -> None:
    sent = Sent(answer_of(1))
    result = sent.future.result()
    if end == "report":
        sent.future._finish(report_of(1, "reported"), FACTS)
    elif end == "loss":
        sent.future._finish_lost(BrokenCrewError("broken"), FACTS)
    elif end == "cancel":
        sent.future._finish_cancelled()
    else:
        assert not sent.future._unsent()
    sent.future._sent()

    assert (result, "answered", None) == ("answered", sent.future.result(0), sent.future.exception(0))
    assert sent.future.done()
    assert not sent.future.cancelled()
    assert sent.future._unopened is None


@pytest.mark.parametrize("end", ["report", "loss", "cancel"])
def test_an_answer_after_the_end_changes_nothing(end: str) -> None:
    sent = Sent()
    if end == "report":
        sent.future._finish(report_of(1, "reported"), FACTS)
    elif end == "loss":
        sent.future._finish_lost(BrokenCrewError("broken"), FACTS)
    else:
        sent.future._finish_cancelled()
    before = sent.future._state

    assert not sent.future._finish_early(report_of(1, "answered"), FACTS)
    assert before == sent.future._state


def test_others_who_wait_for_the_same_future_are_woken() -> None:
    sent = Sent()
    results: list[object] = []
    other = threading.Thread(target=lambda: results.append(sent.future.result()))

    def let_another_wait() -> None:
        other.start()
        while len(sent.future._bells or ()) < 2:
            threading.Event().wait(0.001)

    sent.hatch.steps += [let_another_wait, answer_of(1)]
    results.append(sent.future.result())
    other.join(10)

    assert results == ["answered"] * 2


@pytest.mark.parametrize("moment", range(120))
def test_wherever_who_waits_is_interrupted_nothing_is_lost(moment: int) -> None:
    sent = Sent(answer_of(1))
    interrupt_at(moment, sent.future.result)
    is_early = sent.future.done()
    sent.future._sent()
    sent.future._finish(report_of(1, "reported"), FACTS)

    assert sent.future.result(0) == ("answered" if is_early else "reported")
    assert sent.future._ticket is None
    assert not is_early or sent.known == [True], "or its worker would seem busy, and be idle"
    assert not sent.hatch.waiters, "or nobody could wait there any more"


def test_a_wait_goes_on_after_a_handler_that_has_waited_itself() -> None:
    sent, other = Sent(), Sent()
    other.ticket.hatch = cast(Hatch, sent.hatch)  # the same worker's
    results: list[object] = []

    def handle() -> None:
        other.future._finish(report_of(1, "other"), FACTS)
        results.append(other.future.result())

    sent.hatch.steps += [handle, answer_of(1)]
    results.append(sent.future.result())

    assert results == ["other", "answered"]
