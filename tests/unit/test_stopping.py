"""Checks core/stopping.py: what is done to a worker, when, and that its next task is never hit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_executor.core.stopping import FREEZE_SECONDS, GRACE_SECONDS, Action, Stop

from .fakes import hypothesis_settings

TASK = 7
RUNNING = {"started": TASK, "ended": TASK - 1}
OVER = [
    pytest.param({"started": TASK, "ended": TASK}, id="finished"),
    pytest.param({"started": TASK + 1, "ended": TASK}, id="the next one runs"),
    pytest.param({"started": TASK + 1, "ended": TASK + 1}, id="the next one is finished"),
]
NOT_BEGUN = {"started": TASK - 1, "ended": TASK - 1}
START = 100.0
GRACE_OVER = START + GRACE_SECONDS
FREEZE_OVER = GRACE_OVER + FREEZE_SECONDS
ENDS = (Action.KILL, Action.THAW, Action.FORGET)


def step(stop: Stop, now: float, cell: dict[str, int] = RUNNING, *, is_frozen: bool = False) -> Action:
    return stop.step(now, **cell, is_frozen=is_frozen)


def interrupted() -> Stop:
    stop = Stop(TASK)
    assert Action.INTERRUPT is step(stop, START)
    return stop


def freezing() -> Stop:
    stop = interrupted()
    assert Action.FREEZE is step(stop, GRACE_OVER)
    return stop


# ---------------------------------------------------------------------- a task that runs on


def test_a_stop_is_due_at_once_and_begins_with_an_interrupt() -> None:
    stop = Stop(TASK)

    assert stop.due <= 0.0
    assert Action.INTERRUPT is step(stop, START)
    assert GRACE_OVER == stop.due


def test_an_interrupted_task_is_given_its_grace() -> None:
    stop = interrupted()

    assert [Action.WAIT] * 3 == [step(stop, now) for now in (START, START + 0.1, GRACE_OVER - 1e-6)]
    assert GRACE_OVER == stop.due


def test_after_the_grace_the_worker_is_frozen_not_killed() -> None:
    stop = interrupted()

    assert Action.FREEZE is step(stop, GRACE_OVER)
    assert FREEZE_OVER == stop.due


def test_a_worker_that_stood_still_before_it_was_frozen_is_frozen_first_all_the_same() -> None:
    """Somebody else stopped it, and may let it go on between the look and the kill."""
    stop = interrupted()

    assert Action.WAIT is step(stop, START, is_frozen=True)
    assert Action.FREEZE is step(stop, GRACE_OVER, is_frozen=True)


def test_a_worker_is_killed_as_soon_as_it_stands_still() -> None:
    stop = freezing()

    assert Action.WAIT is step(stop, GRACE_OVER)
    assert Action.KILL is step(stop, GRACE_OVER, is_frozen=True)


def test_a_worker_that_cannot_freeze_is_killed_when_its_time_is_over() -> None:
    stop = freezing()

    assert Action.WAIT is step(stop, FREEZE_OVER - 1e-6)
    assert Action.KILL is step(stop, FREEZE_OVER)


def test_late_looks_move_the_times_and_skip_no_step() -> None:
    """The supervisor, too, may stand still: its grace begins with the interrupt, not with the order."""
    stop = Stop(TASK)
    late = [step(stop, 1000.0), step(stop, 2000.0), step(stop, 2000.0), step(stop, 3000.0)]

    assert [Action.INTERRUPT, Action.FREEZE, Action.WAIT, Action.KILL] == late


# ---------------------------------------------------------------------- a task that ends


@pytest.mark.parametrize("cell", OVER)
def test_a_task_that_is_over_is_not_interrupted(cell: dict[str, int]) -> None:
    assert Action.FORGET is step(Stop(TASK), START, cell)


@pytest.mark.parametrize("cell", OVER)
@pytest.mark.parametrize("now", [START, GRACE_OVER, GRACE_OVER + 1000])
def test_a_task_that_ends_after_its_interrupt_is_forgotten_at_the_next_look(cell: dict[str, int], now: float) -> None:
    assert Action.FORGET is step(interrupted(), now, cell)


@pytest.mark.parametrize("cell", OVER)
@pytest.mark.parametrize(("now", "is_frozen"), [(GRACE_OVER, True), (FREEZE_OVER, False), (FREEZE_OVER, True)])
def test_a_worker_that_ended_the_task_before_it_stood_still_goes_on(
    cell: dict[str, int], now: float, is_frozen: bool
) -> None:
    assert Action.THAW is step(freezing(), now, cell, is_frozen=is_frozen)


@pytest.mark.parametrize("cell", OVER)
def test_one_look_at_the_standing_worker_decides(cell: dict[str, int]) -> None:
    stop = freezing()

    assert Action.WAIT is step(stop, GRACE_OVER, cell)
    assert FREEZE_OVER == stop.due
    assert Action.THAW is step(stop, GRACE_OVER, cell, is_frozen=True)


def test_a_task_that_has_not_begun_is_left_alone() -> None:
    assert Action.FORGET is step(Stop(TASK), START, NOT_BEGUN)


# ---------------------------------------------------------------------- whatever happens

LOOKS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.001, FREEZE_SECONDS, GRACE_SECONDS, 10.0]), st.integers(0, 3), st.booleans()),
    max_size=12,
)


@given(looks=LOOKS)
@hypothesis_settings(examples=60)
def test_who_has_ended_the_task_is_never_killed_and_every_freeze_is_ended(
    looks: list[tuple[float, int, bool]],
) -> None:
    """The worker goes on between the looks, by 0 to 3 halves of a task: started, finished, started, ..."""
    stop, now, halves, is_freeze_open = Stop(TASK), START, 0, False
    for seconds, progress, is_frozen in looks:
        now += seconds
        halves += progress
        started, finished = TASK + halves // 2, TASK - 1 + (halves + 1) // 2
        was_due = stop.due
        action = stop.step(now, started=started, ended=finished, is_frozen=is_frozen)
        is_running = started == TASK > finished
        assert is_running or action not in (Action.KILL, Action.INTERRUPT, Action.FREEZE)
        assert not is_running or action not in (Action.THAW, Action.FORGET)
        assert action is not Action.WAIT or now < was_due, "what is due is done"
        assert not (is_freeze_open and action is Action.FORGET), "whom we froze is killed or thawed"
        is_freeze_open = is_freeze_open or action is Action.FREEZE
        assert is_freeze_open is stop.has_frozen
        assert is_freeze_open or action not in (Action.KILL, Action.THAW), "nobody is killed or thawed unfrozen"
        if action in ENDS:
            return


@given(looks=LOOKS)
@hypothesis_settings(examples=25)
def test_a_stop_always_ends(looks: list[tuple[float, int, bool]]) -> None:
    """Whatever was seen before: three more looks, each when it is due, end it."""
    stop, now, halves = Stop(TASK), START, 0
    for seconds, progress, is_frozen in [*looks, *[(0.0, 0, False)] * 3]:
        halves += progress
        now = max(now + seconds, stop.due)
        started, finished = TASK + halves // 2, TASK - 1 + (halves + 1) // 2
        if stop.step(now, started=started, ended=finished, is_frozen=is_frozen) in ENDS:
            return
    pytest.fail("the stop goes on for ever")
