"""Checks core/jobs.py in a nasty world: its books are right, and what it says is due is due, then and not before."""

from __future__ import annotations

import math
from copy import deepcopy

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crew_executor.core.jobs import RETRY_FIRST, RETRY_LONGEST, JobEntry, Jobs, Phase

from .fakes import hypothesis_settings

NOW = 1000.0
POLL_LONGEST = 60.0
DAYS = 1e6


class JobsWorld(RuleBasedStateMachine):
    """Jobs whose submissions come back late or fail, whose scheduler says odd things, whose links break."""

    @initialize(
        places=st.integers(1, 3), timeout=st.sampled_from([1.0, 30.0, 300.0]), jobs_max=st.sampled_from([None, 1, 3]),
        walltime=st.sampled_from([None, 0.5, 100.0]), poll_first=st.sampled_from([0.1, 2.0, 70.0]),
        workers=st.integers(1, 6), submitted=st.integers(0, 6), joined=st.integers(0, 4),
    )  # fmt: skip
    def begin(
        self, places: int, timeout: float, jobs_max: int | None, walltime: float | None, poll_first: float,
        workers: int, submitted: int, joined: int,
    ) -> None:  # fmt: skip
        self.jobs = Jobs(places, timeout, (poll_first, POLL_LONGEST), walltime, jobs_max)
        self.jobs_max = jobs_max
        self.now, self.queued, self.kept = NOW, 0, 0
        self.known: list[JobEntry] = []  # all that there ever were
        self.homes: list[JobEntry] = []  # a job for each worker
        self.asked: list[JobEntry] = []  # whose submission has not come back
        self.watch()
        self.workers_are_wanted(workers)
        for _ in range(submitted):
            self.submission_succeeds(0)
        for number in range(joined):
            self.agent_comes(number)

    def watch(self) -> int:
        """Do what is due, as the fleet does it; return how many things that were."""
        jobs, now = self.jobs, self.now
        polls = jobs.due_polls(now)
        assert all(entry.handle is not None and entry.phase is not Phase.OVER for entry in polls)
        assert not jobs.due_polls(now)
        overdue, empty = jobs.overdue(now), jobs.empty(now)
        for entry in overdue:
            assert not entry.is_pending
            jobs.ending(entry)
        for entry in empty:
            assert not entry.workers
            jobs.ending(entry)
        unneeded = jobs.surplus(self.queued, self.kept, now)
        assert not (unneeded and self.queued)
        assert sorted(unneeded, key=lambda entry: -entry.number) == unneeded
        for entry in unneeded:
            assert entry.is_on_its_way
            assert entry.is_pending or entry.handle is None
            self.give_up(entry)
        if unneeded:
            assert self.kept <= sum(each.workers for each in jobs.entries.values() if each.phase is not Phase.ENDING)
        return len(polls) + len(overdue) + len(empty) + len(unneeded)

    def give_up(self, entry: JobEntry) -> None:
        """Forget a job that has not come, or have it end when its submission is back; its workers go later."""
        if entry.handle is None:
            self.jobs.ending(entry)
        else:
            self.jobs.over(entry)

    def pick(self, number: int, *phases: Phase) -> JobEntry | None:
        found = [entry for entry in self.known if entry.phase in phases]
        return found[number % len(found)] if found else None

    @rule(count=st.integers(1, 4))
    def workers_are_wanted(self, count: int) -> None:
        for _ in range(count):
            there = list(self.jobs.entries.values())
            room = [each for each in there if each.workers < each.places]
            coming = [each for each in room if each.is_on_its_way]
            joined = [each for each in room if each.phase is Phase.JOINED and self.now < each.leaves_at]
            entry = self.jobs.place(self.now)
            if entry is None:
                assert not joined + coming
                assert self.jobs_max == len(there)
                return
            self.homes.append(entry)
            if entry not in there:
                assert not joined + coming
                self.known.append(entry)
                self.asked.append(entry)
            else:
                assert entry is (joined + coming)[0]

    @rule(number=st.integers(0, 99), is_withdrawn=st.booleans())
    def worker_leaves(self, number: int, is_withdrawn: bool) -> None:
        if self.homes:
            entry = self.homes.pop(number % len(self.homes))
            self.jobs.leave(entry, self.now)
            if is_withdrawn and entry.is_on_its_way and not entry.workers:
                self.give_up(entry)

    @rule(number=st.integers(0, 99))
    def submission_succeeds(self, number: int) -> None:
        if self.asked:
            entry = self.asked.pop(number % len(self.asked))
            if entry.phase is not Phase.OVER:
                self.jobs.submitted(entry, entry.number, self.now)
                if entry.phase is Phase.ENDING:
                    self.jobs.over(entry)

    @rule(number=st.integers(0, 99), is_put_off=st.booleans())
    def submission_fails(self, number: int, is_put_off: bool) -> None:
        if self.asked:
            entry = self.asked[number % len(self.asked)]
            if is_put_off:
                assert RETRY_FIRST <= self.jobs.retry_pause(entry) <= RETRY_LONGEST
            else:
                self.asked.remove(entry)
                self.jobs.over(entry)

    @rule(number=st.integers(0, 99))
    def agent_comes(self, number: int) -> None:
        entry = self.pick(number, Phase.ORDERED, Phase.SUBMITTED)
        if entry is not None:
            self.jobs.joined(entry, self.now)

    @rule(number=st.integers(0, 99), is_pending=st.booleans())
    def scheduler_says(self, number: int, is_pending: bool) -> None:
        """Also of jobs that are over, and that one which ran waits."""
        entry = self.pick(number, *Phase)
        if entry is not None and entry.handle is not None:
            phase, expected = entry.phase, is_pending if entry.phase is Phase.SUBMITTED else entry.is_pending
            self.jobs.told(entry, is_pending=is_pending, words="words", now=self.now)
            assert (phase, expected, "words") == (entry.phase, entry.is_pending, entry.words)

    @rule(number=st.integers(0, 99), is_back=st.booleans())
    def link_is_lost_or_back(self, number: int, is_back: bool) -> None:
        entry = self.pick(number, Phase.JOINED)
        if entry is not None:
            self.jobs.link_back(entry) if is_back else self.jobs.link_lost(entry, self.now)

    @rule(number=st.integers(0, 99))
    def host_is_about_to_be_taken_away(self, number: int) -> None:
        entry = self.pick(number, Phase.JOINED)
        if entry is not None:
            entry.leaves_at = 0.0

    @rule(number=st.integers(0, 99))
    def job_is_gone(self, number: int) -> None:
        entry = self.pick(number, Phase.SUBMITTED, Phase.JOINED, Phase.ENDING)
        if entry is not None:
            self.jobs.over(entry)

    @rule(queued=st.integers(0, 2), kept=st.integers(0, 4))
    def demand_changes(self, queued: int, kept: int) -> None:
        self.queued, self.kept = queued, kept
        self.watch()

    @rule(seconds=st.sampled_from([0.0, 0.3, 4.0, 59.0, 301.0, DAYS]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.watch()

    @rule()
    def wake_when_told(self) -> None:
        due = self.jobs.next_due()
        if due < math.inf:
            self.now = max(self.now, due)
            assert self.watch()

    @invariant()
    def the_books_are_right(self) -> None:
        for number, entry in self.jobs.entries.items():
            assert number == entry.number
            assert 0 <= entry.workers <= entry.places
            assert entry.phase is not Phase.OVER
        for entry in self.known:
            assert entry.workers == sum(home is entry for home in self.homes)
            assert (entry.phase is not Phase.OVER) == (self.jobs.entries.get(entry.number) is entry)
        assert self.jobs_max is None or len(self.jobs.entries) <= self.jobs_max
        assert self.jobs.launched == len(self.known)

    @invariant()
    def a_pending_job_is_never_overdue(self) -> None:
        running = [each for each in self.jobs.entries.values() if each.phase is Phase.SUBMITTED and not each.is_pending]
        assert running == self.jobs.overdue(self.now + DAYS)

    @invariant()
    def nothing_is_due_before_it_is_due_and_then_something_is(self) -> None:
        due = self.jobs.next_due()
        if due > self.now:
            before = min(math.nextafter(due, 0.0), self.now + DAYS)
            assert not self.due_at(before)
            assert not self.jobs.due_polls(before)
        if due < math.inf:
            then = max(due, self.now)
            assert self.due_at(then) or deepcopy(self.jobs).due_polls(then)

    def due_at(self, now: float) -> list[JobEntry]:
        """Return what is due beside polls."""
        return self.jobs.overdue(now) + self.jobs.empty(now) + self.jobs.surplus(self.queued, self.kept, now)

    def teardown(self) -> None:
        """When nothing more comes, all that is left in the end is jobs with workers, or that were told to end."""
        if not hasattr(self, "jobs"):
            return
        while self.asked:
            self.submission_succeeds(0)
        for entry in self.jobs.entries.values():
            self.jobs.link_back(entry) if entry.phase is Phase.JOINED else None
            self.jobs.told(entry, is_pending=False, words="", now=self.now)
        for _ in range(1000):
            if self.jobs.next_due() == math.inf:
                break
            self.wake_when_told()

        assert math.inf == self.jobs.next_due()
        for entry in self.jobs.entries.values():
            assert entry.phase is Phase.ENDING or (entry.phase is Phase.JOINED and entry.workers)


JobsWorld.TestCase.settings = hypothesis_settings(examples=30, steps=40)
TestJobsWorld = JobsWorld.TestCase
