"""The rows of behaviour.py about what surrounds a task: its processes, descriptors, locks and state, and a pool's end.

Each function is one row; its docstring is the definition that is printed beneath the table, and says what is clean.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import time
from pathlib import Path

import behaviour_tasks as tasks
from behaviour_contenders import Contender, NotOffered
from behaviour_measure import (
    CELL_MARK,
    NEXT_SECONDS,
    POOL_DEAD,
    RESOLVE_SECONDS,
    UNRESOLVED,
    Row,
    Script,
    Verdict,
    conclude,
    is_alive,
    lost,
    make_row,
    neighbours,
    outcome_of,
    outcomes,
    wait_until,
    warm_up,
    written_pid,
)
from leftovers import marked

ROWS: dict[str, Row] = {}

ORPHAN_SECONDS = 5.0
NOT_OFFERED = Verdict("not offered", is_clean=None)


@make_row(ROWS, "workers replaced after 2 tasks")
def recycling(contender: Contender, _here: Path) -> Verdict:
    """Each worker is replaced after two tasks (max_tasks_per_child), 20 tasks are submitted at once. Clean: all results
    are right, and at least 8 processes ran them.
    """
    try:
        pool = contender.make_recycling(2)
    except NotOffered:
        return NOT_OFFERED
    found = outcomes([contender.submit(pool, tasks.pid_after, 0.01) for _ in range(20)])
    pids = {outcome.value for outcome in found if outcome.is_done and outcome.error is None}
    unresolved = sum(not outcome.is_done for outcome in found)
    failed = sum(outcome.error is not None for outcome in found)
    if unresolved:
        problem = f"{unresolved} of 20 {UNRESOLVED}"
    elif failed:
        problem = f"{failed} of 20 failed"
    else:
        problem = "" if len(pids) >= 8 else "not replaced"
    return conclude(contender, pool, problem, f"{len(pids)} processes")


@make_row(ROWS, "task closes all descriptors")
def closes_descriptors(contender: Contender, _here: Path) -> Verdict:
    """A task closes every descriptor of its worker but the standard three. Clean: its future has the result or an
    error, the four other tasks are right, and the next submit works.
    """
    pool = contender.make()
    warm_up(contender, pool)
    future = contender.submit(pool, tasks.close_descriptors)
    outcome, *others = outcomes([future, *neighbours(contender, pool)])
    harmed = lost(others)
    problem = UNRESOLVED if not outcome.is_done else f"{harmed} of 4 others lost" if harmed else ""
    return conclude(contender, pool, problem, outcome.text)


@make_row(ROWS, "task forks, and its child returns")
def fork_returns(contender: Contender, _here: Path) -> Verdict:
    """A task calls os.fork(), and both processes return from it. Clean: the future has the worker's own value, twenty
    tasks after it are right, no process more is left after 2 s, and shutdown() ends within 3 s.
    """
    pool = contender.make()
    warm_up(contender, pool)
    before = _processes_of_this_cell()
    outcome = outcome_of(lambda: contender.submit(pool, tasks.fork_and_return))
    wrong = [result for number, result in enumerate(_doubles(contender, pool)) if result != str(2 * number)]
    if not outcome.is_done:
        problem = UNRESOLVED
    elif outcome.error is not None or outcome.value[0] != outcome.value[1]:
        problem = "wrong result"
    elif wrong:
        problem = f"{len(wrong)} of 20 wrong"
    else:
        is_gone = wait_until(lambda: _processes_of_this_cell() <= before, 2.0)
        problem = "" if is_gone else "child works on"
    closing = threading.Thread(target=contender.shutdown, args=(pool,), daemon=True)
    closing.start()
    closing.join(3.0)
    if closing.is_alive():
        problem = ", ".join(filter(None, (problem, "shutdown hangs")))
    return Verdict(problem or "ok", not problem, outcome.text)


def _processes_of_this_cell() -> int:
    return sum(1 for _ in marked(CELL_MARK, os.environ[CELL_MARK]))


def _doubles(contender: Contender, pool: object) -> list[str]:
    try:
        futures = [contender.submit(pool, tasks.double, number) for number in range(20)]
    except BaseException:
        return [POOL_DEAD] * 20
    return [outcome.text for outcome in outcomes(futures, NEXT_SECONDS)]


CHILDREN_SCRIPT = """
if __name__ == "__main__":
    pool = contender.make()
    futures = [contender.submit(pool, tasks.start_a_child, f"{here}/child-{number}") for number in range(2)]
    futures[0].result()
