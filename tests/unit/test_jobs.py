"""Checks core/jobs.py: which jobs there are, whom to ask about, whom to give up."""

from __future__ import annotations

import math

import pytest

from crew_executor.core.jobs import (
    EMPTY_SECONDS,
    LOST_POLL_SECONDS,
    POLL_GROWTH,
    RETRY_FIRST,
    RETRY_LONGEST,
    SURPLUS_SECONDS,
    JobEntry,
    Jobs,
    Phase,
    in_batches,
)

NOW = 1000.0
TIMEOUT, POLL_FIRST, POLL_LONGEST = 100.0, 2.0, 60.0
DAYS = 1e6


def make(
    places: int = 2, *, walltime: float | None = None, jobs_max: int | None = None, timeout: float = TIMEOUT
) -> Jobs:
    return Jobs(places, timeout, (POLL_FIRST, POLL_LONGEST), walltime, jobs_max)


def place(jobs: Jobs, now: float = NOW) -> JobEntry:
    entry = jobs.place(now)
    assert entry is not None
    return entry


def submit(jobs: Jobs, *, is_pending: bool | None = None, now: float = NOW) -> JobEntry:
    """Have a new job with one worker submitted; None: its scheduler has not said how it stands."""
    count = jobs.launched
    entry = place(jobs, now)
    assert count + 1 == jobs.launched, "a test's own mistake: there was room"
    jobs.submitted(entry, f"handle {entry.number}", now)
    if is_pending is not None:
        jobs.told(entry, is_pending=is_pending, words="", now=now)
    return entry


def join(jobs: Jobs, *, now: float = NOW) -> JobEntry:
    entry = submit(jobs, now=now)
    jobs.joined(entry, now)
    return entry


def just_before(now: float) -> float:
    return math.nextafter(now, -math.inf)


# ---------------------------------------------------------------------- workers get places


def test_a_worker_gets_a_new_job_when_there_is_none() -> None:
    jobs = make()
    entry = place(jobs)

    assert (1, Phase.ORDERED, 1, 2) == (entry.number, entry.phase, entry.workers, entry.places)
    assert {1: entry} == jobs.entries


def test_a_job_on_its_way_is_filled_before_another_is_ordered() -> None:
    jobs = make(places=3)

    assert [1, 1, 1, 2, 2] == [place(jobs).number for _ in range(5)]


def test_the_oldest_of_those_on_their_way_is_filled_first() -> None:
    jobs = make()
    first, _, second = place(jobs), place(jobs), place(jobs)
    jobs.leave(first, NOW)

    assert [first, second] == [place(jobs), place(jobs)]


def test_a_job_that_has_joined_comes_before_those_on_their_way() -> None:
    jobs = make(places=1)
    waiting, there = submit(jobs), join(jobs)
    jobs.leave(waiting, NOW)
    jobs.leave(there, NOW)

    assert [there, waiting] == [place(jobs), place(jobs)]


def test_a_job_whose_time_is_over_gets_no_worker() -> None:
    jobs = make(walltime=50.0)
    entry = join(jobs)

    assert 2 == place(jobs, NOW + 50.0).number
    assert entry is place(jobs, just_before(NOW + 50.0))


@pytest.mark.parametrize("phase", [Phase.ENDING, Phase.OVER])
def test_a_job_that_ends_gets_no_worker(phase: Phase) -> None:
    jobs = make()
    entry = join(jobs)
    jobs.ending(entry) if phase is Phase.ENDING else jobs.over(entry)

    assert 2 == place(jobs).number


def test_no_more_jobs_than_jobs_max_are_there_at_a_time() -> None:
    jobs = make(places=1, jobs_max=2)
    first, _ = join(jobs), place(jobs)
    refused = [jobs.place(NOW)]
    jobs.ending(first)
    refused.append(jobs.place(NOW))
    jobs.over(first)

    assert [None, None] == refused, "one that ends may still have its node"
    assert 3 == place(jobs).number


# ---------------------------------------------------------------------- jobs that do not come


def test_a_job_is_overdue_when_it_did_not_come_within_the_startup_timeout() -> None:
    jobs = make()
    entry = submit(jobs)

    assert [] == jobs.overdue(just_before(NOW + TIMEOUT))
    assert [entry] == jobs.overdue(NOW + TIMEOUT)


