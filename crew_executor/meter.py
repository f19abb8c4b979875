"""How fast futures are done, how long the rest will take, and the words for it. Pure: the time is an argument.

Must not know where it is shown (screens.py), nor what is counted and when (gauge.py).
"""

from __future__ import annotations

import unicodedata
from collections import deque
from typing import NamedTuple

WINDOW_SECONDS = 30.0
"""The rate is that of so long a time back at least ..."""
WINDOW_DONE = 20
"""... and of so many tasks at least, as far as there were any: one that takes an hour is seen once in an hour."""
SAMPLE_SECONDS = 1.0
"""Looks that follow each other faster count as one: the window has a bounded number of them."""


class Count(NamedTuple):
    """How far the work is.

    Attributes:
        done: whatever came of them: results, failures, cancelled ones.
        total: how many there will be; None: nobody knows yet.
        failed: those of `done` that ended in an exception.
        cancelled: those of `done` that were cancelled.
    """

    done: int
    total: int | None = None
    failed: int = 0
    cancelled: int = 0

    @property
    def known_total(self) -> int | None:
        """The total, unless it was a wrong guess."""
        return None if self.total is None or self.total < self.done else self.total


class Crowd(NamedTuple):
    """The workers now: those that are there, and those on their way."""

    present: int
    coming: int = 0


class Meter:
    """Measures a rate over the last time, so that it tells of what is done now, not of the wait for the first worker.

    Args:
        now: seconds of any clock that only goes forward.
        done: how many were done before anybody looked: they say nothing about the rate.

    Attributes:
        done_before: the latter.
    """

    def __init__(self, now: float, done: int = 0) -> None:
        self.done_before = done
        self._began = now
        self._samples: deque[tuple[float, int]] = deque([(now, done)])
        self._last = (now, done)

    def update(self, now: float, done: int) -> None:
        """Note how many are done by now."""
        self._last = (now, done)
        samples = self._samples
        if done > samples[-1][1] and now - samples[-1][0] >= SAMPLE_SECONDS:
            samples.append((now, done))
        # The first is where the window begins: drop it if the second is far enough away, too.
        while len(samples) > 1 and now - samples[1][0] >= WINDOW_SECONDS and done - samples[1][1] >= WINDOW_DONE:
            samples.popleft()

    @property
    def seconds(self) -> float:
        """How long it has taken, until the last look."""
        return self._last[0] - self._began

    def rate(self) -> float | None:
        """Return how many are done in a second, or None as long as nobody can know."""
        (began, before), (now, done) = self._samples[0], self._last
        if now <= began or done <= before:
            return None
        return (done - before) / (now - began)

    def seconds_left(self, count: Count) -> float | None:
        """Return how long the rest will take if it goes on like this, or None if nobody can know."""
        total, rate = count.known_total, self.rate()
        return None if total is None or rate is None else (total - count.done) / rate


def running_line(description: str, count: Count, meter: Meter, crowd: Crowd | None) -> str:
    """Return what is said while the work goes on, the most important first: a narrow terminal shows the beginning."""
    left, rate = meter.seconds_left(count), meter.rate()
    words = [_share(count)]
    if left is not None:
        words.append(f"{duration(left)} left")
    if rate is not None:
        words.append(pace(rate))
    return _line(description, [*words, *troubles(count), *workers(crowd)])


def last_line(description: str, count: Count, meter: Meter) -> str:
    """Return what is said at the end: how long it took, and the rate over all that time."""
    words = [f"{_share(count)} {'in' if count.done == count.total else 'after'} {duration(meter.seconds)}"]
    if meter.seconds > 0 and count.done > meter.done_before:
        words.append(pace((count.done - meter.done_before) / meter.seconds))
    return _line(description, [*words, *troubles(count)])


def troubles(count: Count) -> list[str]:
    """Return the words for what has failed or was cancelled."""
    numbers = ((count.failed, "failed"), (count.cancelled, "cancelled"))
    return [f"{number} {word}" for number, word in numbers if number]


def workers(crowd: Crowd | None) -> list[str]:
    """Return the words for the workers, if anybody knows them."""
    if crowd is None:
        return []
    words = [f"{crowd.present} worker{'' if crowd.present == 1 else 's'}"]
    return [*words, f"{crowd.coming} starting"] if crowd.coming else words


def duration(seconds: float) -> str:
    """Return a length of time in words, in one or two units."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    # Rounded once, at the beginning: 59.7 s are 1 min, not 60 s.
    minutes, rest = divmod(round(seconds) if seconds < 1e15 else 10**15, 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"


def pace(rate: float) -> str:
    """Return a rate, given per second, in the unit in which it is a handy number."""
    number, unit = rate, "s"
    for larger in ("min", "h"):
        if number < 1:
            number, unit = (rate * 60, larger) if larger == "min" else (rate * 3600, larger)
    return f"{number:.0f}/{unit}" if number >= 100 else f"{number:.3g}/{unit}"


def plain(text: str) -> str:
    """Return the text in one line: what is no printable character could move the cursor, or worse."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def fit(text: str, columns: int) -> str:
    """Return as much of the beginning as so many columns of a terminal have room for, at least a letter."""
    width = 0
    for place, letter in enumerate(text):
        width += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if width > columns and place:
            return text[:place]
    return text


def _share(count: Count) -> str:
    total = count.known_total
    if total is None:
        return f"{count.done} done"
    # Rounded down: 100 % is said when all are done.
    return f"{100 * count.done // total if total else 100} % {count.done}/{total}"


def _line(description: str, words: list[str]) -> str:
    line = ", ".join(words)
    return f"{description}: {line}" if description else line