"""


@make_row(ROWS, "parent SIGKILLed: tasks' children left")
def grandchildren(contender: Contender, here: Path) -> Verdict:
    """A program is killed while its two tasks each wait for a program that they have started. Clean: within 5 s both
    of these are gone as well.
    """
    script = Script(contender, here, CHILDREN_SCRIPT)
    pids = [written_pid(here / f"child-{number}") for number in range(2)]
    script.kill()
    is_clean = wait_until(lambda: not any(is_alive(pid) for pid in pids), ORPHAN_SECONDS)
    return Verdict(f"{sum(is_alive(pid) for pid in pids)} of 2 left", is_clean)


NO_SHUTDOWN_SCRIPT = """
if __name__ == "__main__":
    pool = contender.make()
    for number in range(4):
        contender.submit(pool, tasks.nap_and_touch, f"{here}/done-{number}", 0.3)
"""


@make_row(ROWS, "script ends without shutdown")
def no_shutdown(contender: Contender, here: Path) -> Verdict:
    """A script submits four tasks and ends, without waiting and without shutdown. Clean, as with concurrent.futures:
    all four are run, it exits with 0 within 10 s, and no process is left 2 s later.
    """
    script = Script(contender, here, NO_SHUTDOWN_SCRIPT)
    code = script.wait(10.0)
    is_empty = wait_until(lambda: script.others() == 0, 2.0)
    done = sum((here / f"done-{number}").exists() for number in range(4))
    text = f"{done} of 4 run" + ("" if code is not None else ", does not exit")
    if not is_empty:
        text += f", {script.others()} left"
    return Verdict(text, done == 4 and code == 0 and is_empty, f"exit code {code}")


SIGNAL_SCRIPT = """
import os, signal
if __name__ == "__main__":
    pool, beside = contender.make(), []
    contender.submit(pool, tasks.double, 1).result()

    def handle(*_):
        beside.append(contender.submit(pool, tasks.double, 1))
        if len(beside) < 200:
            signal.setitimer(signal.ITIMER_REAL, 0.0005)

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    futures = []
    while len(beside) < 200:
        futures.append(contender.submit(pool, tasks.double, 1))
    print({future.result() for future in futures + beside})
    os._exit(0)
"""


@make_row(ROWS, "submit() in a signal handler")
def submit_in_handler(contender: Contender, here: Path) -> Verdict:
    """A signal handler calls submit() 200 times while the main thread is busy with submit(). Clean: all results are
    right within 4 s.
    """
    script = Script(contender, here, SIGNAL_SCRIPT)
    code = script.wait(4.0)
    if code is None:
        return Verdict("DEADLOCK", is_clean=False)
    return Verdict("ok" if script.out.strip() == "{2}" else "fails", script.out.strip() == "{2}", f"exit code {code}")


FORKING_SCRIPT = """
import os, sys, time
if __name__ == "__main__":
    pool = contender.make()
    futures = [contender.submit(pool, tasks.nap, number, 0.3) for number in range(8)]
    time.sleep(0.5)
    child = os.fork()
    if child == 0:
        sys.exit(0)
    until = time.monotonic() + 5
    while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < until:
        time.sleep(0.02)
    print("child ended" if ended else "child hangs", flush=True)
    print([future.result(5) for future in futures] == list(range(8)), flush=True)
    print(contender.submit(pool, tasks.double, 21).result(5), flush=True)
    os._exit(0)
