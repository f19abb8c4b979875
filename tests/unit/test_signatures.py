"""Signatures, checks of arguments and their messages: those of ProcessPoolExecutor and Executor, by comparison."""

from __future__ import annotations

import inspect
import multiprocessing
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

import pytest

from crew_executor import CrewExecutor
from crew_executor.futures import CrewFuture
from crew_executor.view import ExecutorView

NEWER = {
    "map": ["buffersize"],  # Python 3.14
    "__init__": ["max_tasks_per_child"],  # Python 3.11
}
"""Arguments that the standard library has had since a later Python than the oldest."""
EXECUTOR_METHODS = ["submit", "map", "shutdown", "__enter__", "__exit__"]
FUTURE_METHODS = [
    "cancel", "cancelled", "running", "done", "result", "exception", "add_done_callback", "set_result",
    "set_exception", "set_running_or_notify_cancel",
]  # fmt: skip


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    """Return name, kind and default of each parameter; a chunksize of ours that equals 1 is a 1."""
    parameters = inspect.signature(function).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]


@pytest.mark.parametrize("cls", [CrewExecutor, ExecutorView])
@pytest.mark.parametrize("name", EXECUTOR_METHODS)
def test_a_method_of_the_executor_is_called_like_the_standard_one(cls: type, name: str) -> None:
    theirs = shape(getattr(Executor, name))
    ours = shape(getattr(cls, name))
    known = {parameter for parameter, _kind, _default in theirs}
    ours = [entry for entry in ours if entry[0] in known or entry[0] not in NEWER.get(name, [])]
    if name in ("map", "__exit__"):  # names of positional arguments that nobody can pass by name
        theirs = [
            (entry[0] if entry[1] is not inspect.Parameter.POSITIONAL_OR_KEYWORD else "", *entry[1:])
            for entry in theirs
        ]
        ours = [
            (entry[0] if entry[1] is not inspect.Parameter.POSITIONAL_OR_KEYWORD else "", *entry[1:]) for entry in ours
        ]

    assert ours == theirs


@pytest.mark.parametrize("name", FUTURE_METHODS)
def test_a_method_of_the_future_is_called_like_the_standard_one(name: str) -> None:
    assert [entry[1:] for entry in shape(getattr(CrewFuture, name))] == [
        entry[1:] for entry in shape(getattr(Future, name))
    ]


def test_the_constructor_begins_like_that_of_process_pool_executor() -> None:
    theirs = [entry for entry in shape(ProcessPoolExecutor.__init__) if entry[0] not in NEWER["__init__"]]
    ours = shape(CrewExecutor.__init__)

    assert ours[: len(theirs)] == theirs
    rest = dict.fromkeys(entry[1] for entry in ours[len(theirs) :])
    assert list(rest) == [inspect.Parameter.KEYWORD_ONLY]
    assert "max_tasks_per_child" in {entry[0] for entry in ours}


@pytest.mark.skipif(sys.version_info < (3, 14), reason="ProcessPoolExecutor has had them since Python 3.14")
@pytest.mark.parametrize("name", ["terminate_workers", "kill_workers"])
def test_workers_are_ended_as_by_process_pool_executor(name: str) -> None:
    assert shape(getattr(CrewExecutor, name)) == shape(getattr(ProcessPoolExecutor, name))


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("no worker", {"max_workers": 0}),
    ("less than that", {"max_workers": -1}),
    ("no initializer", {"max_workers": 1, "initializer": 5}),
    ("half a task", {"max_workers": 1, "max_tasks_per_child": 0.5}),
    ("no task", {"max_workers": 1, "max_tasks_per_child": 0}),
    ("forked for each task", {"max_workers": 1, "max_tasks_per_child": 1, "mp_context": "fork"}),
]


@pytest.mark.parametrize("arguments", [entry[1] for entry in WRONG], ids=[entry[0] for entry in WRONG])
def test_a_wrong_argument_is_refused_in_the_same_words(arguments: dict[str, Any]) -> None:
    theirs = dict(arguments)
    if "max_tasks_per_child" in arguments and sys.version_info < (3, 11):
        pytest.skip("Python 3.10's ProcessPoolExecutor has no max_tasks_per_child")
    if "mp_context" in arguments:
        theirs["mp_context"] = multiprocessing.get_context(arguments["mp_context"])
    with pytest.raises(Exception) as expected:
        ProcessPoolExecutor(**theirs)
    with pytest.raises(type(expected.value)) as caught:
        CrewExecutor(**arguments)

    assert str(caught.value) == str(expected.value)
