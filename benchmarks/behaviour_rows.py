"""The rows of behaviour.py that every comparison of pools asks for: dead workers, pickles, cancelling, Ctrl-C.

Each function is one row; its docstring is the definition that is printed beneath the table, and says what is clean.
behaviour_attacks.py has the rows beyond these.
"""

from __future__ import annotations

import itertools
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import behaviour_tasks as tasks
from behaviour_contenders import Contender, NotOffered
from behaviour_measure import (
    NEXT_SECONDS,
    RESOLVE_SECONDS,
    UNRESOLVED,
    Outcome,
    Row,
    Script,
    Verdict,
    all_words,
    conclude,
    lost,
    make_row,
    neighbours,
    outcome_of,
    outcomes,
    submitted,
    wait_until,
    warm_up,
    words,
    written_pid,
)

ROWS: dict[str, Row] = {}

MAP_ITEMS = 300_000
MAP_SECONDS = 3.0
MAP_AHEAD = 100
ORPHAN_SECONDS = 10.0
INTERRUPT_SECONDS = 8.0


@make_row(ROWS, "2-argument exception class")
def two_argument_exception(contender: Contender, _here: Path) -> Verdict:
    """A task raises an exception whose `__init__` takes two arguments. Clean: an exception of that class arrives with
    its attributes, and the next submit works.
    """
    pool = contender.make()
    outcome = outcome_of(lambda: contender.submit(pool, tasks.raise_two_arguments))
    error = outcome.error
    if not outcome.is_done:
        problem = UNRESOLVED
    elif not isinstance(error, tasks.TwoArguments):
        problem = "wrong type"
    else:
        problem = "" if (error.left, error.right) == ("one", "two") else "attributes lost"
    return conclude(contender, pool, problem, outcome.text)


@make_row(ROWS, "SIGKILL 1 of 12 tasks")
def kill_one_of_twelve(contender: Contender, _here: Path) -> Verdict:
    """One of twelve tasks kills its worker. Clean: the other eleven results are right, that one future fails, and the
    next submit works.
    """
    pool, victim = contender.make(), 4
    futures = [contender.submit(pool, tasks.nap_or_die, number, victim, 0.1) for number in range(12)]
    found = outcomes(futures)
    right = sum(outcome.error is None and outcome.value == number for number, outcome in enumerate(found))
    unresolved = sum(not outcome.is_done for outcome in found)
    problem = f"{right} ok" if right < 11 else ""
    if unresolved:
        problem = f"{right} ok, {unresolved} {UNRESOLVED}"
    return conclude(contender, pool, problem, f"the victim: {found[victim].text}", ok=f"{right} ok")


@make_row(ROWS, "unpicklable argument")
def unpicklable_argument(contender: Contender, _here: Path) -> Verdict:
    """A lock is the argument of a task among four others. Clean: submit() or the future raises an error that names what
    cannot be pickled, the others are right, and the next submit works.
    """
    pool = contender.make()
    beside = neighbours(contender, pool)
    future = submitted(lambda: contender.submit(pool, tasks.echo, threading.Lock()))
    return _pickling_verdict(contender, pool, outcomes([future, *beside]))


@make_row(ROWS, "unpicklable result")
def unpicklable_result(contender: Contender, _here: Path) -> Verdict:
    """A lock is the result of a task among four others. Clean: the future raises an error that names what cannot be
    pickled, the others are right, and the next submit works.
    """
    pool = contender.make()
    beside = neighbours(contender, pool)
    future = submitted(lambda: contender.submit(pool, tasks.make_a_lock))
    return _pickling_verdict(contender, pool, outcomes([future, *beside]))


def _pickling_verdict(contender: Contender, pool: Any, found: list[Outcome]) -> Verdict:
    outcome, harmed = found[0], lost(found[1:])
    if not outcome.is_done:
        problem = UNRESOLVED
    elif outcome.error is None:
        problem = "no error"
    elif "_thread.lock" not in all_words(outcome.error):
        problem = "vague"
    else:
        problem = f"{harmed} of 4 others lost" if harmed else ""
    return conclude(contender, pool, problem, outcome.text)