def test_a_pending_job_never_becomes_overdue() -> None:
    jobs = make()
    submit(jobs, is_pending=True)

    assert [] == jobs.overdue(NOW + DAYS)


def test_the_clock_of_a_pending_job_starts_when_the_scheduler_says_that_it_runs() -> None:
    jobs = make()
    entry = submit(jobs, is_pending=True)
    jobs.told(entry, is_pending=False, words="", now=NOW + DAYS)
    jobs.told(entry, is_pending=False, words="RUNNING", now=NOW + DAYS + 99.0)  # once

    assert [] == jobs.overdue(just_before(NOW + DAYS + TIMEOUT))
    assert [entry] == jobs.overdue(NOW + DAYS + TIMEOUT)
    assert "RUNNING" == entry.words


def test_a_job_that_was_put_back_into_the_queue_has_all_its_time_again() -> None:
    jobs = make()
    entry = submit(jobs, is_pending=False)
    jobs.told(entry, is_pending=True, words="requeued", now=NOW + 50.0)
    while_it_waits = jobs.overdue(NOW + DAYS)
    jobs.told(entry, is_pending=False, words="", now=NOW + DAYS)

    assert [] == while_it_waits == jobs.overdue(just_before(NOW + DAYS + TIMEOUT))
    assert [entry] == jobs.overdue(NOW + DAYS + TIMEOUT)


def test_a_job_whose_submission_takes_long_is_not_overdue() -> None:
    jobs = make()
    place(jobs)

    assert [] == jobs.overdue(NOW + DAYS)


@pytest.mark.parametrize("phase", [Phase.JOINED, Phase.ENDING, Phase.OVER])
def test_who_has_come_or_is_to_end_is_not_overdue_whatever_a_late_status_says(phase: Phase) -> None:
    jobs = make()
    entry = submit(jobs, is_pending=True)
    if phase is Phase.JOINED:
        jobs.joined(entry, NOW)
    else:
        jobs.ending(entry) if phase is Phase.ENDING else jobs.over(entry)
    for is_pending in (True, False):
        jobs.told(entry, is_pending=is_pending, words="late", now=NOW)

    assert [] == jobs.overdue(NOW + DAYS) == jobs.due_polls(NOW + DAYS)
    assert phase is entry.phase


# ---------------------------------------------------------------------- whom the scheduler is asked about


def test_polls_back_off_up_to_the_longest_pause() -> None:
    jobs = make()
    entry = submit(jobs)
    pauses, before = [], NOW
    for _ in range(12):
        now = jobs.next_due() if jobs.next_due() < NOW + TIMEOUT else entry.poll_at
        assert [] == jobs.due_polls(just_before(now))
        assert [entry] == jobs.due_polls(now)
        pauses.append(now - before)
        before = now

    assert pytest.approx([min(POLL_FIRST * POLL_GROWTH**n, POLL_LONGEST) for n in range(12)]) == pauses


def test_one_poll_asks_for_all_that_are_asked_about() -> None:
    jobs = make(places=1)
    first, second, there, unsubmitted = submit(jobs), submit(jobs, now=NOW + 1.5), join(jobs), place(jobs)
    due = NOW + POLL_FIRST

    assert [first, second] == jobs.due_polls(due)
    assert [] == jobs.due_polls(just_before(due + POLL_FIRST * POLL_GROWTH)), "the second was asked about with it"
    assert [first, second] == jobs.due_polls(due + POLL_FIRST * POLL_GROWTH)
    assert {there, unsubmitted} == set(jobs.entries.values()) - {first, second}


def test_a_job_that_has_joined_is_not_asked_about() -> None:
    jobs = make()
    join(jobs)

    assert [] == jobs.due_polls(NOW + DAYS)
    assert math.inf == jobs.next_due()


def test_a_job_whose_agent_came_before_the_answer_to_its_submission_is_not_asked_about() -> None:
    jobs = make()
    entry = place(jobs)
    jobs.joined(entry, NOW)
    jobs.submitted(entry, "handle", NOW + 1.0)

    assert (Phase.JOINED, "handle") == (entry.phase, entry.handle)
    assert [] == jobs.due_polls(NOW + DAYS) == jobs.overdue(NOW + DAYS)
    assert math.inf == jobs.next_due()


