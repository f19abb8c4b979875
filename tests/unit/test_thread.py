"""Waiting for a thread of ours: also again, after a Ctrl-C."""

from __future__ import annotations

import threading

import pytest

from crew_executor.thread import Thread


class _Interruptible:
    """A lock whose next acquire() is interrupted, before or after it has the lock."""

    def __init__(self, lock: threading.Lock, *, has_it: bool) -> None:
        self._lock = lock
        self._has_it = has_it
        self._is_first = True

    def acquire(self, timeout: float = -1) -> bool:
        if self._is_first:
            self._is_first = False
            if self._has_it:
                self._lock.acquire()
            raise KeyboardInterrupt
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()


@pytest.fixture
def go() -> threading.Event:
    return threading.Event()


def test_a_thread_that_was_not_started_is_over() -> None:
    thread = Thread(lambda: None, "one")
    assert thread.is_over
    assert thread.wait_over()


def test_it_is_over_when_it_has_ended(go: threading.Event) -> None:
    thread = Thread(lambda: go.wait(30), "one")
    thread.start()
    assert not thread.is_over
    assert not thread.wait_over(0)
    go.set()

    assert thread.wait_over(30)
    assert thread.wait_over()
    thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_it_is_over_when_it_has_failed() -> None:
    def fail() -> None:
        raise SystemExit

    thread = Thread(fail, "one")
    thread.start()

    assert thread.wait_over(30)
    thread.join()


def test_a_wait_that_was_interrupted_can_be_repeated(go: threading.Event) -> None:
    thread = Thread(lambda: go.wait(30), "one")
    thread.start()
    lock = thread._running
    thread._running = _Interruptible(lock, has_it=False)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        thread.wait_over()

    assert not thread.wait_over(0.01)
    thread._running = lock
    go.set()
    assert thread.wait_over(30)
    thread.join()


def test_a_wait_that_was_interrupted_with_the_lock_in_hand_stops_nobody() -> None:
    thread = Thread(lambda: None, "one")
    thread.start()
    thread.join()
    thread.is_over = False  # the waiter has looked just before
    thread._running = _Interruptible(thread._running, has_it=True)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        thread.wait_over()
    thread.is_over = True

    assert thread.wait_over()


def test_a_thread_that_cannot_be_started_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    thread = Thread(lambda: None, "one")
    with pytest.raises(RuntimeError):
        thread.start()

    assert thread.wait_over()
