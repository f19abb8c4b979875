"""Checks process_local.py: what a worker makes for itself instead of what cannot travel."""

from __future__ import annotations

import contextvars
import queue
import sqlite3
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from crew_executor.process_local import reduction


@pytest.mark.parametrize(
    "make",
    [threading.Lock, threading.RLock, threading.local, queue.SimpleQueue, weakref.WeakSet, weakref.WeakKeyDictionary,
     weakref.WeakValueDictionary],
)  # fmt: skip
def test_another_of_the_same_type_is_made(make: Callable[[], Any]) -> None:
    item = make()
    reduced = reduction(item)

    assert reduced is not None
    made = reduced[0](*reduced[1])
    assert type(made) is type(item)
    assert made is not item


def test_a_lock_that_is_held_comes_as_one_that_is_not() -> None:
    lock = threading.Lock()
    with lock:
        reduced = reduction(lock)

    assert reduced is not None
    assert not reduced[0]().locked()


@pytest.mark.parametrize("default", [(), (None,), ([],)])
def test_a_context_variable_keeps_name_and_default_and_not_its_value(default: tuple[Any, ...]) -> None:
    variable = contextvars.ContextVar("variable", default=default[0]) if default else contextvars.ContextVar("variable")
    variable.set("ours")
    reduced = reduction(variable)

    assert reduced is not None
    assert reduced[1] == ("variable", *default)
    made = reduced[0](*reduced[1])
    found = contextvars.Context().run(lambda: made.get() if default else made.get("none"))
    assert found == (default[0] if default else "none")


@pytest.mark.parametrize("make", [list, object, threading.Event, lambda: sqlite3.connect(":memory:")])
def test_anything_else_is_left_to_pickle(make: Callable[[], Any]) -> None:
    item = make()

    assert reduction(item) is None
    if isinstance(item, sqlite3.Connection):
        item.close()


def test_a_subclass_may_have_more_and_is_left_to_pickle() -> None:
    class Local(threading.local):
        pass

    assert reduction(Local()) is None