def test_a_job_that_is_to_end_before_it_was_submitted_is_not_asked_about() -> None:
    jobs = make()
    entry = place(jobs)
    jobs.ending(entry)
    jobs.submitted(entry, "handle", NOW)

    assert (Phase.ENDING, "handle") == (entry.phase, entry.handle)
    assert [] == jobs.due_polls(NOW + DAYS) == jobs.overdue(NOW + DAYS)


def test_a_job_whose_link_is_lost_is_asked_about_until_the_link_is_back() -> None:
    jobs = make()
    entry = join(jobs)
    jobs.link_lost(entry, NOW)
    due = NOW + LOST_POLL_SECONDS

    assert due == jobs.next_due()
    assert [] == jobs.due_polls(just_before(due))
    assert [entry] == jobs.due_polls(due)
    assert pytest.approx(due + LOST_POLL_SECONDS * POLL_GROWTH) == jobs.next_due()
    jobs.link_back(entry)
    assert math.inf == jobs.next_due()
    assert [] == jobs.due_polls(NOW + DAYS)


def test_who_has_no_handle_yet_is_asked_about_as_soon_as_it_has_one() -> None:
    jobs = make()
    entry = place(jobs)
    jobs.joined(entry, NOW)
    jobs.link_lost(entry, NOW)

    assert math.inf == jobs.next_due(), "a time at which nothing can be done would keep the client's thread turning"
    assert [] == jobs.due_polls(NOW + DAYS)
    jobs.submitted(entry, "handle", NOW + 50.0)
    assert NOW + 50.0 >= jobs.next_due()
    assert [entry] == jobs.due_polls(NOW + 50.0)


def test_who_has_no_handle_yet_is_no_reason_to_ask_about_the_others_early() -> None:
    jobs = make(places=1)
    entry = place(jobs)
    jobs.joined(entry, NOW)
    jobs.link_lost(entry, NOW)
    other = submit(jobs, now=NOW + 50.0)

    assert [] == jobs.due_polls(just_before(NOW + 50.0 + POLL_FIRST))
    assert [other] == jobs.due_polls(NOW + 50.0 + POLL_FIRST)


# ---------------------------------------------------------------------- jobs without workers


def test_a_job_without_workers_ends_after_a_while() -> None:
    jobs = make()
    entry = join(jobs)
    jobs.leave(entry, NOW + 10.0)

    assert NOW + 10.0 + EMPTY_SECONDS == jobs.next_due()
    assert [] == jobs.empty(just_before(NOW + 10.0 + EMPTY_SECONDS))
    assert [entry] == jobs.empty(NOW + 10.0 + EMPTY_SECONDS)


def test_a_successor_keeps_the_job() -> None:
    jobs = make()
    entry = join(jobs)
    jobs.leave(entry, NOW)

    assert entry is place(jobs, NOW + 1.0)
    assert [] == jobs.empty(NOW + DAYS)
    jobs.leave(entry, NOW + 2.0)
    assert NOW + 2.0 + EMPTY_SECONDS == jobs.next_due()


def test_a_job_with_a_worker_left_stays() -> None:
    jobs = make(walltime=50.0)
    entry = join(jobs)
    assert entry is place(jobs)
    jobs.leave(entry, NOW)

    assert [] == jobs.empty(NOW + DAYS)
    assert math.inf == jobs.next_due()


def test_an_agent_that_comes_when_its_workers_are_gone_has_a_while() -> None:
    jobs = make()
    entry = submit(jobs)
    jobs.leave(entry, NOW)
    on_its_way = jobs.empty(NOW + DAYS)
    jobs.joined(entry, NOW + 50.0)

    assert [] == on_its_way == jobs.empty(just_before(NOW + 50.0 + EMPTY_SECONDS))
    assert [entry] == jobs.empty(NOW + 50.0 + EMPTY_SECONDS)


@pytest.mark.parametrize(("left_at", "due"), [(40.0, 45.0), (48.0, 50.0), (70.0, 70.0)])
def test_a_job_whose_time_is_over_ends_with_its_last_worker(left_at: float, due: float) -> None:
    jobs = make(walltime=50.0)
    entry = join(jobs)
    jobs.leave(entry, NOW + left_at)

    assert NOW + due == jobs.next_due()
    assert [entry] == jobs.empty(NOW + due)
    assert [] == jobs.empty(just_before(NOW + due)) or left_at == due


