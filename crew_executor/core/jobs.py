"""The jobs of one executor: how many are needed, which to ask about and when, which to give up. Pure.

A job runs one agent on some host, and has places for workers. It is ordered, submitted to a scheduler, and joined once
its agent has come; it counts as on its way for as long as the scheduler says that it is pending, however long that is:
so nothing is ordered twice. What the scheduler does not know is judged by time alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from enum import Enum
from types import MappingProxyType

POLL_GROWTH = 1.6
"""From one poll of a job to the next the time grows by this."""
LOST_POLL_SECONDS = 2.0
"""So long after the link to an agent was lost the scheduler is asked what has become of its job."""
EMPTY_SECONDS = 5.0
"""A job without workers is ended after so long: the successor of one that has died may be about to come."""
SURPLUS_SECONDS = 60.0
"""Jobs that have not come are cancelled when for so long no task has waited."""
RETRY_FIRST, RETRY_LONGEST = 1.0, 60.0
"""Seconds between tries to submit, where the launcher says that it may succeed later; doubled each time."""


_NONE_LENDING: Mapping[int, int] = MappingProxyType({})


class Phase(Enum):
    """Where a job is in its life."""

    ORDERED = "ordered"
    SUBMITTED = "submitted"
    JOINED = "joined"
    ENDING = "ending"  # told to end, or cancelled
    OVER = "over"


class JobEntry:
    """One job.

    Attributes:
        number: its.
        launch: of the submission it belongs to, which has one invitation; 0: it was not submitted yet.
        places: how many workers it has room for; `workers`: how many it has, or is to have.
        phase: see Phase.
        handle: the launcher's, or None.
        is_pending: the scheduler says that it waits.
        clock_from: since when it should have come, monotonic seconds; inf while that is not its business.
        leaves_at: when its time is over; inf: never.
        words: what the scheduler said last.
    """

    __slots__ = (
        "clock_from", "empty_since", "handle", "is_pending", "launch", "leaves_at", "number", "phase", "places",
        "poll_at", "poll_pause", "tries", "words", "workers",
    )  # fmt: skip

    def __init__(self, number: int, places: int) -> None:
        self.number = number
        self.launch = 0
        self.places = places
        self.workers = 0
        self.phase = Phase.ORDERED
        self.handle: Hashable | None = None
        self.is_pending = False
        self.clock_from = self.leaves_at = self.poll_at = float("inf")
        self.poll_pause = 0.0
        self.empty_since: float | None = None
        self.tries = 0
        self.words = ""

    @property
    def is_on_its_way(self) -> bool:
        """Whether its agent has not come, and may."""
        return self.phase in (Phase.ORDERED, Phase.SUBMITTED)

    def __repr__(self) -> str:
        return f"<JobEntry {self.number} {self.phase.value} {self.workers}/{self.places}>"


class Jobs:
    """Keep the jobs of one executor.

    Args:
        places: workers in a job.
        startup_timeout: seconds within which the agent of a job that runs must have come.
        poll_seconds: to the first poll of a job, and the longest time between two.
        walltime: seconds that a job has, less what it takes to leave; None: no end.
        jobs_max: at a time, or None.
        launches_max: in all, or None.
        worker_hours_max: of places in jobs that are there, in all, or None.
    """

    def __init__(
        self, places: int, startup_timeout: float, poll_seconds: tuple[float, float], walltime: float | None,
        jobs_max: int | None, launches_max: int | None = None, worker_hours_max: float | None = None,
    ) -> None:  # fmt: skip
        self._places = places
        self._startup_timeout = startup_timeout
        self._poll_first, self._poll_longest = poll_seconds
        self._walltime = walltime
        self._jobs_max = jobs_max
        self._launches_max = launches_max
        self._worker_hours_max = worker_hours_max
        self._worker_seconds, self._counted_at = 0.0, 0.0
        self.entries: dict[int, JobEntry] = {}
        self.launched = 0  # in all
        self._idle_since: float | None = None  # no task has waited since
        self._workers_kept = 0  # see surplus()

    # ------------------------------------------------------------------ workers get places

    def count(self, now: float) -> None:
        """Add up what the jobs that are there cost; to be called now and then."""
        places = sum(entry.places for entry in self.entries.values() if not entry.is_on_its_way)
        self._worker_seconds += places * (now - self._counted_at)
        self._counted_at = now

    def limit_reached(self) -> str:
        """Return in words why no job may be started any more; "" if one may."""
        if self._launches_max is not None and self.launched >= self._launches_max:
            return f"max_launches={self._launches_max} jobs have been started"
        if self._worker_hours_max is not None and self._worker_seconds >= 3600 * self._worker_hours_max:
            return f"max_worker_hours={self._worker_hours_max:g} are spent"
        return ""

    def place(self, now: float, lending: Mapping[int, int] = _NONE_LENDING) -> JobEntry | None:
        """Give a new worker a place, in a new job if need be; None if there may be no more.

        Args:
            now: monotonic seconds.
            lending: by a job's number, how many of its workers only wait for subtasks: another may stand in for each.
        """
        best: JobEntry | None = None
        for entry in self.entries.values():
            if entry.workers < entry.places + lending.get(entry.number, 0) and (
                entry.is_on_its_way or self._stays(entry, now)
            ):
                if entry.phase is Phase.JOINED:
                    best = entry
                    break
                best = best or entry
        if best is None:
            if (self._jobs_max is not None and len(self.entries) >= self._jobs_max) or self.limit_reached():
                return None
            self.launched += 1
            best = self.entries[self.launched] = JobEntry(self.launched, self._places)
        if best.is_on_its_way and self._idle_since is not None:
            self._idle_since = now  # somebody wants it: else it would be cancelled at once, and ordered again
        best.workers += 1
        best.empty_since = None
        return best

    @staticmethod
    def _stays(entry: JobEntry, now: float) -> bool:
        return entry.phase is Phase.JOINED and now < entry.leaves_at

    def short_of_time(self, now: float, next_seconds: float) -> list[JobEntry]:
        """Return jobs in which the next task would not end in time: their workers leave, from now on.

        None in the first half of its time: else nobody would run a task that takes longer than that.
        """
        if self._walltime is None:
            return []
        half = self._walltime / 2
        short = [
            entry
            for entry in self.entries.values()
            if self._stays(entry, now) and entry.leaves_at - now < min(next_seconds, half)
        ]
        for entry in short:
            entry.leaves_at = now
        return short

    def leave(self, entry: JobEntry, now: float) -> None:
        """Take a worker's place back."""
        entry.workers -= 1
        if not entry.workers:
            entry.empty_since = now

    # ------------------------------------------------------------------ what becomes of a job

    def submitted(self, entry: JobEntry, handle: Hashable, now: float) -> None:
        """Note that the scheduler has it. From now on its time runs, unless the scheduler says that it is pending."""
        entry.handle = handle
        if entry.phase is Phase.ORDERED:  # else its agent was faster than this answer, or nobody wants it any more
            entry.phase = Phase.SUBMITTED
            entry.clock_from = now
            entry.poll_pause = self._poll_first
            entry.poll_at = now + entry.poll_pause

    def retry_pause(self, entry: JobEntry) -> float:
        """Return how long to wait before it is submitted again."""
        entry.tries += 1
        return min(RETRY_FIRST * 2.0 ** min(entry.tries - 1, 16), RETRY_LONGEST)

    def joined(self, entry: JobEntry, now: float) -> None:
        """Note that its agent has come."""
        entry.phase = Phase.JOINED
        entry.is_pending = False
        entry.clock_from = entry.poll_at = float("inf")
        if self._walltime is not None:
            entry.leaves_at = now + self._walltime
        if not entry.workers:
            entry.empty_since = now

    def told(self, entry: JobEntry, *, is_pending: bool, words: str, now: float) -> None:
        """Note that the scheduler says it waits, or runs."""
        if entry.phase is Phase.SUBMITTED:
            if entry.is_pending and not is_pending:
                entry.clock_from = now  # it has started a moment ago, as far as is known
            entry.is_pending = is_pending
        entry.words = words

    def link_lost(self, entry: JobEntry, now: float) -> None:
        """Note that its agent is out of reach: the scheduler may know that it is dead."""
        entry.poll_pause = LOST_POLL_SECONDS
        entry.poll_at = now + LOST_POLL_SECONDS

    def link_back(self, entry: JobEntry) -> None:
        """Note that it can be reached again."""
        entry.poll_at = float("inf")

    def ending(self, entry: JobEntry) -> None:
        """Note that it was told to end."""
        entry.phase = Phase.ENDING
        entry.clock_from = entry.poll_at = float("inf")

    def over(self, entry: JobEntry) -> None:
        """Forget it."""
        entry.phase = Phase.OVER
        self.entries.pop(entry.number, None)

    # ------------------------------------------------------------------ time

    def due_polls(self, now: float) -> list[JobEntry]:
        """Return whom to ask about now; each is asked later and later."""
        due = [entry for entry in self.entries.values() if entry.poll_at <= now and entry.handle is not None]
        if due:  # one command for all
            due = [each for each in self.entries.values() if each.poll_at < float("inf") and each.handle is not None]
        for entry in due:
            entry.poll_pause = min(entry.poll_pause * POLL_GROWTH, self._poll_longest)
            entry.poll_at = now + entry.poll_pause
        return due

    def overdue(self, now: float) -> list[JobEntry]:
        """Return the jobs that run, as far as is known, and whose agents should have come."""
        return [
            entry for entry in self.entries.values()
            if entry.phase is Phase.SUBMITTED and not entry.is_pending
            and now >= entry.clock_from + self._startup_timeout
        ]  # fmt: skip

    def empty(self, now: float) -> list[JobEntry]:
        """Return the jobs that have had no worker for a while, or whose time is over and whose workers are gone."""
        return [
            entry for entry in self.entries.values()
            if entry.phase is Phase.JOINED and entry.empty_since is not None
            and (now >= entry.empty_since + EMPTY_SECONDS or now >= entry.leaves_at)
        ]  # fmt: skip

    def surplus(self, tasks_queued: int, workers_kept: int, now: float) -> list[JobEntry]:
        """Return the jobs to be cancelled because nothing has waited for a while; the youngest first.

        Args:
            tasks_queued: how many tasks wait.
            workers_kept: so many workers are wanted without any.
            now: monotonic seconds.
        """
        if tasks_queued:
            self._idle_since = None
            return []
        if self._idle_since is None:
            self._idle_since = now
        self._workers_kept = workers_kept
        return [] if now < self._idle_since + SURPLUS_SECONDS else self._not_needed()

    def _not_needed(self) -> list[JobEntry]:
        there = sum(entry.workers for entry in self.entries.values() if entry.phase is not Phase.ENDING)
        found = []
        for entry in reversed(list(self.entries.values())):
            # One that runs is about to come: to cancel it is no gain.
            if entry.is_on_its_way and (entry.is_pending or entry.phase is Phase.ORDERED):
                if there - entry.workers < self._workers_kept:
                    break
                there -= entry.workers
                found.append(entry)
        return found

    def next_due(self) -> float:
        """Return when one of these has something to say at the earliest; inf: never."""
        times = [float("inf")]
        for entry in self.entries.values():
            if entry.handle is not None:
                times.append(entry.poll_at)
            if entry.phase is Phase.SUBMITTED and not entry.is_pending:
                times.append(entry.clock_from + self._startup_timeout)
            if entry.phase is Phase.JOINED and entry.empty_since is not None:
                times.append(min(entry.empty_since + EMPTY_SECONDS, max(entry.empty_since, entry.leaves_at)))
        if self._idle_since is not None and self._not_needed():
            times.append(self._idle_since + SURPLUS_SECONDS)
        return min(times)


def in_batches(entries: Iterable[JobEntry], size: int) -> list[list[JobEntry]]:
    """Return jobs in groups, each of which is one submission."""
    entries = list(entries)
    return [entries[start : start + size] for start in range(0, len(entries), size)]
