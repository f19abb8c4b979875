"""Forks beside a pool and within its tasks harm neither side: the child ends as it likes, the pool goes on.

Each case is a script of its own. Python 3.12 and later warn of every fork of a process with threads; that is not the
subject here.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from . import clients
from .helpers import wait_until

HEAD = """
import concurrent.futures, gc, multiprocessing, operator, os, signal, subprocess, sys, threading, time
from concurrent.futures import ProcessPoolExecutor
from crew_executor import CrewExecutor, TaskTimeoutError, WorkerCrashError
def slowly(number):
    time.sleep(0.002)
    return number
def refusal(attempt, *arguments):
    try:
        attempt(*arguments)
    except RuntimeError as error:
        return "spawn" in str(error)
    return False
def use_another():
    with CrewExecutor(1) as other:
        return other.submit(operator.add, 2, 3).result(30)
def use_nng(executor):  # it writes what is more than a socket takes at once
    assert executor.submit(len, 3_000_000 * "x").result(30) == 3_000_000
def ends(pid):  # the exit code; None if the process hangs
    until = time.monotonic() + 20
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
class Traffic(threading.Thread):  # tasks in flight, all the time
    def __init__(self, executor):
        super().__init__(daemon=True)
        self.executor, self.is_over, self.batches = executor, threading.Event(), 0
        self.start()
    def run(self):
        while not self.is_over.is_set():
            assert list(self.executor.map(slowly, range(20), timeout=30)) == list(range(20))
            self.batches += 1
    def stop(self):
        self.is_over.set()
        self.join()
        assert self.batches, "the pool has not gone on"
"""

CHILDREN = """
def leave():
    sys.exit(3)
def return_to_the_end():
    return
def forget_the_executor():
    global executor
    del executor
    gc.collect()
def execute():
    os.execv(sys.executable, [sys.executable, "-c", "import sys; sys.exit(3)"])
def leave_a_block():
    with executor:
        sys.exit(3)
def leave_the_block_of_a_view():
    with executor.options(name="view") as view:
        view._open.add(pending)
        sys.exit(3)
def shut_down():
    executor.shutdown()
def show():
    assert str(os.getppid()) in repr(executor)
def submit():
    assert refusal(executor.submit, int)
def submit_to_a_view():
    assert refusal(executor.options(name="view").submit, int)
def use_map():
    assert refusal(executor.map, int, "123")
def ask_for_stats():
    assert refusal(executor.stats)
def kill_the_workers():
    assert refusal(executor.kill_workers) and refusal(executor.terminate_workers)
def make_another():
    assert use_another() == 5
def wait_for_a_result():
    assert refusal(pending.result) and refusal(pending.exception, 60)
    assert done.result() == 5
def cancel():
    pending.cancel()
def forget_a_map():
    global results
    del results
def run_a_thread():
    thread = threading.Thread(target=time.sleep, args=[0])
    thread.start()
    thread.join()
def start_a_program():
    assert subprocess.run([sys.executable, "-c", "print(7)"], stdout=subprocess.PIPE, check=True).stdout == b"7\\n"

children = [
    leave, return_to_the_end, forget_the_executor, execute, leave_a_block, leave_the_block_of_a_view, shut_down, show,
    submit, submit_to_a_view, use_map, ask_for_stats, kill_the_workers, make_another, wait_for_a_result, cancel,
    forget_a_map, run_a_thread, start_a_program,
]
bad = []
executor = CrewExecutor(2)
done = executor.submit(operator.add, 2, 3)
done.result()
traffic = Traffic(executor)
for child in children * 2:
    pending = executor.submit(slowly, 1)
    results = executor.map(slowly, range(5))
    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(3)
    code = ends(pid)
    if code != 3:
        bad.append((child.__name__, code))
    assert pending.result(30) == 1
    assert list(results) == list(range(5))
traffic.stop()
assert not bad, bad
executor.shutdown()
"""

POOLS = """
context = multiprocessing.get_context("fork")
def add_one(number):
    return number + 1
with CrewExecutor(2) as executor:
    traffic = Traffic(executor)
    for _ in range(3):
        queue = context.SimpleQueue()
        process = context.Process(target=queue.put, args=[5])
        process.start()
        assert queue.get() == 5
        process.join(20)
        assert process.exitcode == 0
        with context.Pool(2) as pool:
            assert pool.map(add_one, range(10)) == list(range(1, 11))
            pool.close()
            pool.join()
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(add_one, range(10))) == list(range(1, 11))
            assert pool.submit(use_another).result(30) == 5
        done = subprocess.run([sys.executable, "-c", "print(7)"], stdout=subprocess.PIPE, timeout=20)
        assert done.stdout == b"7\\n"
    traffic.stop()
"""

STORM = """
def fork_a_lot():
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            gc.collect()
            return  # the thread is the main thread of the child: it ends, and so does the process
        codes.append(ends(pid))
