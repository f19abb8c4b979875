"""A Ctrl-C in the middle of a call, at each moment where CPython looks for signals: the pool stays usable.

In a shell or a notebook the program goes on after a Ctrl-C. Where it hits is luck, so a script tries all places: a
profile function sends the signal at the first, the second, the third ... of them, and after each the pool must still
answer. Only moments in code of ours count; the standard library's threads and conditions have weak spots of their own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from crew_executor import CrewExecutor, CrewFuture

from .helpers import make, wait_until

SCRIPT = """
import operator, os, signal, sys, threading, time
from crew_executor import CrewExecutor

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored

def interrupt(call, number):
    # Run a call with a Ctrl-C at its number-th moment, and return that place; None: it has not so many.
    left, place = number, None

    def look(frame, event, argument):
        nonlocal left, place
        if event in ("call", "c_return") and "/crew_executor/" in frame.f_code.co_filename:
            left -= 1
            if left == -1:
                after = getattr(argument, "__qualname__", "the start")
                file = os.path.basename(frame.f_code.co_filename)
                place = f"{file}:{frame.f_lineno}, in {frame.f_code.co_name}(), after {after}"
                signal.raise_signal(signal.SIGINT)

    try:
        sys.setprofile(look)
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return place

def expect(check, place):
    # Waits may be endless when something is broken: check in a thread that can be left behind.
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(check()), daemon=True)
    thread.start()
    thread.join(10)
    if outcome != [True]:
        print(f"broken by a Ctrl-C at {place}; the check {'says ' + str(outcome) if outcome else 'hangs or failed'}")
        sys.stdout.flush()
        os._exit(1)

def is_usable(executor):
    while (stats := executor.stats()).queued or stats.running:
        time.sleep(0.001)
    return executor.submit(operator.add, 1, 1).result() == 2

def are_over(futures):
    for future in futures:
        future.cancelled() or future.exception()
    return True

def warm():
    executor = CrewExecutor(1)
    executor.submit(int).result()
    return executor

def naps(executor):
    return [executor.submit(time.sleep, 0.005) for _ in range(4)]

# What is interrupted: each function returns an executor, the call, and the check that follows.

def first_submit():
    executor = CrewExecutor(1)
    return executor, lambda: executor.submit(int), lambda: is_usable(executor)

def submit_to_an_idle_worker(executor):
    return executor, lambda: executor.submit(int), lambda: is_usable(executor)

def submit_to_the_queue(executor):
    futures = naps(executor)
    return executor, lambda: executor.submit(int), lambda: are_over(futures) and is_usable(executor)

def map_and_wait(executor):
    return executor, lambda: list(executor.map(abs, [1, 2])), lambda: is_usable(executor)

def cancel(executor):
    futures = naps(executor)
    return executor, futures[-1].cancel, lambda: are_over(futures) and is_usable(executor)

def result(executor):
    future = executor.submit(int)
    while not future.done():
        time.sleep(0.0001)
    return executor, future.result, lambda: future.result() == 0 and is_usable(executor)

def shutdown():
    executor = warm()
    futures = naps(executor)
    return executor, executor.shutdown, lambda: (executor.shutdown(), are_over(futures))[1]

def shutdown_and_cancel():
    executor = warm()
    futures = naps(executor)
    call = lambda: executor.shutdown(cancel_futures=True)
    return executor, call, lambda: (call(), are_over(futures))[1]

def kill_workers():
    executor = warm()
    futures = naps(executor)
    return executor, executor.kill_workers, lambda: (executor.kill_workers(), executor.shutdown(), are_over(futures))[2]

prepare = globals()[sys.argv[1]]
arguments = [warm()] if prepare.__code__.co_argcount else []  # a pool that is never broken can serve for all moments
number = 0
while True:
    executor, call, check = prepare(*arguments)
    place = interrupt(call, number)
    expect(check, place)
    number += 1
    if not arguments:
        executor.shutdown()
    if place is None:
        break
print("moments:", number > 5)
"""

CALLS = [
    "first_submit", "submit_to_an_idle_worker", "submit_to_the_queue", "map_and_wait", "cancel", "result",
    "shutdown", "shutdown_and_cancel", "kill_workers",
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_ctrl_c_at_any_moment_of_a_call_leaves_a_usable_pool(call: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, call], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "moments: True\n"


IMPORTS = """
import concurrent.futures, os, sys, threading, time
from crew_executor import CrewExecutor

seen = []

class Finder:  # asked for each module that is not there yet
    @staticmethod
    def find_spec(name, path=None, target=None):
        if threading.current_thread().name.startswith("crew-"):
            seen.append(name)

def fail():
    raise LookupError("with frames")

sys.meta_path.insert(0, Finder)
with CrewExecutor(2) as executor:
    view = executor.options(timeout=60, retries=1, crash_retries=1, cancel_running=True)
    stopped = view.submit(time.sleep, 600)
    while not stopped.running():
        time.sleep(0.001)
    stopped.cancel()
    futures = [executor.submit(int), executor.submit(fail), view.submit(fail), executor.submit(os._exit, 1)]
    futures += [executor.submit(time.sleep, 0.01) for _ in range(20)]
    futures[0].add_done_callback(lambda future: None)
    executor.submit(len, bytes(10**6))
    executor.submit(len, 10**6 * "x")
    concurrent.futures.wait([stopped, *futures])
print("imported by threads of ours:", seen)
"""


def test_no_thread_of_ours_imports_anything() -> None:
    """A Ctrl-C in an import of the main thread may leave CPython's import lock locked: who imports then, hangs."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "imported by threads of ours: []\n"


def test_futures_left_locked_by_an_interrupted_wait_stop_nobody() -> None:
    """concurrent.futures.wait() locks all of its futures in a loop; a Ctrl-C there leaves some of them locked."""
    with CrewExecutor(1) as executor:
        futures = [executor.submit(int) for _ in range(100)]
        for future in futures:
            future._condition.acquire()

        assert executor.submit(abs, -1).result(10) == 1
        assert [future.result(10) for future in futures] == [0] * 100
        assert executor.submit(abs, -1).result(10) == 1


class _InterruptsItsReader:
    """An object whose unpickling is interrupted when it is tried for the first time."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_open_at_the_second_try, ())


_tries: list[str] = []


def _open_at_the_second_try() -> str:
    _tries.append("try")
    if len(_tries) == 1:
        raise KeyboardInterrupt
    return "opened"


def _ask(future: CrewFuture[str]) -> str:
    try:
        return future.result()
    except KeyboardInterrupt:  # would end the whole run of the tests
        return "interrupted"


def test_a_ctrl_c_while_a_result_is_unpickled_does_not_become_the_result() -> None:
    _tries.clear()
    with CrewExecutor(1) as executor:
        future = executor.submit(make, _InterruptsItsReader)
        wait_until(future.done, "the task is done")

        assert [_ask(future), _ask(future)] == ["interrupted", "opened"]
        assert future.record().status == "success"