@make_row(ROWS, "cancel() of a running task")
def cancel_running(contender: Contender, here: Path) -> Verdict:
    """cancel() of a task that runs, with the option that stops running tasks where there is one. Clean: it returns
    True, the task's side effect does not happen, and the next submit works.
    """
    pool, began, ended = contender.make(1), here / "began", here / "ended"
    warm_up(contender, pool, 1)
    try:
        submit, how = contender.submit_with(pool, cancel_running=True), "with the option"
    except NotOffered:
        submit, how = lambda fn, *args: contender.submit(pool, fn, *args), "there is no such option"
    future = submit(tasks.touch_nap_touch, str(began), str(ended), 1.5)
    written_pid(began)
    at = time.monotonic()
    answer = future.cancel()
    following = outcomes([contender.submit(pool, tasks.double, 1)], NEXT_SECONDS)[0]
    seconds = time.monotonic() - at
    time.sleep(max(0.0, at + 2.0 - time.monotonic()))
    text = f"{answer}, {'RUNS ON' if ended.exists() else 'stops'}"
    is_clean = answer and not ended.exists()
    note = f"{how}; the only worker's next task was done after {seconds:.1f} s ({following.text})"
    return conclude(contender, pool, "" if is_clean else text, note, ok=text)


BUSY_SCRIPT = """
if __name__ == "__main__":
    pool = contender.make()
    futures = [contender.submit(pool, tasks.touch_and_nap, f"{here}/busy-{number}", 60) for number in range(2)]
    futures[0].result()
"""


@make_row(ROWS, "parent SIGKILLed: left at 10 s")
def parent_killed(contender: Contender, here: Path) -> Verdict:
    """A program is killed while its two workers are busy. Clean: within 10 s none of the processes that the pool had
    brought about is left.
    """
    script = Script(contender, here, BUSY_SCRIPT)
    for number in range(2):
        written_pid(here / f"busy-{number}")
    before = script.others()
    script.kill()
    at = time.monotonic()
    is_clean = wait_until(lambda: script.others() == 0, ORPHAN_SECONDS)
    note = f"the last one ended after {time.monotonic() - at:.1f} s" if is_clean else "they work on"
    return Verdict(f"{script.others()} of {before} left", is_clean, note)


LAMBDA_SCRIPT = """
if __name__ == "__main__":
    pool = contender.make()
    factor = 2
    print(contender.submit(pool, lambda number: factor * number, 21).result(12))
    contender.shutdown(pool)
"""


@make_row(ROWS, "lambda from a script")
def lambda_from_script(contender: Contender, here: Path) -> Verdict:
    """A script submits a lambda. Clean: its result comes back."""
    script = Script(contender, here, LAMBDA_SCRIPT)
    code = script.wait(RESOLVE_SECONDS)
    if script.out.strip() == "42":
        return Verdict("ok", is_clean=True)
    last = (script.err.strip().splitlines() or [""])[-1]
    return Verdict(UNRESOLVED if code is None or "TimeoutError" in last else "fails", is_clean=False, note=last[:120])


@make_row(ROWS, "map() over 300,000 inputs")
def map_reads_ahead(contender: Contender, _here: Path) -> Verdict:
    """map() over a generator of 300,000 items, with `buffersize` where there is one: how many has it read when the
    first result is there. Clean: no more than the 100 asked for and the one in hand.
    """
    try:
        read, is_there, error = _read_before_first(contender, ahead=MAP_AHEAD)
    except NotOffered:
        return Verdict("eats all", is_clean=False, note=f"no buffersize; {_read_by_default(contender)}")
    note = f"with buffersize={MAP_AHEAD}; without: {_read_by_default(contender)}{error}"
    if not is_there:
        return Verdict(UNRESOLVED, is_clean=False, note=note)
    return Verdict(f"{read:,} (by option)", read <= MAP_AHEAD + 1, note)


def _read_by_default(contender: Contender) -> str:
    read, is_there, _ = _read_before_first(contender, ahead=None)
    return f"{read:,} read" + ("" if is_there else f" in {MAP_SECONDS:g} s, and no result yet")


def _read_before_first(contender: Contender, ahead: int | None) -> tuple[int, bool, str]:
    """Return how many items were read, whether a first result came, and what went wrong."""
    count = itertools.count()
    read = 0
    until = time.monotonic() + MAP_SECONDS

    def items() -> Iterator[int]:
        nonlocal read
        # Ends early where the pool takes them slowly: what matters is that it had not given a result by then.
        while read < MAP_ITEMS and time.monotonic() < until:
            read += 1
            yield next(count)

    pool = contender.make()
    if ahead is None:
        results = iter(contender.map(pool, tasks.double, items()))
    else:
        results = iter(contender.map_ahead(pool, tasks.double, items(), ahead))
    if time.monotonic() > until:
        return read, False, ""
    at_return, error = read, ""
    try:
        assert next(results) == 0
    except BaseException as problem:
        error = f"; {words(problem)}"
    return max(read, at_return), not error, error