"""


@make_row(ROWS, "client forks, the child exits")
def client_forks(contender: Contender, here: Path) -> Verdict:
    """A client with a busy pool calls os.fork(), and the child ends by sys.exit(). Clean: the child ends within 5 s,
    and the parent's eight tasks and its next one are right.
    """
    script = Script(contender, here, FORKING_SCRIPT)
    script.wait(RESOLVE_SECONDS)
    lines = script.out.split("\n")
    if lines[:1] != ["child ended"]:
        return Verdict("child hangs", is_clean=False)
    if lines[1:3] == ["True", "42"]:
        return Verdict("ok", is_clean=True)
    last = (script.err.strip().splitlines() or ["no result in time"])[-1][:120]
    return Verdict("tasks lost" if lines[1:2] != ["True"] else POOL_DEAD, is_clean=False, note=last)


@make_row(ROWS, "all of the pool's processes killed")
def all_killed(contender: Contender, _here: Path) -> Verdict:
    """Every process that the pool has brought about, helpers included, gets SIGKILL while two tasks run and six wait.
    Clean: the six are right, and the next submit works.
    """
    pool = contender.make()
    warm_up(contender, pool)
    running = [contender.submit(pool, tasks.nap, number, 2.0) for number in range(2)]
    time.sleep(0.3)
    waiting = [contender.submit(pool, tasks.double, number) for number in range(6)]
    victims = [process for process in marked(CELL_MARK, os.environ[CELL_MARK]) if process.pid != os.getpid()]
    for process in victims:
        process.kill()
    found = outcomes([*waiting, *running])
    right = sum(outcome.value == 2 * number for number, outcome in enumerate(found[:6]))
    problem = f"{right} of 6 ok" if right < 6 else ""
    if any(not outcome.is_done for outcome in found):
        problem = UNRESOLVED
    return conclude(contender, pool, problem, f"{len(victims)} killed; a running one: {found[-1].text}")


@make_row(ROWS, "task leaves a thread that never ends")
def thread_left(contender: Contender, _here: Path) -> Verdict:
    """A task returns and leaves a thread behind that is no daemon and never ends. Clean: shutdown() ends within 8 s,
    and the worker is gone.
    """
    pool = contender.make(1)
    pids = warm_up(contender, pool, 1)
    outcome = outcome_of(lambda: contender.submit(pool, tasks.leave_a_thread))
    at = time.monotonic()
    closing = threading.Thread(target=contender.shutdown, args=(pool,), daemon=True)
    closing.start()
    closing.join(8.0)
    seconds, left = time.monotonic() - at, sum(is_alive(pid) for pid in pids)
    text = "shutdown hangs" if closing.is_alive() else f"{seconds:.1f} s, {left} left"
    return Verdict(text, not closing.is_alive() and not left, outcome.text)


@make_row(ROWS, "forgotten pool ends its workers")
def forgotten(contender: Contender, _here: Path) -> Verdict:
    """The last reference to an idle pool is dropped without shutdown. Clean: its workers are gone within 3 s."""
    pool = contender.make()
    pids = warm_up(contender, pool)
    del pool
    gc.collect()
    is_clean = wait_until(lambda: not any(is_alive(pid) for pid in pids), 3.0)
    return Verdict(f"{sum(is_alive(pid) for pid in pids)} of {len(pids)} left", is_clean)


@make_row(ROWS, "lock held while the pool starts")
def lock_held(contender: Contender, _here: Path) -> Verdict:
    """A thread of the client holds a lock of a module while the pool is made and a task submitted that takes this lock;
    after 1 s it lets go. Clean: the task is done, and the next submit works.
    """
    is_held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with tasks.LOCK:
            is_held.set()
            let_go.wait()

    threading.Thread(target=hold, daemon=True).start()
    is_held.wait()
    pool = contender.make()
    future = contender.submit(pool, tasks.take_the_modules_lock)
    outcomes([future], 1.0)
    let_go.set()
    outcome = outcomes([future])[0]
    problem = UNRESOLVED if not outcome.is_done else "" if outcome.value == "taken" else "fails"
    return conclude(contender, pool, problem, outcome.text)


@make_row(ROWS, "task uses a pool of its own")
def nested_pool(contender: Contender, _here: Path) -> Verdict:
    """A task makes a ProcessPoolExecutor, uses it and shuts it down. Clean: its result comes, and the next submit
    works.
    """
    pool = contender.make()
    outcome = outcome_of(lambda: contender.submit(pool, tasks.use_a_pool))
    problem = UNRESOLVED if not outcome.is_done else "" if outcome.value == 42 else "fails"
    return conclude(contender, pool, problem, outcome.text)


@make_row(ROWS, "multiprocessing.Lock() in initargs")
def lock_in_initargs(contender: Contender, _here: Path) -> Verdict:
    """A multiprocessing.Lock() of the default context is passed to the initializer, as progress bars do. Clean: a task
    can take it.
    """
    try:
        pool = contender.make(initializer=tasks.keep_lock, initargs=(multiprocessing.Lock(),))
    except Exception as error:
        return Verdict("refused", is_clean=False, note=f"{type(error).__name__}: {str(error)[:120]}")
    outcome = outcome_of(lambda: contender.submit(pool, tasks.take_the_kept_lock))
    problem = UNRESOLVED if not outcome.is_done else "" if outcome.value == "taken" else "fails"
    return conclude(contender, pool, problem, outcome.text)


GLOBAL_SCRIPT = """
state = "not set"

def initialize(value):
    global state
    state = value

def read():
    return state

if __name__ == "__main__":
    pool = contender.make(initializer=initialize, initargs=("set",))
    print(contender.submit(pool, read).result(12))
    contender.shutdown(pool)
"""


@make_row(ROWS, "script's global set by the initializer")
def script_global(contender: Contender, here: Path) -> Verdict:
    """The initializer of a script sets a global of the script, and a function of the script reads it in a task. Clean:
    the task sees what the initializer has set.
    """
    script = Script(contender, here, GLOBAL_SCRIPT)
    code = script.wait(RESOLVE_SECONDS)
    said = (script.out.strip() or script.err.strip() or "nothing").splitlines()[-1][:120]
    return Verdict(
        {"set": "seen", "not set": "NOT SEEN"}.get(said, "fails"), said == "set", f"exit code {code}; {said}"
    )
