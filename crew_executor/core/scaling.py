"""How many workers to launch now, and when to stop trying. Pure: counters and `now` in, a number and words out.

The arithmetic is that of R's crew (crew_launcher.R, scale()): demand counts queued *and* running tasks, supply counts
workers on their way *and* at work; the difference is launched in one decision. Workers leave by themselves, when they
have been idle for idle_timeout, but not below what was wanted at any moment within that time. Tasks may come faster
than they are handed out, or so short that a few workers do them all: then workers are launched for a burst that get
none of it, and without that rule they would leave, and be launched again for the next one.

Launches that fail are counted in a row. After each the next try waits longer; after `failures_max` of them, with
nobody at work, the pool is given up: never a silent relaunch loop. Tasks have no part in this count.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

BACKOFF_FIRST = 0.1
BACKOFF_LONGEST = 60.0
"""Seconds to wait after the first failed launch in a row, doubled after each, up to the longest."""

LEAVING_SPARE = 8
"""Processes beyond twice max_workers that there may be: workers on their way out, whose exit functions take their time,
must not pile up while their successors leave as well."""

SCALING_MODES = ("demand", "one", "none", "manual")


class ScalingRules(NamedTuple):
    """The bounds of a pool.

    Args:
        max_workers: at most so many workers, those on their way included.
        min_workers: so many are kept even without work.
        mode: "demand" launches what is missing at once; "one" launches one worker a decision and waits for it;
            "none" keeps min_workers (max_workers if that is 0), whatever the demand; "manual" keeps min_workers.
        failures_max: failed launches in a row, with no worker at work, after which the pool is given up.
        idle_timeout: seconds without work after which a worker asks to leave, or None.
    """

    max_workers: int
    min_workers: int = 0
    mode: str = "demand"
    failures_max: int = 3
    idle_timeout: float | None = None


class Scaler:
    """Decide how many workers to launch; remember failures."""

    def __init__(self, rules: ScalingRules) -> None:
        self.rules = rules
        self.requested = 0  # workers that somebody has asked for, and that are not launched yet
        self.failures = 0  # in a row
        self.is_given_up = False
        self.is_finishing = False  # nobody can ask for workers any more, and what was submitted is to be done
        self.retry_at = 0.0
        self.failed_at = float("-inf")  # when the last failure that counted was known
        self.last_decision = "nothing launched yet"
        self._peaks: deque[tuple[int, float]] = deque()  # what was wanted, and when last: ever less, ever later

    def floor(self) -> int:
        """Return how many workers are kept without any demand."""
        rules = self.rules
        if rules.mode == "none":
            return rules.min_workers or rules.max_workers
        return rules.min_workers

    def wanted(self, tasks_open: int) -> int:
        """Return how many workers there should be for so many tasks queued or running."""
        if self.rules.mode == "none" or (self.rules.mode == "manual" and not self.is_finishing):
            return self.floor()
        return max(self.floor(), min(tasks_open, self.rules.max_workers))

    def is_short(self, *, tasks_open: int, workers: int) -> bool:
        """Answer whether workers are missing: cheap, before any counting."""
        if self.requested or workers < self.floor():
            return True
        return tasks_open > workers and (self.rules.mode != "manual" or self.is_finishing)

    def request(self, number: int) -> None:
        """Have so many workers launched, whatever there is to do, as far as there is room."""
        self.requested += number

    def note_demand(self, tasks_open: int, now: float) -> None:
        """Remember how many workers were wanted, for idle_timeout; to be called whenever tasks have come."""
        timeout = self.rules.idle_timeout
        if timeout is None:
            return
        wanted, peaks = self.wanted(tasks_open), self._peaks
        while peaks and peaks[-1][0] <= wanted:
            peaks.pop()
        peaks.append((wanted, now))
        self._forget_peaks(now - timeout)

    def _forget_peaks(self, until: float) -> None:
        peaks = self._peaks
        while peaks and peaks[0][1] <= until:
            peaks.popleft()

    def launches(
        self, *, tasks_open: int, starting: int, ready: int, leaving: int, now: float, needed: int = 0,
        room: int | None = None,
    ) -> int:  # fmt: skip
        """Return how many workers to launch now.

        Args:
            tasks_open: tasks queued or held by workers that stay.
            starting: workers launched that have not joined yet.
            ready: workers at work.
            leaving: workers told to leave that are still there; they do not count as supply, and a replacement may
                start beside them so that recycling costs no pause, within LEAVING_SPARE.
            now: monotonic seconds.
            needed: so many are wanted whoever is idle: none of those can do what waits.
            room: there is equipment for so many, or None: for all.
        """
        if self.is_given_up or now < self.retry_at:
            return 0
        there = starting + ready
        requested, self.requested = min(self.requested, max(0, self.rules.max_workers - there)), 0
        most = 2 * self.rules.max_workers + LEAVING_SPARE - there - leaving
        room = most if room is None else min(most, room)
        missing = max(self.wanted(tasks_open) - there, requested, needed)
        if missing > room:
            missing, self.requested = room, max(0, requested - max(0, room))
        if missing <= 0:
            return 0
        if self.rules.mode == "one" and not requested:
            missing = 0 if starting else 1
        elif self.failures:
            missing = 1 if not starting else 0  # after a failure: try one before trying many
            self.requested = max(0, requested - missing)
        if missing:
            self.last_decision = (
                f"launch {missing}: {tasks_open} open tasks, {ready} workers ready, {starting} starting, "
                f"{leaving} leaving, at most {self.rules.max_workers}"
            )
        return missing

    def may_leave(self, *, ready: int, now: float) -> bool:
        """Answer whether one of `ready` workers may leave for being idle."""
        if self.rules.idle_timeout is not None:
            self._forget_peaks(now - self.rules.idle_timeout)
        return ready > (max(self.floor(), self._peaks[0][0]) if self._peaks else self.floor())

    def launch_succeeded(self) -> None:
        """Note that a worker has joined."""
        self.failures = 0
        self.retry_at = 0.0

    def launch_failed(self, *, launched_at: float, ready: int, now: float) -> None:
        """Note that a worker did not come up; wait before the next try, or give up.

        Launches of one volley that fail count once: those begun before the last failure was known say nothing new.
        """
        if self.rules.mode == "manual":
            self.requested += 1  # nobody else would try again
        if launched_at < self.failed_at:
            return
        self.failed_at = now
        self.failures += 1
        doublings = min(self.failures - 1, 16)  # beyond the longest wait; 2 ** 1024 is too large for a float
        self.retry_at = now + min(BACKOFF_FIRST * 2**doublings, BACKOFF_LONGEST)
        self.last_decision = f"{self.failures} launches in a row failed; next try in {self.retry_at - now:.1f} s"
        if self.failures >= self.rules.failures_max and not ready:
            self.is_given_up = True
            self.last_decision = f"given up after {self.failures} failed launches in a row"