@make_row(ROWS, "user's __cause__ and frames")
def cause_and_frames(contender: Contender, _here: Path) -> Verdict:
    """A task raises a ValueError from a ZeroDivisionError. Clean: what result() raises has that cause, and its
    traceback has the task's own frames, not only text.
    """
    pool = contender.make()
    error = outcome_of(lambda: contender.submit(pool, tasks.fail_with_cause)).error
    assert error is not None
    frames = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    has_frames, has_cause = "fail_with_cause" in frames, isinstance(error.__cause__, ZeroDivisionError)
    if has_frames and has_cause:
        text = "both kept"
    else:
        text = "cause only" if has_cause else "frames only" if has_frames else "neither"
    return Verdict(text, has_frames and has_cause, f"{words(error)}; its cause is a {type(error.__cause__).__name__}")


INTERRUPT_SCRIPT = """
def wait_for(pool):
    futures = [contender.submit(pool, tasks.touch_and_nap, f"{here}/busy-{number}", 30) for number in range(6)]
    for future in futures:
        future.result()

"""
PLAIN_SCRIPT = """
if __name__ == "__main__":
    wait_for(contender.make())
"""
WITH_SCRIPT = """
if __name__ == "__main__":
    with contender.make() as pool:
        wait_for(pool)
"""


@make_row(ROWS, "Ctrl-C with 30-s tasks")
def interrupt(contender: Contender, here: Path) -> Verdict:
    """A script waits for six 30-s tasks on two workers when its process group gets SIGINT; after 4 s a second one.
    Clean: it exits within 3 s of one SIGINT, prints at most one traceback, and leaves no process.
    """
    return _interrupted(Script(contender, here, INTERRUPT_SCRIPT + PLAIN_SCRIPT), here)


@make_row(ROWS, "the same within `with`")
def interrupt_in_with(contender: Contender, here: Path) -> Verdict:
    """The same with the pool as a context manager."""
    return _interrupted(Script(contender, here, INTERRUPT_SCRIPT + WITH_SCRIPT), here)


def _interrupted(script: Script, here: Path) -> Verdict:
    for number in range(2):
        written_pid(here / f"busy-{number}")
    time.sleep(0.3)
    at, sent = time.monotonic(), 1
    script.interrupt()
    if script.wait(4.0) is None:
        sent = 2
        script.interrupt()
    code = script.wait(INTERRUPT_SECONDS - (time.monotonic() - at))
    seconds = time.monotonic() - at
    wait_until(lambda: script.others() == 0, 1.0)
    left, tracebacks = script.others(), script.err.count("Traceback (most recent call last)")
    took = f">{INTERRUPT_SECONDS:g} s" if code is None else f"{seconds:.1f} s"
    note = f"{tracebacks} printed, " + ("it still runs" if code is None else f"exit code {code}")
    text = f"{took}, {sent}x, {left} left"
    return Verdict(text, code is not None and seconds < 3 and tracebacks <= 1 and left == 0, f"tracebacks: {note}")


@make_row(ROWS, "sys.exit(4) in a task")
def exit_in_task(contender: Contender, _here: Path) -> Verdict:
    """A task calls sys.exit(4). Clean: its future has that SystemExit, or an error which names the 4; the client and
    the four other tasks are not harmed, and the next submit works.
    """
    pool = contender.make()
    beside = neighbours(contender, pool)
    outcome, *others = outcomes([submitted(lambda: contender.submit(pool, tasks.exit_with_four)), *beside])
    harmed = lost(others)
    if not outcome.is_done:
        problem = UNRESOLVED
    elif isinstance(outcome.error, SystemExit):
        problem = "" if outcome.error.code == 4 else "wrong code"
    else:
        problem = "" if "4" in outcome.text else "vague"
    if harmed:
        problem = f"{harmed} of 4 others lost"
    return conclude(contender, pool, problem, outcome.text, ok=type(outcome.error).__name__)


@make_row(ROWS, "warnings reach the parent")
def warnings_arrive(contender: Contender, _here: Path) -> Verdict:
    """A task causes a UserWarning. Clean: the client's warning filters get it once the result is there."""
    pool = contender.make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcome = outcome_of(lambda: contender.submit(pool, tasks.warn))
        arrived = wait_until(lambda: any("mind the gap" in str(warning.message) for warning in caught), 0.5)
    return Verdict("yes" if arrived else "no", arrived, outcome.text)
