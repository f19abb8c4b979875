"""The load of a chaos run: episodes of tasks from one thread, and a check of everything that comes back.

Each task has a number of its own, and what it must return or raise follows from that number. Every future ends in one
verdict (ledger.py). Must not wait without a deadline, and must not decide what is a failure of the whole run.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures import TimeoutError as FuturesTimeoutError
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from crew_executor import CrewExecutor, TaskTimeoutError, WorkerCrashError

from . import ledger, tasks
from .ledger import Problems, Verdicts

DRAIN_SECONDS = 90.0
"""How long the futures of one thread may take once it submits nothing more: above the longest back-off of launches."""
_OPEN_MAX = 300
"""Futures one thread keeps open."""
_BIG_BYTES = (1_000_000, 20_000_000)
_STOPPED_SECONDS = 20.0
"""How long tasks would run that are to be stopped: longer than any freeze could delay the stop."""
_LOOK_SECONDS = 0.2


@dataclass(eq=False)
class Entry:
    """A future and what must become of it."""

    future: Future[Any]
    number: int
    kind: str
    is_right: Callable[[Any], bool]
    is_cancelled: bool = False
    callbacks: int = 0
    has_callback: bool = False
    born: float = field(default_factory=time.monotonic)


class Mix:
    """One thread's tasks.

    Args:
        executor: what is tested.
        seed: decides everything that is not a matter of time.
        lane, lanes: this thread's numbers are lane, lane + lanes, lane + 2 * lanes, ...
        marks: the file to which tasks append.
        verdicts, problems: where findings go.
        stop: when this file appears, no more is submitted.
    """

    def __init__(
        self,
        executor: CrewExecutor,
        seed: str,
        lane: int,
        lanes: int,
        marks: Path,
        verdicts: Verdicts,
        problems: Problems,
        stop: Path,
    ) -> None:
        self._executor = executor
        self._random = random.Random(f"{seed}/{lane}")
        self._number, self._lanes = lane, lanes
        self._marks = str(marks)
        self._verdicts, self._problems, self._stop = verdicts, problems, stop
        self._entries: deque[Entry] = deque()
        self._pause = threading.Event()  # never set: something to wait for
        self.longest_drain_seconds = 0.0
        self._episodes: list[tuple[Callable[[], None], int]] = [
            (self._burst_of_tiny, 25), (self._stream, 25), (self._failing, 10), (self._big, 8), (self._mapped, 12),
            (self._cancelled, 10), (self._families, 6), (self._leaving, 4), (self._idle, 8), (self._with_priority, 4),
            (self._branching, 6),
        ]  # fmt: skip
        for options, episode in (
            ({"timeout": 60.0}, self._overruns),
            ({"cancel_running": True}, self._called_off),
            ({"crash_retries": ledger.CRASH_RETRIES}, self._retried),
        ):
            try:
                executor.options(**options)  # type: ignore[arg-type]
            except TypeError:
                continue  # this package does not have it yet
            self._episodes.append((episode, 10))

    @property
    def open(self) -> list[Entry]:
        """What has not been judged."""
        return list(self._entries)

    def run(self, seconds: float) -> None:
        """Submit for some time, then wait for everything."""
        until = time.monotonic() + seconds
        episodes, weights = zip(*self._episodes, strict=True)
        while time.monotonic() < until and not self._stop.exists():
            self._random.choices(episodes, weights)[0]()
            self._sweep(_OPEN_MAX, until + DRAIN_SECONDS)
        begun = time.monotonic()
        self._sweep(0, begun + DRAIN_SECONDS)
        self.longest_drain_seconds = max(self.longest_drain_seconds, time.monotonic() - begun)

    def give_up(self) -> None:
        """Judge what is still open as unresolved."""
        while self._entries:
            entry = self._entries.popleft()
            age = time.monotonic() - entry.born
            self._verdicts.add(entry.number, entry.kind, ledger.UNRESOLVED)
            self._problems.add("unresolved", f"task {entry.number} ({entry.kind}), {age:.1f} s old: {entry.future!r}")

    # ------------------------------------------------------------------ episodes

    def _burst_of_tiny(self) -> None:
        for _ in range(self._random.randint(20, 250)):
            self._submit("tiny", tasks.tiny)

    def _stream(self) -> None:
        for _ in range(self._random.randint(5, 40)):
            function = self._random.choice((tasks.nap, tasks.spin))
            self._submit(function.__name__, function, self._random.uniform(0.001, 0.05))
            self._pause.wait(self._random.uniform(0, 0.01))

    def _failing(self) -> None:
        for _ in range(self._random.randint(1, 20)):
            self._submit("failing", tasks.fail)

    def _big(self) -> None:
        for _ in range(self._random.randint(1, 2)):
            number = self._next_number()
            in_bytes, out_bytes = (round(self._random.uniform(*_BIG_BYTES)) for _ in range(2))
            if self._random.random() < 0.6:  # only one of the two is big
                in_bytes, out_bytes = self._random.choice(((in_bytes, 10), (10, out_bytes)))
            blob = tasks.pattern(number, in_bytes)
            is_right = partial(_is_right_pattern, number + 1, out_bytes)
            self._submit_as(number, "big", is_right, tasks.heavy, blob, out_bytes)

    def _families(self) -> None:
        for _ in range(self._random.randint(1, 3)):
            self._submit("family", tasks.family, self._random.random() < 0.5, self._random.uniform(0.01, 1.0))

    def _leaving(self) -> None:
        self._submit(ledger.LEAVING, tasks.leave, self._random.choice((0, 3, 255)))

    def _branching(self) -> None:
        for _ in range(self._random.randint(1, 3)):
            self._submit("branching", tasks.branch, self._executor, self._random.randint(1, 4))

    def _idle(self) -> None:
        self._pause.wait(self._random.uniform(0.1, 0.8))

    def _with_priority(self) -> None:
        for _ in range(self._random.randint(5, 30)):
            view = self._executor.options(priority=self._random.randint(-2, 2), name="prioritised")
            number = self._next_number()
            self._submit_to(view, number, "priority", partial(_is_answer, number), tasks.nap, 0.002)

    def _cancelled(self) -> None:
        """Cancel half of what waits, and some of the oldest: those are likely to run, or to end, at this moment."""
        entries = [
            self._submit("cancelled", tasks.nap, self._random.uniform(0, 0.02))
            for _ in range(self._random.randint(10, 120))
        ]
        if self._random.random() < 0.5:
            self._pause.wait(self._random.uniform(0, 0.1))
        oldest = list(itertools.islice(self._entries, 20))
        for entry in self._random.sample(entries, len(entries) // 2) + self._random.sample(oldest, len(oldest) // 2):
            entry.is_cancelled = entry.future.cancel()

    def _mapped(self) -> None:
        """Consume a map(); what comes must be a prefix of the right answers, then an error that may be there."""
        numbers = [self._next_number() for _ in range(self._random.randint(5, 60))]
        bad = self._random.choice(numbers) if self._random.random() < 0.3 else None
        paths, is_bad = [self._marks] * len(numbers), [number == bad for number in numbers]
        seen = 0
        results = self._executor.map(
            tasks.item, paths, numbers, is_bad,
            timeout=DRAIN_SECONDS, chunksize=self._random.randint(1, 12),
        )  # fmt: skip
        try:
            for number, result in zip(numbers, results, strict=False):
                self._judge_item(number, result)
                seen += 1
        except WorkerCrashError as error:
            self._verdicts.add(numbers[seen], "map", ledger.CRASH, _facts_of(error))
            seen += 1
        except tasks.Planned as error:
            is_right = numbers[seen] == bad == error.args[0]
            self._verdicts.add(numbers[seen], "map", ledger.OWN_ERROR if is_right else ledger.WRONG)
            if not is_right:
                self._problems.add("wrong", f"map() raised {error!r} at item {numbers[seen]}, wanted for {bad}")
            seen += 1
        except BaseException as error:
            self._problems.add("wrong", f"map() raised {error!r} after {seen} of {len(numbers)} items")
        for number in numbers[seen:]:
            self._verdicts.add(number, "map", ledger.UNKNOWN)

    def _judge_item(self, number: int, result: object) -> None:
        is_right = result == tasks.answer(number)
        self._verdicts.add(number, "map", ledger.OK if is_right else ledger.WRONG)
        if not is_right:
            self._problems.add("wrong", f"map() gave {result!r} for item {number}")

    # ------------------------------------------------------------------ episodes of packages that have these options

    def _overruns(self) -> None:
        for _ in range(self._random.randint(1, 3)):
            options = {"timeout": self._random.uniform(0.03, 0.3)}
            self._submit_with(options, ledger.OVERRUN, tasks.two_marks, _STOPPED_SECONDS, self._way())
        self._submit_with({"timeout": 60.0}, "in_time", tasks.nap, self._random.uniform(0, 0.02))

    def _called_off(self) -> None:
        options = {"cancel_running": True}
        entry = self._submit_with(options, ledger.CALLED_OFF, tasks.two_marks, _STOPPED_SECONDS, self._way())
        until = time.monotonic() + 0.3
        while not entry.future.running() and time.monotonic() < until:
            self._pause.wait(0.005)
        self._pause.wait(self._random.uniform(0, 0.2))
        entry.is_cancelled = entry.future.cancel()

    def _way(self) -> str:
        return self._random.choice(("sleep", "count", "swallow"))

    def _retried(self) -> None:
        for _ in range(self._random.randint(5, 30)):
            options = {"crash_retries": ledger.CRASH_RETRIES}
            self._submit_with(options, ledger.RETRIED, tasks.nap, self._random.uniform(0.001, 0.05))

    # ------------------------------------------------------------------ submitting

    def _next_number(self) -> int:
        self._number += self._lanes
        return self._number

    def _submit(self, kind: str, function: Callable[..., Any], *arguments: Any) -> Entry:
        number = self._next_number()
        return self._submit_as(number, kind, partial(_is_answer, number), function, *arguments)

    def _submit_with(self, options: dict[str, Any], kind: str, function: Callable[..., Any], *arguments: Any) -> Entry:
        number = self._next_number()
        view = self._executor.options(**options)
        return self._submit_to(view, number, kind, partial(_is_answer, number), function, *arguments)

    def _submit_as(
        self, number: int, kind: str, is_right: Callable[[Any], bool], function: Callable[..., Any], *arguments: Any
    ) -> Entry:
        return self._submit_to(self._executor, number, kind, is_right, function, *arguments)

    def _submit_to(
        self,
        where: Any,
        number: int,
        kind: str,
        is_right: Callable[[Any], bool],
        function: Callable[..., Any],
        *arguments: Any,
    ) -> Entry:
        entry = Entry(where.submit(function, self._marks, number, *arguments), number, kind, is_right)
        if self._random.random() < 0.1:
            entry.has_callback = True
            entry.future.add_done_callback(partial(_count_callback, entry))
        self._entries.append(entry)
        return entry

    # ------------------------------------------------------------------ judging

    def _sweep(self, room: int, deadline: float) -> None:
        """Judge what is done; wait until at most `room` are open, or for the deadline."""
        while True:
            rest = deque[Entry]()
            for entry in self._entries:
                if entry.future.done() and (not entry.has_callback or entry.callbacks):
                    self._judge(entry)
                else:
                    rest.append(entry)
            self._entries = rest
            if len(rest) <= room or time.monotonic() > deadline:
                return
            wait([rest[0].future], timeout=_LOOK_SECONDS)
            if rest[0].future.done():
                self._pause.wait(0.002)  # its callbacks are about to run

    def _judge(self, entry: Entry) -> None:
        verdict, crash, complaint = self._verdict_of(entry)
        self._verdicts.add(entry.number, entry.kind, verdict, crash)
        if complaint:
            self._problems.add("wrong", f"task {entry.number} ({entry.kind}): {complaint}")
        if entry.callbacks > 1:
            self._problems.add("callbacks", f"task {entry.number} ({entry.kind}) called back {entry.callbacks} times")

    def _verdict_of(self, entry: Entry) -> tuple[str, tuple[int | None, str, str] | None, str]:
        """Return the verdict, the facts of a crash, and what is wrong or ""."""
        try:
            result = entry.future.result(timeout=0)
        except CancelledError:
            return ledger.CANCELLED, None, "" if entry.is_cancelled else "cancelled, but cancel() was not or said False"
        except WorkerCrashError as error:
            return ledger.CRASH, _facts_of(error), _complaint(entry, is_expected=True)
        except TaskTimeoutError as error:
            return ledger.TIMEOUT, None, _complaint(entry, is_expected=entry.kind == ledger.OVERRUN, what=repr(error))
        except tasks.Planned as error:
            is_expected = entry.kind == "failing" and error.args == (entry.number,)
            return ledger.OWN_ERROR, None, _complaint(entry, is_expected=is_expected, what=repr(error))
        except (FuturesTimeoutError, Exception) as error:
            return ledger.WRONG, None, f"ended with {type(error).__name__}: {str(error)[:500]}"
        if entry.kind in {"failing", ledger.LEAVING, ledger.OVERRUN} or not entry.is_right(result):
            return ledger.WRONG, None, f"returned {str(result)[:100]}"
        return ledger.OK, None, _complaint(entry, is_expected=True)


def _complaint(entry: Entry, *, is_expected: bool, what: str = "") -> str:
    if entry.is_cancelled:
        return f"cancel() said True, but it ended otherwise {what}"
    return "" if is_expected else f"ended with {what}"


def _facts_of(error: WorkerCrashError) -> tuple[int | None, str, str]:
    """Return pid, worker and cause of a crash, each without a blank."""
    cause = error.signal or (f"exit={error.exitcode}" if error.exitcode is not None else "")
    if not cause:
        cause = ledger.BY_SUPERVISOR if "its supervisor died" in str(error) else "nobody-knows"
    return error.pid, error.worker or "-", cause


def _count_callback(entry: Entry, _future: Future[Any]) -> None:
    entry.callbacks += 1


def _is_answer(number: int, result: object) -> bool:
    return result == tasks.answer(number)


def _is_right_pattern(number: int, size_bytes: int, result: tuple[bool, bytes]) -> bool:
    is_argument_right, blob = result
    return is_argument_right and blob == tasks.pattern(number, size_bytes)
