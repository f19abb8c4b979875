"""Checks worker/functions.py: a head means what pickle would find, now."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

from crew_executor import namespace, serialize
from crew_executor.heads import Heads
from crew_executor.recent import Recent
from crew_executor.worker import functions
from crew_executor.worker.functions import function_of


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a module with a function, of which this process remembers nothing."""
    monkeypatch.setattr(functions, "_found", Recent())
    for name, empty in (("_namespaces", {}), ("_received", {}), ("_opened", Recent())):
        monkeypatch.setattr(namespace, name, empty)
    made = ModuleType("a_module")
    exec("value = 1\ndef read(): return value\ndef other(): return 'other'", made.__dict__)
    sys.modules["a_module"] = made
    yield made
    del sys.modules["a_module"]


@pytest.fixture
def home(module: Any) -> Iterator[Any]:
    """Return that module; it travels by value."""
    cloudpickle.register_pickle_by_value(module)
    yield module
    cloudpickle.unregister_pickle_by_value(module)


def head_of(function: Any) -> bytes:
    head = Heads().head_of(function)
    assert head is not None
    return head


def test_a_name_stands_for_what_has_it_now(module: Any) -> None:
    head, read = head_of(module.read), module.read
    assert function_of(head) is read
    module.read = module.other
    assert function_of(head) is module.other
    sys.modules["a_module"] = ModuleType("a_module")
    with pytest.raises(AttributeError, match="read") as caught:
        function_of(head)
    with pytest.raises(AttributeError) as pickles:
        pickle.loads(head)
    assert str(caught.value) == str(pickles.value)


def test_a_module_is_imported_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    import colorsys

    head = head_of(colorsys.rgb_to_hls)
    monkeypatch.delitem(sys.modules, "colorsys")
    function = function_of(head)

    assert function is sys.modules["colorsys"].rgb_to_hls
    assert function is not colorsys.rgb_to_hls


def test_a_function_that_came_by_value_is_opened_once(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head = head_of(home.read)
    assert function_of(head)() == 1
    monkeypatch.setattr(serialize, "loads", None)

    assert function_of(bytes(bytearray(head)))() == 1


def test_what_a_task_has_set_stays_until_the_client_sends_another_value(home: Any) -> None:
    first = head_of(home.read)
    function = function_of(first)
    function.__globals__["value"] = 5
    assert function_of(first)() == 5
    home.value = 2
    second = head_of(home.read)
    assert function_of(second)() == 2
    assert function_of(first)() == 1, "what was submitted before the client has changed it, and is run later"
    assert function_of(second)() == 2


def test_any_other_pickle_is_opened_each_time() -> None:
    pickled = pickle.dumps([1])

    assert function_of(pickled) == [1]
    assert function_of(pickled) is not function_of(pickled)