codes = []
with CrewExecutor(2) as executor:
    traffic = Traffic(executor)
    threads = [threading.Thread(target=fork_a_lot) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    from_a_callback = concurrent.futures.Future()
    def fork_in_a_callback(_future):
        pid = os.fork()
        if pid == 0:
            os._exit(3)
        from_a_callback.set_result(ends(pid))
    executor.submit(int).add_done_callback(fork_in_a_callback)
    assert from_a_callback.result(30) == 3
    traffic.stop()
assert codes == [0] * 60, codes
"""

IMPORTS = """
class Slow:  # cloudpickle's import is under way when the fork comes; without a lock over it the fork does not wait
    def find_spec(self, name, path=None, target=None):
        if name == "cloudpickle.cloudpickle":
            is_importing.set()
            has_forked.wait(0.5)
def add_by_value(executor):
    return executor.submit(lambda: 2 + 3).result(20)
def use_another_by_value():
    with CrewExecutor(1) as other:
        return add_by_value(other)
is_importing, has_forked = threading.Event(), threading.Event()
with CrewExecutor(1) as executor:
    executor.submit(int).result()
    assert "cloudpickle" not in sys.modules
    sys.meta_path.insert(0, Slow())
    thread = threading.Thread(target=add_by_value, args=[executor])
    thread.start()
    assert is_importing.wait(20)
    pid = os.fork()
    if pid == 0:
        sys.exit(use_another_by_value())
    has_forked.set()
    assert ends(pid) == 5
    thread.join()
"""

NNG_USERS = """
executor = CrewExecutor(1)
use_nng(executor)
pid = os.fork()
if pid == 0:
    assert refusal(CrewExecutor, 1)
    gc.collect()
    sys.exit(3)
assert ends(pid) == 3
context = multiprocessing.get_context("fork")
with ProcessPoolExecutor(2, mp_context=context) as pool:
    assert pool.submit(refusal, CrewExecutor, 1).result(20)
use_nng(executor)
executor.shutdown()
"""

UNUSED = """
executor = CrewExecutor(1)  # no worker was ever started
pid = os.fork()
if pid == 0:
    assert use_another() == 5
    assert refusal(executor.submit, int)
    sys.exit(3)
assert ends(pid) == 3
assert executor.submit(operator.add, 2, 3).result(20) == 5
executor.shutdown()
"""

NESTED = """
def use_pools(method):
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        first = list(pool.map(operator.mul, range(5), range(5)))
        made = pool.submit(eval, "__import__('crew_executor').CrewExecutor(1).submit(pow, 2, 3).result()")
        assert made.result(30) == 8
    with context.Pool(2) as pool:
        second = pool.starmap(operator.mul, zip(range(5), range(5)))
    left_behind.append(ProcessPoolExecutor(1, mp_context=context))
    return first == second == list(left_behind[-1].map(operator.mul, range(5), range(5)))
left_behind = []
with CrewExecutor(2) as executor:
    traffic = Traffic(executor)
    for method in "fork", "spawn", "forkserver":
        for _ in range(2):
            assert executor.submit(use_pools, method).result(50), method
    traffic.stop()
"""

CREW_IN_CREW = """
def nest(depth):
    with CrewExecutor(2) as inner:
        numbers = list(inner.map(slowly, range(20)))
        return [numbers == list(range(20)), *(inner.submit(nest, depth - 1).result(30) if depth else ())]
def use_one_that_stays():
    if not kept:
        kept.append(CrewExecutor(1))
    return kept[0].submit(operator.add, 2, 3).result(30)
def hold(then):
    with CrewExecutor(2) as inner:
        futures = [inner.submit(time.sleep, 600) for _ in range(2)]
        while inner.stats().running < 2:
            time.sleep(0.005)
        then(futures)
def wait(futures):
    futures[0].result()
def die(futures):
    os.kill(os.getpid(), signal.SIGKILL)
kept = []
with CrewExecutor(2) as executor:
    assert executor.submit(nest, 2).result(50) == [True] * 3
    assert [executor.submit(use_one_that_stays).result(50) for _ in range(4)] == [5] * 4
    assert type(executor.submit(hold, die).exception(50)) is WorkerCrashError
    assert type(executor.options(timeout=2).submit(hold, wait).exception(50)) is TaskTimeoutError
    assert executor.submit(operator.add, 2, 3).result(30) == 5
"""

HELD = """
executor = CrewExecutor(1)
pending = [executor.submit(time.sleep, 0.3) for _ in range(2)][1]
is_held, may_go = threading.Event(), threading.Event()
def hold():  # as any thread of ours does now and then
    with executor._dispatcher._lock:
        is_held.set()
        may_go.wait()
thread = threading.Thread(target=hold)
thread.start()
is_held.wait()
pid = os.fork()
if pid == 0:
    pending.cancel()
    os._exit(3)
code = ends(pid)
may_go.set()
thread.join()
assert code == 3, "the child waits for a lock of its parent's"
pending.result()
executor.shutdown()
"""

SCRIPTS = {
    "children of a client": CHILDREN,
    "pools of a client": POOLS,
    "many forks at once": STORM,
    "a thread that imports": IMPORTS,
    "children of a client that has used NNG": NNG_USERS,
    "an executor that was not used": UNUSED,
    "a cancel while a thread of the client decides": HELD,
    "pools of a task": NESTED,
    "executors of a task": CREW_IN_CREW,
}


@pytest.mark.parametrize("body", SCRIPTS.values(), ids=list(SCRIPTS))
def test_a_script(body: str) -> None:
    mark = clients.new_mark()
    strict = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    try:
        done = subprocess.run(
            [sys.executable, *strict, "-c", HEAD + body],
            capture_output=True, text=True, timeout=55, check=False, env={**os.environ, **dict([mark])},
        )  # fmt: skip

        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        wait_until(lambda: not clients.family_of(mark), "no process of the script is left", 10)
    finally:
        clients.kill_family(mark)
