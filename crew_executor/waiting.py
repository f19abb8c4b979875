"""How a thread waits for a future in result() and exception(): behind a bell, or at the hatch of the task's worker.

Behind a bell: whoever finishes the future rings. That is a thread which has read the worker's report, and is one change
of threads more than need be for who sends one task after the other and waits for each. So he waits at the hatch
(hatch.py) for what the worker says there of a task that was sent with a ticket (ticket.py):

1. worker: answers through the hatch, and reports over its link as well, a little later or with the next ones
2. waiter: notes the outcome in the ticket; so the next place is open    3. waiter: finishes the future
4. dispatcher: finds the task in the inbox and its outcome in the ticket, or hears of it by the report

The waiter may be interrupted anywhere, for good or by a handler that waits for something else: all that is missing then
comes with 4, and finishing a future twice is once. Must hold nothing that somebody else waits for.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from .condition import waits_with_none
from .core.messages import Outcome, decode_outcome_items
from .errors import ProtocolError
from .hatch import Hatch

if TYPE_CHECKING:
    from .core.task import Task
    from .futures import CrewFuture
    from .ticket import Ticket


def wait_for_bell(future: CrewFuture[Any], bells: dict[Any, None], until: float | None) -> None:
    """Wait for the last state behind a lock of this wait alone: the condition takes a dozen Python calls.

    Args:
        future: whose last state it is.
        bells: of those who wait for it.
        until: monotonic seconds; None: for ever.
    """
    bell = threading.Lock()
    bell.acquire()
    try:
        bells[bell] = None
        while not future.done():  # the bell is there: whoever finishes sets the state first, then rings
            left = -1.0 if until is None else min(max(until - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
            if not bell.acquire(timeout=left):
                break
    finally:
        bells.pop(bell, None)


def wait_at_hatch(future: CrewFuture[Any], ticket: Ticket, bells: dict[Any, None], until: float | None) -> None:
    """Wait where the answer comes, if one will come and nobody else is there; may return without anything.

    Args:
        future: that of a task which was sent with a ticket.
        ticket: that ticket.
        bells, until: see wait_for_bell().
    """
    hatch, task, me = ticket.hatch, future._task, object()
    if task is None or future._has_callbacks or future._made_condition is not None:
        return
    try:
        hatch.waiters.append(me)  # no lock, which might be lost between its taking and the next step
        if hatch.waiters[0] is not me:
            return
        hatch.is_watched = True  # the last task was waited for
        if not ticket.will_answer(task):
            return
        try:
            bells[hatch] = None
            _listen(future, task, ticket, until)
        finally:
            bells.pop(hatch, None)
    finally:
        try:  # noqa: SIM105  contextlib.suppress() has calls within
            hatch.waiters.remove(me)
        except ValueError:  # he was interrupted before he came in
            pass
    future._ring()


def _listen(future: CrewFuture[Any], task: Task, ticket: Ticket, until: float | None) -> None:
    """Wait for the answer or a ring; finish the future with the answer."""
    while not future.done():
        answer = ticket.hatch.recv(None if until is None else max(0.0, until - time.monotonic()))
        if answer is None:
            return
        outcome = _outcome_in(answer)
        if outcome is not None and outcome.task_id == task.task_id and outcome.attempt == 1:
            ticket.note(outcome)
            if not future._finish_early(outcome, ticket.facts):
                return


def _outcome_in(answer: bytes) -> Outcome | None:
    if not answer:
        return None
    try:
        (outcome,) = decode_outcome_items(answer)
    except (ProtocolError, ValueError):  # a task has found the socket, and written to it
        return None
    return outcome


waits_with_none(wait_for_bell)
waits_with_none(Hatch.recv)
