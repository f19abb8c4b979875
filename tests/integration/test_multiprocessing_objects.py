"""What multiprocessing shares between processes is shared with workers, too: proxies, locks, queues, shared memory.

Scripts of their own: multiprocessing keeps some descriptors as long as its process lives.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from crew_executor import CrewExecutor

from . import clients
from .helpers import add, identity


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("make", [str, multiprocessing.get_context], ids=["name", "context"])
def test_a_context_or_its_name_is_accepted(make: Callable[[str], object], method: str) -> None:
    with CrewExecutor(1, make(method)) as executor:
        assert executor.submit(add, 1, 1).result() == 2


# ---------------------------------------------------------------------- proxies of a manager

PROXIES = """
import multiprocessing, os
from crew_executor import CrewExecutor
kept = []
def keep(*objects):
    kept[:] = objects
def count(*objects):
    numbers, lock, seen, queue = objects or kept
    for _ in range(20):
        with lock:  # without it, some would be lost
            numbers["n"] = numbers.get("n", 0) + 1
    with lock:
        seen.append(os.getpid())
    queue.put(os.getpid())
def put_into(numbers, inner):
    numbers["inner"] = inner
    return inner
with multiprocessing.Manager() as manager:
    proxies = numbers, lock, seen, queue = manager.dict(), manager.Lock(), manager.list(), manager.Queue()
    arguments, initargs = (proxies, ()) if {way!r} == "arguments" else ((), proxies)
    with CrewExecutor(2, {mp_context!r}, initializer=keep, initargs=initargs) as executor:
        for future in [executor.submit(count, *arguments) for _ in range(10)]:
            future.result()
        inner = manager.list([1])
        returned = executor.submit(put_into, numbers, inner).result()
    assert numbers["n"] == 200
    assert sorted(seen) == sorted(queue.get() for _ in range(10))
    returned.append(2)
    assert list(inner) == list(numbers["inner"]) == [1, 2]
"""


@pytest.mark.parametrize("mp_context", [None, "spawn"])
@pytest.mark.parametrize("way", ["arguments", "initargs"])
def test_proxies_of_a_manager(way: str, mp_context: str | None) -> None:
    done = clients.run_to_end(PROXIES.format(way=way, mp_context=mp_context))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---------------------------------------------------------------------- locks, values, queues

LOCKS = """
import multiprocessing, os
from crew_executor import CrewExecutor
kept = []
def keep(*objects):
    kept[:] = objects
def count_and_meet(number):
    lock, value, array, event, gate, barrier, inbox, outbox = kept
    assert event.wait(30)
    for _ in range(50):
        with lock:  # without it, some would be lost
            value.value += 1
        with array.get_lock():
            array[0] += 1
        with gate:
            array[1] += 1
    outbox.put((inbox.get(timeout=30), os.getpid()))
    return barrier.wait(30)
context = multiprocessing.get_context({method!r})
value, array, inbox, outbox = context.Value("i"), context.Array("i", 2), context.Queue(), context.SimpleQueue()
event, gate, barrier = context.Event(), context.BoundedSemaphore(1), context.Barrier(2)
initargs = context.Lock(), value, array, event, gate, barrier, inbox, outbox
with CrewExecutor(2, {mp_context}, min_workers=2, initializer=keep, initargs=initargs) as executor:
    futures = [executor.submit(count_and_meet, number) for number in range(2)]  # each needs the other to be done
    event.set()
    for letter in "ab":
        inbox.put(letter)
    assert sorted(future.result() for future in futures) == [0, 1]
answers = [outbox.get() for _ in futures]
assert (value.value, list(array)) == (100, [100, 100])
assert sorted(letter for letter, _pid in answers) == ["a", "b"]
assert len({{pid for _letter, pid in answers}}) == 2
"""


@pytest.mark.parametrize(
    ("method", "mp_context"),
    [("spawn", "None"), ("spawn", "context"), ("forkserver", "None"), ("forkserver", "'spawn'")],
)
def test_locks_values_and_queues_in_initargs(method: str, mp_context: str) -> None:
    done = clients.run_to_end(LOCKS.format(method=method, mp_context=mp_context))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


RAW = """
import multiprocessing
from crew_executor import CrewExecutor
kept = []
def keep(*objects):
    kept[:] = objects
def put(number):
    value, array, end = kept
    value.value = array[0] = number
    end.send(number)
context = multiprocessing.get_context("fork")
value, array, (receiver, sender) = context.RawValue("d"), context.RawArray("d", 1), context.Pipe(duplex=False)
with receiver, sender, CrewExecutor(1, initializer=keep, initargs=(value, array, sender)) as executor:
    executor.submit(put, 2.5).result()
    assert [value.value, array[0], receiver.recv()] == [2.5] * 3
