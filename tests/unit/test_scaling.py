"""Checks core/scaling.py: how many workers are launched and when to give up; and a pool under a simulated clock."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crew_executor.core.scaling import BACKOFF_FIRST, BACKOFF_LONGEST, LEAVING_SPARE, Scaler, ScalingRules

from .fakes import hypothesis_settings


def make(max_workers: int = 4, **rules: int | str) -> Scaler:
    return Scaler(ScalingRules(max_workers, **rules))  # type: ignore[arg-type]  # the tests' own brevity


def ask(scaler: Scaler, tasks: int, *, starting: int = 0, ready: int = 0, leaving: int = 0, now: float = 0.0) -> int:
    return scaler.launches(tasks_open=tasks, starting=starting, ready=ready, leaving=leaving, now=now)


# ---------------------------------------------------------------------- how many


@pytest.mark.parametrize(
    ("tasks", "starting", "ready", "expected"),
    [
        (0, 0, 0, 0),
        (1, 0, 0, 1),
        (3, 0, 0, 3),
        (9, 0, 0, 4),
        (9, 2, 1, 1),
        (9, 4, 0, 0),
        (2, 1, 1, 0),
        (1, 0, 4, 0),
        (9, 3, 3, 0),
    ],
)
def test_demand_launches_what_is_missing_in_one_decision(tasks: int, starting: int, ready: int, expected: int) -> None:
    assert expected == ask(make(4), tasks, starting=starting, ready=ready)


def test_min_workers_are_kept_without_work() -> None:
    assert 2 == ask(make(4, min_workers=2), 0)
    assert 1 == ask(make(4, min_workers=2), 0, ready=1)
    assert 0 == ask(make(4, min_workers=2), 0, ready=2)


@pytest.mark.parametrize(("tasks", "starting", "expected"), [(9, 0, 1), (9, 1, 0), (0, 0, 0)])
def test_mode_one_launches_one_and_waits_for_it(tasks: int, starting: int, expected: int) -> None:
    assert expected == ask(make(4, mode="one"), tasks, starting=starting)


@pytest.mark.parametrize(("min_workers", "expected"), [(0, 4), (3, 3)])
def test_mode_none_keeps_a_fixed_size_whatever_the_demand(min_workers: int, expected: int) -> None:
    scaler = make(4, min_workers=min_workers, mode="none")

    assert expected == scaler.floor() == scaler.wanted(0) == scaler.wanted(99)
    assert expected == ask(scaler, 0) == ask(scaler, 99)


def test_a_leaving_worker_is_no_supply() -> None:
    assert 1 == ask(make(1), 5, ready=0, leaving=1)


def test_workers_that_take_long_to_leave_do_not_pile_up() -> None:
    scaler = make(2)
    there = 0
    while (launched := ask(scaler, 99, leaving=there)) > 0:
        there += launched
    assert there == 2 * 2 + LEAVING_SPARE

    scaler.request(2)
    assert ask(scaler, 0, leaving=there) == 0
    assert ask(scaler, 0, leaving=there - 1) == 1, "what was asked for is not forgotten meanwhile"
    assert ask(scaler, 0, leaving=there - 1) == 1


@pytest.mark.parametrize(("mode", "ready", "may_leave"), [("demand", 2, False), ("demand", 3, True), ("none", 3, True)])
def test_a_worker_may_leave_when_enough_stay(mode: str, ready: int, may_leave: bool) -> None:
    assert may_leave is make(4, min_workers=2, mode=mode).may_leave(ready=ready, now=0.0)


def test_the_last_idle_worker_may_leave_a_pool_without_floor() -> None:
    assert make(4).may_leave(ready=1, now=0.0)


def test_a_pool_of_fixed_size_lets_nobody_leave() -> None:
    assert not make(4, mode="none").may_leave(ready=4, now=0.0)


# ---------------------------------------------------------------------- failures


def test_the_wait_doubles_after_each_failed_launch() -> None:
    scaler = make(failures_max=99)
    waits = []
    for now in (100.0, 200.0, 300.0, 400.0):
        scaler.launch_failed(launched_at=now, ready=0, now=now)
        waits.append(scaler.retry_at - now)

    assert pytest.approx([BACKOFF_FIRST, 2 * BACKOFF_FIRST, 4 * BACKOFF_FIRST, 8 * BACKOFF_FIRST]) == waits


def test_nothing_is_launched_before_the_wait_is_over() -> None:
    scaler = make()
    scaler.launch_failed(launched_at=100.0, ready=0, now=100.0)

    assert 0 == ask(scaler, 9, now=100.0 + BACKOFF_FIRST * 0.99)
    assert 1 == ask(scaler, 9, now=100.0 + BACKOFF_FIRST)


def test_launches_of_one_volley_that_fail_together_count_once() -> None:
    scaler = make(failures_max=2)
    for now in (100.0, 100.0, 130.0, 160.0):
        scaler.launch_failed(launched_at=99.0, ready=0, now=now)

    assert 1 == scaler.failures
    assert not scaler.is_given_up


def test_after_a_failure_one_is_tried_before_many() -> None:
    scaler = make()
    scaler.launch_failed(launched_at=0.0, ready=0, now=0.0)
    one, none = ask(scaler, 9, now=1.0), ask(scaler, 9, starting=1, now=1.0)
    scaler.launch_succeeded()

    assert (1, 0) == (one, none)
    assert 3 == ask(scaler, 9, ready=1, now=1.0)


def test_a_success_ends_the_row_of_failures() -> None:
    scaler = make(failures_max=2)
    scaler.launch_failed(launched_at=0.0, ready=0, now=0.0)
    scaler.launch_succeeded()
    scaler.launch_failed(launched_at=0.0, ready=0, now=0.0)

    assert 1 == scaler.failures
    assert not scaler.is_given_up


def test_the_pool_is_given_up_after_so_many_failures_in_a_row() -> None:
    scaler = make(failures_max=3)
    given_up = []
    for now in (0.0, 100.0, 200.0):
        scaler.launch_failed(launched_at=now, ready=0, now=now)
        given_up.append(scaler.is_given_up)

    assert [False, False, True] == given_up
    assert 0 == ask(scaler, 9, now=1e9)
    assert "given up after 3 failed launches in a row" == scaler.last_decision


def test_a_pool_with_a_worker_at_work_is_not_given_up() -> None:
    scaler = make(failures_max=3)
    for now in range(0, 1000, 100):
        scaler.launch_failed(launched_at=now, ready=1, now=now)
    while_one_works = scaler.is_given_up
    scaler.launch_failed(launched_at=1000.0, ready=0, now=1000.0)

    assert not while_one_works
    assert scaler.is_given_up


def test_launches_may_fail_for_days() -> None:
    """A wait computed as a power of two leaves the range of a float after 1024 failures: 17 hours of them."""
    scaler = make()
    for now in range(0, 300_000, 100):
        scaler.launch_failed(launched_at=now, ready=1, now=now)

    assert BACKOFF_LONGEST == scaler.retry_at - 299_900


def test_the_last_decision_is_told_in_words() -> None:
    scaler = make(4)
    before = scaler.last_decision
    ask(scaler, 9, starting=1, ready=1, leaving=1)
    launched = scaler.last_decision
    ask(scaler, 0, ready=4)

    assert "nothing launched yet" == before
    assert (
        "launch 2: 9 open tasks, 1 workers ready, 1 starting, 1 leaving, at most 4" == launched == scaler.last_decision
    )
    scaler.launch_failed(launched_at=0.0, ready=1, now=0.0)
    assert "1 launches in a row failed; next try in 0.1 s" == scaler.last_decision


# ---------------------------------------------------------------------- a pool under a simulated clock


class PoolWorld(RuleBasedStateMachine):
    """A pool whose workers start late, fail, arrive, die and leave, while tasks come and go and time passes."""

    @initialize(
        max_workers=st.integers(1, 6), min_workers=st.integers(0, 6), mode=st.sampled_from(["demand", "one", "none"]),
        failures_max=st.integers(1, 4),
    )  # fmt: skip
    def begin(self, max_workers: int, min_workers: int, mode: str, failures_max: int) -> None:
        rules = ScalingRules(max_workers, min(min_workers, max_workers), mode, failures_max)
        self.bounds, self.scaler = rules, Scaler(rules)
        self.now, self.tasks, self.starting, self.ready, self.leaving = 50.0, 0, 0, 0, 0
        self.row, self.last_failure = 0, 0.0  # failures since the last success, and when the latest was

    def decide(self) -> int:
        """Ask the scaler and launch what it says."""
        missing = ask(
            self.scaler, self.tasks, starting=self.starting, ready=self.ready, leaving=self.leaving, now=self.now
        )
        demand = min(self.tasks, self.bounds.max_workers) if self.bounds.mode != "none" else 0
        assert 0 <= missing <= max(0, max(demand, self.scaler.floor()) - self.starting - self.ready)
        if missing:
            assert not self.scaler.is_given_up
            assert not self.row or (missing == 1 and self.starting == 0)
            assert not self.row or self.now >= self.last_failure + BACKOFF_FIRST
            assert self.bounds.mode != "one" or (missing == 1 and self.starting == 0)
        self.starting += missing
        return missing

    @rule(tasks=st.integers(0, 12))
    def demand_changes(self, tasks: int) -> None:
        self.tasks = tasks
        self.decide()

    @rule(seconds=st.sampled_from([0.0, 0.01, BACKOFF_FIRST, 1.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.decide()

    @rule()
    def worker_joins(self) -> None:
        if self.starting:
            self.starting -= 1
            self.ready += 1
            self.row = 0
            self.scaler.launch_succeeded()

    @rule()
    def launch_fails(self) -> None:
        if self.starting:
            self.starting -= 1
            self.row, self.last_failure = self.row + 1, self.now
            was_given_up = self.scaler.is_given_up
            self.scaler.launch_failed(launched_at=self.now, ready=self.ready, now=self.now)
            assert self.scaler.is_given_up == (
                was_given_up or (not self.ready and self.row >= self.bounds.failures_max)
            )

    @rule()
    def worker_dies(self) -> None:
        if self.ready:
            self.ready -= 1

    @rule()
    def idle_worker_asks_to_leave(self) -> None:
        if self.ready and self.scaler.may_leave(ready=self.ready, now=self.now):
            self.ready -= 1
            self.leaving += 1

    @rule()
    def leaving_worker_is_gone(self) -> None:
        self.leaving = max(0, self.leaving - 1)

    @invariant()
    def the_pool_stays_within_its_bounds(self) -> None:
        assert self.starting + self.ready <= self.bounds.max_workers
        assert self.row == self.scaler.failures

    def teardown(self) -> None:
        """With launches that succeed the pool reaches what is wanted, unless it was given up."""
        if not hasattr(self, "scaler") or self.scaler.is_given_up:
            return
        for _ in range(2 * self.bounds.max_workers + 2):
            self.now += BACKOFF_LONGEST
            self.decide()
            while self.starting:
                self.worker_joins()
        wanted = self.scaler.wanted(self.tasks)

        assert self.scaler.floor() <= wanted <= self.bounds.max_workers
        assert wanted <= self.ready
        assert 0 == self.decide()


PoolWorld.TestCase.settings = hypothesis_settings(examples=25, steps=30)
TestPoolWorld = PoolWorld.TestCase


# ---------------------------------------------------------------------- launched by hand


def test_manual_launches_what_was_asked_for_whatever_the_demand() -> None:
    scaler = make(4, mode="manual")
    assert not scaler.is_short(tasks_open=99, workers=0)
    assert ask(scaler, 99) == 0

    scaler.request(2)
    assert scaler.is_short(tasks_open=0, workers=0)
    assert ask(scaler, 0) == 2
    assert ask(scaler, 0) == 0, "once"


@pytest.mark.parametrize("mode", ["manual", "demand", "one", "none"])
def test_no_request_exceeds_max_workers_and_what_exceeds_it_is_forgotten(mode: str) -> None:
    scaler = make(4, mode=mode)
    scaler.request(9)
    assert ask(scaler, 0, starting=1, ready=2) == 1
    assert ask(scaler, 0, starting=2, ready=2) == 0


def test_a_request_and_the_demand_are_not_added() -> None:
    scaler = make(4)
    scaler.request(2)
    assert ask(scaler, 1) == 2


def test_a_manual_launch_that_failed_is_repeated_until_the_pool_is_given_up() -> None:
    scaler, now = make(4, mode="manual", failures_max=3), 0.0
    scaler.request(1)
    for _ in range(3):
        assert ask(scaler, 0, now=now) == 1
        now += 1.0
        scaler.launch_failed(launched_at=now - 0.5, ready=0, now=now)
        now += BACKOFF_LONGEST
    assert scaler.is_given_up
