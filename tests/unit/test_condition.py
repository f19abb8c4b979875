"""A future's lock that an interrupted owner has lost is taken from it; one that is held by right is not."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from crew_executor import condition as conditions
from crew_executor.condition import FutureCondition, may_hold
from crew_executor.futures import CrewFuture

HOLDER = """
def hold(condition, is_held, may_go):
    condition.acquire()
    is_held.release()
    may_go.acquire()
    if condition._is_owned():
        condition.release()
"""


@pytest.fixture
def condition() -> FutureCondition:
    return FutureCondition()


@pytest.fixture
def hold(condition: FutureCondition) -> Iterator[Callable[[str], Callable[[], None]]]:
    """Return what starts a thread that holds the lock, in code of a file, and returns what lets that thread go."""
    threads = []

    def start(file: str) -> Callable[[], None]:
        names: dict[str, Callable[..., None]] = {}
        exec(compile(HOLDER, file, "exec"), names)
        is_held, may_go = threading.Lock(), threading.Lock()
        is_held.acquire()
        may_go.acquire()
        thread = threading.Thread(target=names["hold"], args=(condition, is_held, may_go))
        thread.start()
        threads.append(thread)
        is_held.acquire()
        return may_go.release

    yield start
    for thread in threads:
        thread.join()


def lose(condition: FutureCondition) -> None:
    """Leave the lock locked by a thread that has ended."""
    thread = threading.Thread(target=condition.acquire)
    thread.start()
    thread.join()


def test_a_free_lock_is_taken(condition: FutureCondition) -> None:
    condition.take()
    condition.notify_all()  # only its owner may
    condition.release()


def test_the_lock_of_a_thread_that_has_ended_is_taken(condition: FutureCondition) -> None:
    lose(condition)
    condition.take()
    condition.notify_all()
    condition.release()


def test_the_lock_of_an_owner_who_does_something_else_is_taken(
    condition: FutureCondition, hold: Callable[[str], Callable[[], None]]
) -> None:
    let_go = hold("notebook.py")
    condition.take()
    condition.release()
    let_go()


def test_the_lock_of_an_owner_who_waits_for_something_else_is_taken(condition: FutureCondition) -> None:
    other, may_go = threading.Event(), threading.Event()

    def lose_and_wait() -> None:
        condition.acquire()
        other.set()
        may_go.wait()

    thread = threading.Thread(target=lose_and_wait)
    thread.start()
    other.wait()
    condition.take()
    condition.release()
    may_go.set()
    thread.join()


def test_the_lock_of_an_owner_who_joins_a_thread_is_taken(condition: FutureCondition) -> None:
    may_go, is_held = threading.Event(), threading.Event()
    other = threading.Thread(target=may_go.wait)
    other.start()

    def lose_and_join() -> None:
        condition.acquire()
        is_held.set()
        other.join()

    thread = threading.Thread(target=lose_and_join)
    thread.start()
    is_held.wait()
    condition.take()
    condition.release()
    may_go.set()
    thread.join()


def test_the_lock_of_an_owner_who_waits_for_the_result_of_a_future_is_taken(condition: FutureCondition) -> None:
    future: CrewFuture[int] = CrewFuture()

    def lose_and_wait() -> None:
        condition.acquire()
        future.result()

    thread = threading.Thread(target=lose_and_wait)
    thread.start()
    while not future._bells:
        threading.Event().wait(0.001)
    condition.take()
    condition.release()
    future.set_result(1)
    thread.join()


@pytest.mark.parametrize("file", [sys.modules["concurrent.futures._base"].__file__, "ours.py"])
def test_a_lock_that_is_held_by_right_is_waited_for(
    file: str, condition: FutureCondition, hold: Callable[[str], Callable[[], None]]
) -> None:
    may_hold("ours.py")
    let_go = hold(file)
    lock = condition._lock  # type: ignore[attr-defined]
    taker = threading.Thread(target=condition.take)
    taker.start()
    taker.join(0.1)
    is_waiting = taker.is_alive()
    let_go()
    taker.join()

    assert is_waiting
    assert condition._lock is lock  # type: ignore[attr-defined]


def test_who_waits_is_woken_after_the_lock_was_taken_from_another(condition: FutureCondition) -> None:
    answers = []

    def wait() -> None:
        with condition:
            answers.append(condition.wait(10))

    thread = threading.Thread(target=wait)
    thread.start()
    while not condition._waiters:  # type: ignore[attr-defined]
        pass
    lose(condition)
    condition.take()
    condition.notify_all()
    condition.release()
    thread.join()

    assert [True] == answers


def test_an_exception_is_not_hidden_by_a_lock_that_an_interrupted_wait_has_released(condition: FutureCondition) -> None:
    condition.acquire()
    condition.release()

    assert condition.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None) is None  # type: ignore[func-returns-value]


def test_a_lock_released_twice_is_an_error(condition: FutureCondition) -> None:
    with pytest.raises(RuntimeError), condition:
        condition.release()


def test_an_owner_that_gives_it_back_while_it_is_looked_at_has_not_lost_it(
    condition: FutureCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    def frames() -> dict[int, object]:
        condition.release()
        return {}

    condition.acquire()
    monkeypatch.setattr(conditions.sys, "_current_frames", frames)

    assert not conditions._is_lost(condition._lock)


@pytest.mark.parametrize("is_its_own", [True, False])
def test_an_owner_in_wait_has_lost_only_locks_of_others(
    condition: FutureCondition, monkeypatch: pytest.MonkeyPatch, is_its_own: bool
) -> None:
    """It waits for this one: it is about to release it, or has just taken it again. Else it has gone on."""
    waited_for = condition if is_its_own else FutureCondition()
    frame = SimpleNamespace(f_code=threading.Condition.wait.__code__, f_locals={"self": waited_for}, f_back=None)
    condition.acquire()
    monkeypatch.setattr(conditions.sys, "_current_frames", lambda: {threading.get_ident(): frame})

    assert conditions._is_lost(condition._lock) is not is_its_own
    condition.release()


def test_one_look_is_not_enough(condition: FutureCondition, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [True, False, True, True]
    monkeypatch.setattr(conditions, "_is_lost", lambda _lock: looks.pop(0))
    held = condition._lock
    thread = threading.Thread(target=held.acquire)
    thread.start()
    thread.join()

    condition.take()
    assert looks == []
    assert condition._lock is not held
    condition.release()