"""


def test_raw_values_and_pipes_have_no_lock_and_may_be_of_any_context() -> None:
    done = clients.run_to_end(RAW)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FORKED = """
import multiprocessing
from crew_executor import CrewExecutor
kinds = {{
    "Lock": (), "RLock": (), "Semaphore": (), "BoundedSemaphore": (), "Event": (), "Condition": (), "Barrier": (2,),
    "Queue": (), "JoinableQueue": (), "SimpleQueue": (), "Value": ("i",), "Array": ("i", 2),
}}
for kind, arguments in kinds.items():
    made = getattr(multiprocessing.get_context("fork"), kind)(*arguments)
    try:
        CrewExecutor(1, {mp_context!r}, initializer=print, initargs=({{"deep": [made]}},))
    except RuntimeError as error:
        text = str(error)
        assert "fork context" in text and "cannot reach workers" in text and "get_context('spawn')" in text, text
    else:
        raise AssertionError(f"{{kind}} is accepted")
"""


@pytest.mark.parametrize("mp_context", [None, "fork", "spawn"])
def test_those_of_the_fork_context_are_refused_with_the_cure(mp_context: str | None) -> None:
    done = clients.run_to_end(FORKED.format(mp_context=mp_context))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_as_an_argument_of_a_task_they_are_refused_as_ever() -> None:
    with CrewExecutor(1) as executor:
        future = executor.submit(identity, multiprocessing.get_context("spawn").Lock())

        with pytest.raises(RuntimeError, match="through inheritance"):
            future.result()
        assert executor.submit(add, 1, 1).result() == 2


# ---------------------------------------------------------------------- shared memory

SHARED = """
import os, sys, time
from crew_executor import CrewExecutor, WorkerCrashError
{at_the_top}
def fill(name, index):
    from multiprocessing import shared_memory
    memory = shared_memory.SharedMemory(name=name)
    memory.buf[index] = index
    memory.close()
    return os.getpid()
def fill_it(memory, index):
    memory.buf[index] = index
    return os.getpid()
def fill_and_die(name):
    fill(name, 3)
    os.kill(os.getpid(), 9)
def make():
    from multiprocessing import shared_memory
    memory = shared_memory.SharedMemory(create=True, size=10)
    memory.buf[0] = 7
    memory.close()
    return memory.name
def is_there(name):
    return os.path.exists("/dev/shm/" + name.lstrip("/"))
with CrewExecutor(1, {mp_context!r}) as executor:
    executor.submit(int).result()
    from multiprocessing import shared_memory
    memory = shared_memory.SharedMemory(create=True, size=10)
    workers = {{executor.submit(fill, memory.name, 1).result(), executor.submit(fill_it, memory, 2).result()}}
    assert type(executor.submit(fill_and_die, memory.name).exception()) is WorkerCrashError
    name = executor.submit(make).result()
    numbers = shared_memory.ShareableList([1, 2])
    assert executor.submit(sum, numbers).result() == 3
assert not any(os.path.exists(f"/proc/{{worker}}") for worker in workers)
assert list(memory.buf[:4]) == [0, 1, 2, 3]
assert is_there(memory.name)
made = shared_memory.SharedMemory(name=name)
assert made.buf[0] == 7
for each in memory, made, numbers.shm:
    each.close()
    each.unlink()
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="what is left is looked for in /dev/shm")
@pytest.mark.parametrize("mp_context", [None, "spawn"])
@pytest.mark.parametrize("at_the_top", ["", "from multiprocessing import shared_memory"], ids=["late", "early"])
def test_shared_memory_outlives_the_workers_that_opened_or_made_it(at_the_top: str, mp_context: str | None) -> None:
    done = clients.run_to_end(SHARED.format(at_the_top=at_the_top, mp_context=mp_context))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FORGOTTEN = """
from multiprocessing import shared_memory
from crew_executor import CrewExecutor
def make():
    memory = shared_memory.SharedMemory(create=True, size=10)
    memory.close()
    return memory.name
with CrewExecutor(1) as executor:
    print(executor.submit(make).result())
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="what is left is looked for in /dev/shm")
def test_shared_memory_that_tasks_forget_is_unlinked_at_the_end_of_the_client() -> None:
    done = clients.run_to_end(FORGOTTEN)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.lstrip("/").startswith("psm_")
    assert not (Path("/dev/shm") / done.stdout.strip().lstrip("/")).exists()