# ---------------------------------------------------------------------- jobs that nobody needs


def surplus(jobs: Jobs, now: float, *, queued: int = 0, kept: int = 0) -> list[int]:
    return [entry.number for entry in jobs.surplus(queued, kept, now)]


def test_pending_jobs_are_surplus_when_nothing_has_waited_for_a_while_the_youngest_first() -> None:
    jobs = make(places=1)
    for _ in range(3):
        submit(jobs, is_pending=True)

    assert [] == surplus(jobs, NOW)
    assert [] == surplus(jobs, just_before(NOW + SURPLUS_SECONDS))
    assert [3, 2, 1] == surplus(jobs, NOW + SURPLUS_SECONDS)


def test_a_task_that_waits_starts_the_time_anew() -> None:
    jobs = make()
    submit(jobs, is_pending=True)
    surplus(jobs, NOW)

    assert [] == surplus(jobs, NOW + SURPLUS_SECONDS, queued=1)
    assert [] == surplus(jobs, NOW + SURPLUS_SECONDS + 1.0)
    assert [] == surplus(jobs, just_before(NOW + 2 * SURPLUS_SECONDS + 1.0))
    assert [1] == surplus(jobs, NOW + 2 * SURPLUS_SECONDS + 1.0)


def test_only_those_that_have_not_begun_are_surplus() -> None:
    jobs = make(places=1)
    join(jobs)
    submit(jobs, is_pending=False)
    submit(jobs)  # nobody knows: it may run
    jobs.ending(submit(jobs, is_pending=True))
    assert 5 == submit(jobs, is_pending=True).number
    assert 6 == place(jobs).number
    surplus(jobs, NOW)

    assert [6, 5] == surplus(jobs, NOW + SURPLUS_SECONDS)


@pytest.mark.parametrize(
    ("kept", "expected"), [(0, [4, 3, 2]), (2, [4, 3, 2]), (3, [4, 3]), (6, [4]), (7, []), (9, [])]
)
def test_so_many_workers_are_kept(kept: int, expected: list[int]) -> None:
    jobs = make(places=2)
    entries = [join(jobs)]
    for _ in range(3):
        place(jobs)
        entries.append(submit(jobs, is_pending=True))  # the last one has one worker, the others two
    surplus(jobs, NOW, kept=kept)

    assert [2, 2, 2, 1] == [entry.workers for entry in entries]
    assert expected == surplus(jobs, NOW + SURPLUS_SECONDS, kept=kept)


def test_the_workers_of_a_job_that_ends_are_none_of_those_that_are_kept() -> None:
    jobs = make(places=1)
    jobs.ending(submit(jobs))
    submit(jobs, is_pending=True)
    surplus(jobs, NOW, kept=1)

    assert [] == surplus(jobs, NOW + SURPLUS_SECONDS, kept=1)


def test_a_job_that_is_ordered_while_nothing_waits_has_its_time() -> None:
    """As one of those that are kept, or because the user asked for it. Else it is cancelled at once, and so is the
    next.
    """
    jobs = make(places=2)
    surplus(jobs, NOW)
    jobs.told(submit(jobs, now=NOW + DAYS), is_pending=True, words="", now=NOW + DAYS)

    assert [] == surplus(jobs, just_before(NOW + DAYS + SURPLUS_SECONDS))
    place(jobs, NOW + DAYS + 5.0)
    assert [] == surplus(jobs, just_before(NOW + DAYS + 5.0 + SURPLUS_SECONDS))
    assert [1] == surplus(jobs, NOW + DAYS + 5.0 + SURPLUS_SECONDS)


def test_the_successor_of_a_worker_in_a_job_that_is_there_does_not_keep_those_that_wait() -> None:
    jobs = make(places=1)
    there = join(jobs)
    submit(jobs, is_pending=True)
    surplus(jobs, NOW)
    jobs.leave(there, NOW + 50.0)

    assert there is place(jobs, NOW + 50.0)
    assert [2] == surplus(jobs, NOW + SURPLUS_SECONDS)


# ---------------------------------------------------------------------- submissions


