"""Events for one thread: none is lost, and no wait outlives its time."""

from __future__ import annotations

from crew_executor.mailbox import Mailbox


def test_events_come_in_the_order_they_were_put() -> None:
    mailbox, seen = Mailbox(), []
    mailbox.put(seen.append, 1)
    mailbox.put(seen.append, 2)
    for function, arguments in mailbox.take(None):
        function(*arguments)

    assert [1, 2] == seen


def test_an_empty_mailbox_does_not_wait_when_the_time_is_over() -> None:
    mailbox = Mailbox()

    assert [] == mailbox.take(0)
    assert [] == mailbox.take(-1.0)
    assert [] == mailbox.take(1e-9)


def test_a_bell_that_was_rung_twice_is_heard_once() -> None:
    mailbox = Mailbox()
    mailbox.put(print)
    mailbox.put(print)

    assert 2 == len(mailbox.take(0))
    assert [] == mailbox.take(0)


def test_an_event_put_after_a_take_is_found_by_the_next() -> None:
    mailbox = Mailbox()
    mailbox.put(print)
    mailbox.take(None)
    mailbox.put(print)

    assert 1 == len(mailbox.take(None))
