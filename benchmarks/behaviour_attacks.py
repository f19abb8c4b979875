"""The rows of behaviour.py in which something goes wrong that few think of, and in which pools differ.

Each function is one row; its docstring is the definition that is printed beneath the table, and says what is clean.
behaviour_ends.py has those about processes, locks and the ends of pools.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import Future, as_completed
from concurrent.futures import TimeoutError as FuturesTimeoutError  # another class than the built-in before 3.11
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

LARGE = 200_000_000
NOT_OFFERED = Verdict("not offered", is_clean=None)


@make_row(ROWS, "worker dies unpickling the call")
def dies_unpickling_call(contender: Contender, _here: Path) -> Verdict:
    """The `__setstate__` of an argument ends the worker. Clean: that future fails, the four other tasks are right, and
    the next submit works.
    """
    pool = contender.make()
    beside = neighbours(contender, pool)
    future = submitted(lambda: contender.submit(pool, tasks.echo, tasks.ExitsInWorker()))
    return _failing_verdict(contender, pool, outcomes([future, *beside]))


@make_row(ROWS, "exception that kills its unpickler")
def exception_kills_unpickler(contender: Contender, _here: Path) -> Verdict:
    """A task raises an exception that ends whatever process unpickles it. Clean: the client lives, that future fails,
    the four other tasks are right, and the next submit works.
    """
    pool = contender.make()
    beside = neighbours(contender, pool)
    future = submitted(lambda: contender.submit(pool, tasks.raise_exits_when_unpickled))
    return _failing_verdict(contender, pool, outcomes([future, *beside]))


@make_row(ROWS, "result that cannot be unpickled")
def result_fails_to_unpickle(contender: Contender, _here: Path) -> Verdict:
    """A task returns what can be pickled, but not unpickled. Clean: that future raises an error, the four other tasks
    are right, and the next submit works.
    """
    pool = contender.make()
    beside = neighbours(contender, pool)
    future = submitted(lambda: contender.submit(pool, tasks.make_fails_to_unpickle))
    return _failing_verdict(contender, pool, outcomes([future, *beside]))


@make_row(ROWS, "result nested too deeply")
def nested_result(contender: Contender, _here: Path) -> Verdict:
    """A task returns a list nested 100,000 deep, which pickle cannot follow. Clean: that future raises an error, the
    four other tasks are right, and the next submit works.
    """
    pool = contender.make()
    beside = neighbours(contender, pool)
    future = submitted(lambda: contender.submit(pool, tasks.make_nested, 100_000))
    return _failing_verdict(contender, pool, outcomes([future, *beside]))


@make_row(ROWS, "worker killed while it sends 200 MB")
def killed_while_sending(contender: Contender, _here: Path) -> Verdict:
    """A worker gets SIGKILL while its result of 200 MB is on its way. Clean: that future fails, four tasks submitted
    then are right, and the next submit works.
    """
    pool = contender.make()
    warm_up(contender, pool)
    future = contender.submit(pool, tasks.die_while_sending, LARGE)
    time.sleep(1.0)
    return _failing_verdict(contender, pool, outcomes([future, *neighbours(contender, pool)]))


def _failing_verdict(contender: Contender, pool: Any, found: list[Outcome]) -> Verdict:
    """Make the verdict of a row in which the first future must fail, and its four neighbours must not."""
    outcome, harmed = found[0], lost(found[1:])
    problem = UNRESOLVED if not outcome.is_done else "no error" if outcome.error is None else ""
    note = words(outcome.error) if outcome.error is not None else problem
    if harmed:
        problem = problem or f"{harmed} of 4 others lost"
        note += f"; {harmed} of 4 others lost"
    return conclude(contender, pool, problem, note)


@make_row(ROWS, "exception that counts as false")
def falsy_exception(contender: Contender, _here: Path) -> Verdict:
    """A task raises an exception whose `__bool__` returns False. Clean: result() raises it."""
    pool = contender.make()
    try:
        value = contender.submit(pool, tasks.raise_falsy).result(RESOLVE_SECONDS)
    except tasks.Falsy:
        return conclude(contender, pool, "", "")
    except FuturesTimeoutError:
        return conclude(contender, pool, UNRESOLVED, "")
    except BaseException as error:
        return conclude(contender, pool, "wrong type", words(error))
    return conclude(contender, pool, "ERROR LOST", f"result() returns {value!r}")


@make_row(ROWS, "exception with an unpicklable attribute")
def unpicklable_exception(contender: Contender, _here: Path) -> Verdict:
    """A task raises an exception that holds a lock. Clean: what the future raises, or one of its causes, names that
    exception's class and its message, and the next submit works.
    """
    pool = contender.make()
    outcome = outcome_of(lambda: contender.submit(pool, tasks.raise_holds_a_lock))
    said = all_words(outcome.error)
    is_told = "HoldsALock" in said and "the disk is full" in said
    problem = "" if is_told else "NOT TOLD" if outcome.is_done else UNRESOLVED
    return conclude(contender, pool, problem, outcome.text, ok="told")


@make_row(ROWS, "argument changed after submit()")
def argument_changed(contender: Contender, _here: Path) -> Verdict:
    """Ten tasks of 0.1 s get a list each; when all are submitted, the client appends to every list. Clean: all ten get
    the list as it was at its submit().
    """
    pool = contender.make()
    lists: list[list[object]] = [[number] for number in range(10)]
    futures = [contender.submit(pool, tasks.nap, value, 0.1) for value in lists]
    for value in lists:
        value.append("changed")
    right = sum(outcome.value == [number] for number, outcome in enumerate(outcomes(futures)))
    return Verdict(f"{right} of 10 as submitted", right == 10)


@make_row(ROWS, "keywords named as the pool's own")
def keywords_reach_function(contender: Contender, _here: Path) -> Verdict:
    """A task has keyword arguments named timeout, retries, name, priority, fn, function, self, args and kwargs. Clean:
    the function gets all of them.
    """
    pool = contender.make()
    names = ("timeout", "retries", "name", "priority", "fn", "function", "self", "args", "kwargs")
    keywords = {name: index for index, name in enumerate(names)}
    outcome = outcome_of(lambda: contender.submit(pool, tasks.echo_keywords, **keywords))
    if outcome.value == keywords:
        problem = ""
    elif outcome.error is not None:
        problem = "refused" if isinstance(outcome.error, TypeError) else "fails"
    else:
        problem = "taken away" if outcome.is_done else UNRESOLVED
    return conclude(contender, pool, problem, outcome.text)


@make_row(ROWS, "crash error names signal and task")
def crash_is_explained(contender: Contender, _here: Path) -> Verdict:
    """A task's worker is killed by SIGKILL. Clean: the error, with its attributes and causes, names the signal (or -9)
    and the task's function.
    """
    pool = contender.make()
    error = outcome_of(lambda: contender.submit(pool, tasks.kill_self)).error
    if error is None:
        return Verdict(UNRESOLVED, is_clean=False)
    said = all_words(error)
    names_signal, names_task = "SIGKILL" in said or "-9" in said, "kill_self" in said
    named = [name for name, is_named in (("signal", names_signal), ("task", names_task)) if is_named]
    return Verdict(" and ".join(named) or "neither", names_signal and names_task, words(error))


@make_row(ROWS, "initializer's own error is told")
def initializer_fails(contender: Contender, _here: Path) -> Verdict:
    """The initializer raises a ValueError. Clean: futures fail, and the ValueError's text is in their exception or in
    one of its causes.
    """
    pool = contender.make(initializer=tasks.fail_to_initialize)
    outcome = outcome_of(lambda: contender.submit(pool, tasks.double, 1))
    if not outcome.is_done:
        return Verdict(UNRESOLVED, is_clean=False)
    is_told = "no licence found" in all_words(outcome.error)
    return Verdict("told" if is_told else "NOT TOLD", is_told, outcome.text)


@make_row(ROWS, "200 MB beside small tasks")
def large_beside_small(contender: Contender, _here: Path) -> Verdict:
    """A task gets 200 MB and returns them, while small tasks make round trips. Clean: all results are right, and no
    small task takes longer than 1 s.
    """
    pool, data = contender.make(), os.urandom(1000) * (LARGE // 1000)
    warm_up(contender, pool)
    at = time.monotonic()
    large = contender.submit(pool, tasks.echo, data)
    submitted = time.monotonic() - at
    slowest, number = 0.0, 0
    while not large.done() and time.monotonic() < at + RESOLVE_SECONDS:
        began = time.monotonic()
        outcome = outcomes([contender.submit(pool, tasks.double, number)], RESOLVE_SECONDS)[0]
        if outcome.value != 2 * number:
            return Verdict("small ones lost", is_clean=False, note=outcome.text)
        slowest, number = max(slowest, time.monotonic() - began), number + 1
        time.sleep(0.005)  # the small tasks must not be what keeps the large one waiting
    found = outcomes([large], NEXT_SECONDS)[0]
    if not found.is_done or found.value != data:
        return Verdict(UNRESOLVED if not found.is_done else "wrong result", is_clean=False, note=found.text[:80])
    seconds = time.monotonic() - at
    note = f"the large one took {seconds:.1f} s, its submit() {submitted:.2f} s; {number:,} small ones meanwhile"
    return Verdict(f"slowest {slowest:.2f} s", slowest <= 1.0, note)


@make_row(ROWS, "time limit of a task that holds the GIL")
def limit_with_gil_held(contender: Contender, here: Path) -> Verdict:
    """One of two workers runs a task in C code that never lets go of the interpreter lock and has a time limit of 1 s.
    Clean: a TimeoutError, the worker does other work within a second of the limit, and its neighbour's task is right.
    """
    pool, began = contender.make(), here / "began"
    warm_up(contender, pool)
    try:
        submit = contender.submit_with(pool, timeout=1.0)
    except NotOffered:
        return NOT_OFFERED
    beside = contender.submit(pool, tasks.nap, 0, 6.0)
    stuck = submit(tasks.hold_the_interpreter_lock, str(began))
    assert wait_until(began.exists, NEXT_SECONDS), "the task did not start"
    at = time.monotonic()
    following = outcomes([contender.submit(pool, tasks.double, 1)], 10.0)[0]
    freed = time.monotonic() - at
    outcome, harmed = outcomes([stuck], 1.0)[0], lost(outcomes([beside], 8.0))
    if not outcome.is_done:
        problem = UNRESOLVED
    elif not isinstance(outcome.error, (TimeoutError, FuturesTimeoutError)):
        problem = "wrong type"
    elif harmed or following.value != 2:
        problem = "neighbour lost"
    else:
        problem = "" if freed <= 2.0 else f"free after {freed:.1f} s"
    return conclude(contender, pool, problem, outcome.text, ok=f"free after {freed:.1f} s")


@make_row(ROWS, "asyncio.wait_for() frees the worker")
def wait_for_frees_worker(contender: Contender, here: Path) -> Verdict:
    """A coroutine gives up on run_in_executor() after 0.5 s, the task would run for 4 s on the only worker. Clean: the
    worker does other work within 2 s, and the task's side effect does not happen.
    """
    pool, began, ended = contender.make(1), here / "began", here / "ended"
    warm_up(contender, pool, 1)

    async def give_up() -> None:
        task = contender.in_loop(pool, tasks.touch_nap_touch, str(began), str(ended), 4.0)
        await asyncio.wait_for(task, 0.5)

    try:
        asyncio.run(give_up())
    except (TimeoutError, asyncio.TimeoutError):
        pass
    else:
        return Verdict("no TimeoutError", is_clean=False)
    at = time.monotonic()
    following = outcomes([contender.submit(pool, tasks.double, 1)])[0]
    seconds = time.monotonic() - at
    if following.value != 2:
        return Verdict(UNRESOLVED, is_clean=False, note=following.text)
    is_clean = seconds <= 2.0 and not ended.exists()
    return Verdict(f"{'free after' if is_clean else 'RUNS ON for'} {seconds:.1f} s", is_clean)


@make_row(ROWS, "callback raises SystemExit")
def callback_raises(contender: Contender, _here: Path) -> Verdict:
    """A done-callback calls sys.exit(). Clean: that future's result and those of four others are right, and the next
    submit works.
    """
    pool = contender.make()

    def leave(_future: Future[Any]) -> None:
        raise SystemExit(5)

    first = contender.submit(pool, tasks.nap, 0, 0.2)
    first.add_done_callback(leave)
    harmed = lost(outcomes([first])) + lost(outcomes(neighbours(contender, pool), NEXT_SECONDS))
    return conclude(contender, pool, f"{harmed} of 5 lost" if harmed else "", "")


@make_row(ROWS, "callback waits for another task")
def callback_waits(contender: Contender, _here: Path) -> Verdict:
    """A done-callback submits another task and waits for its result for up to 2 s. Clean: it gets it, and the next
    submit works.
    """
    pool, got = contender.make(), threading.Event()
    found: list[str] = []
    warm_up(contender, pool)

    def ask(_future: Future[Any]) -> None:
        found.append(outcome_of(lambda: contender.submit(pool, tasks.double, 21), 2.0).text)
        got.set()

    contender.submit(pool, tasks.nap, 0, 0.2).add_done_callback(ask)
    is_over = got.wait(RESOLVE_SECONDS)
    problem = "" if is_over and found == ["42"] else "DEADLOCK"
    return conclude(contender, pool, problem, f"the callback got {found[0] if found else 'nothing'}")


@make_row(ROWS, "cancelling shutdown wakes waiters")
def cancelling_wakes(contender: Contender, _here: Path) -> Verdict:
    """A thread is in as_completed() over 22 futures when shutdown(cancel_futures=True) is called with two of them
    running for 1 s. Clean: the thread gets all 22 within 3 s.
    """
    pool, got = contender.make(), set()
    futures = [contender.submit(pool, tasks.nap, index, 1.0) for index in range(22)]

    def collect() -> None:
        try:
            for future in as_completed(futures, timeout=3.0):
                got.add(future)
        except FuturesTimeoutError:
            pass

    waiter = threading.Thread(target=collect, daemon=True)
    waiter.start()
    time.sleep(0.5)
    try:
        contender.cancel_waiting(pool)
    except NotOffered:
        return NOT_OFFERED
    waiter.join(4.0)
    cancelled = sum(future.cancelled() for future in futures)
    note = f"{cancelled} futures are cancelled, {sum(future.done() for future in futures)} done"
    return Verdict(f"{len(got)} of 22 told", len(got) == 22, note)


@make_row(ROWS, "frozen worker, then killed")
def frozen_worker(contender: Contender, here: Path) -> Verdict:
    """A task stops its worker by SIGSTOP; then 100 small tasks are submitted, then the worker gets SIGKILL. Clean: the
    hundred are done within 5 s while it is frozen, its future fails, and the next submit works.
    """
    pool = contender.make()
    warm_up(contender, pool)
    future = contender.submit(pool, tasks.freeze, str(here / "frozen"))
    pid = written_pid(here / "frozen")
    time.sleep(0.2)
    small = [contender.submit(pool, tasks.double, number) for number in range(100)]
    found = outcomes(small, 5.0)
    late = sum(not outcome.is_done or outcome.value != 2 * number for number, outcome in enumerate(found))
    os.kill(pid, signal.SIGKILL)
    outcome = outcomes([future], 10.0)[0]
    problem = f"{late} of 100 stuck" if late else ""
    if not outcome.is_done or outcome.error is None:
        problem = UNRESOLVED
    return conclude(contender, pool, problem, outcome.text)


@make_row(ROWS, "1000 tasks, a worker killed: run twice")
def run_twice(contender: Contender, here: Path) -> Verdict:
    """From outside, a worker gets SIGKILL amid 1000 tasks of 2 ms that each write a line. Clean: no task ran twice, at
    least 999 results are right, and the next submit works.
    """
    pool, log = contender.make(), here / "log"
    futures = [contender.submit(pool, tasks.log_line, str(log), number, 0.002) for number in range(1000)]
    assert wait_until(lambda: log.exists() and log.read_text().count("\n") > 300, RESOLVE_SECONDS), "they do not run"
    os.kill(int(log.read_text().splitlines()[-1].split()[1]), signal.SIGKILL)
    found = outcomes(futures)
    right = sum(outcome.error is None and outcome.value == number for number, outcome in enumerate(found))
    unresolved = sum(not outcome.is_done for outcome in found)
    ran = [int(line.split()[0]) for line in log.read_text().splitlines()]
    twice = len(ran) - len(set(ran))
    text = f"{twice} twice, {right} ok" + (f", {unresolved} {UNRESOLVED}" if unresolved else "")
    note = next((words(outcome.error) for outcome in found if outcome.error is not None), "no task failed")
    return conclude(contender, pool, "" if twice == 0 and right >= 999 else text, note, ok=text)


@make_row(ROWS, "crashed task is tried again if asked")
def crash_retried(contender: Contender, here: Path) -> Verdict:
    """A task kills its worker the first time it runs, and has one retry after crashes. Clean: the second attempt's
    result comes, and the next submit works.
    """
    pool = contender.make()
    try:
        submit = contender.submit_with(pool, crash_retries=1)
    except NotOffered:
        return NOT_OFFERED
    outcome = outcome_of(lambda: submit(tasks.die_the_first_time, str(here / "first")))
    problem = "" if outcome.value == "second attempt" else "not tried again" if outcome.is_done else UNRESOLVED
    return conclude(contender, pool, problem, outcome.text)