def test_the_pause_before_another_try_doubles_up_to_the_longest() -> None:
    jobs = make()
    entry, other = place(jobs), JobEntry(2, 1)
    pauses = [jobs.retry_pause(entry) for _ in range(2000)]

    assert [RETRY_FIRST * 2**n for n in range(6)] == pauses[:6]
    assert {RETRY_LONGEST} == set(pauses[6:])
    assert RETRY_FIRST == jobs.retry_pause(other)


@pytest.mark.parametrize(
    ("size", "expected"), [(1, [[1], [2], [3], [4], [5]]), (2, [[1, 2], [3, 4], [5]]), (9, [[1, 2, 3, 4, 5]])]
)
def test_jobs_are_submitted_in_batches(size: int, expected: list[list[int]]) -> None:
    batches = in_batches((JobEntry(number, 1) for number in range(1, 6)), size)

    assert expected == [[entry.number for entry in batch] for batch in batches]
    assert [] == in_batches([], size)


def test_a_job_tells_its_state_in_a_word() -> None:
    jobs = make()
    entry = place(jobs)

    assert "<JobEntry 1 ordered 1/2>" == repr(entry)
    assert entry.is_on_its_way
    jobs.joined(entry, NOW)
    assert "<JobEntry 1 joined 1/2>" == repr(entry)
    assert not entry.is_on_its_way


# ---------------------------------------------------------------------- when to look again


def test_nothing_is_due_without_jobs() -> None:
    jobs = make()
    surplus(jobs, NOW)

    assert math.inf == jobs.next_due()


def test_the_next_due_is_the_earliest() -> None:
    jobs = make(places=1, timeout=1.5)
    entry = submit(jobs)
    times = [jobs.next_due()]
    jobs.told(entry, is_pending=True, words="", now=NOW)
    times.append(jobs.next_due())
    jobs.due_polls(NOW + POLL_FIRST)
    times.append(jobs.next_due())
    surplus(jobs, NOW - SURPLUS_SECONDS + 3.0)
    times.append(jobs.next_due())
    jobs.leave(entry, NOW)
    jobs.joined(entry, NOW)
    times.append(jobs.next_due())

    poll_pause = POLL_FIRST * POLL_GROWTH
    assert pytest.approx([1.5, POLL_FIRST, POLL_FIRST + poll_pause, 3.0, EMPTY_SECONDS]) == [t - NOW for t in times]


@pytest.mark.parametrize(("is_pending", "kept"), [(False, 0), (None, 0), (True, 1)])
def test_a_job_that_is_not_surplus_is_no_reason_to_look_for_some(is_pending: bool | None, kept: int) -> None:
    """Else the client's thread turns from then on until the job has come."""
    jobs = make(timeout=DAYS)
    entry = submit(jobs, is_pending=is_pending)
    surplus(jobs, NOW, kept=kept)

    assert [] == surplus(jobs, NOW + SURPLUS_SECONDS, kept=kept)
    assert entry.poll_at == jobs.next_due()
    jobs.due_polls(NOW + SURPLUS_SECONDS)
    assert NOW + SURPLUS_SECONDS < jobs.next_due()


# ---------------------------------------------------------------------- what does not fit any more


def test_workers_leave_a_job_in_which_the_next_task_would_not_end_in_time() -> None:
    jobs = make(walltime=100.0)
    entry = join(jobs)

    assert jobs.short_of_time(NOW + 60, 39.0) == []
    assert jobs.short_of_time(NOW + 60, 41.0) == [entry]
    assert entry.leaves_at == NOW + 60
    assert jobs.short_of_time(NOW + 60, 41.0) == []  # once
    assert place(jobs, NOW + 60) is not entry  # nobody is put there any more


def test_in_its_first_half_a_job_takes_whatever_there_is() -> None:
    jobs = make(walltime=100.0)
    entry = join(jobs)

    assert jobs.short_of_time(NOW + 50, 1000.0) == []
    assert jobs.short_of_time(NOW + 51, 1000.0) == [entry]


@pytest.mark.parametrize("walltime", [None, 100.0])
def test_nobody_leaves_for_a_task_of_which_nothing_is_known(walltime: float | None) -> None:
    jobs = make(walltime=walltime)
    join(jobs)

    assert jobs.short_of_time(NOW + 99, 0.0) == []
    assert (walltime is None) == (jobs.short_of_time(NOW + 99, 50.0) == [])
