"""executor.check(): whether a call can be sent, tried on a real worker."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import pytest

from crew_executor import CrewExecutor


class NeedsModule:
    """Can be pickled, and read nowhere."""

    def __reduce__(self) -> Any:
        return __import__, ("no_such_module_anywhere",)


def explode(*_args: Any, **_kwargs: Any) -> None:
    os._exit(3)


def test_a_good_call_has_been_read_by_a_worker_and_was_not_called() -> None:
    with CrewExecutor(1) as executor:
        found = executor.check(explode, 1, key=lambda: 2)
        pid = executor.submit(os.getpid).result()

    assert found
    assert str(found).endswith(f"and a worker (pid {pid} on {socket.gethostname()}) can read it")


def test_what_cannot_be_pickled_is_named_and_starts_no_worker() -> None:
    with CrewExecutor(1) as executor:
        found = executor.check(explode, {"deep": [threading.Lock()]})

        assert not found
        assert found.culprit is not None
        assert found.culprit.path == "args[0]['deep'][0]"
        assert executor.stats().launched == 0


def look_up(table: dict[int, int], number: int) -> int:
    return table[number]


def test_handles_of_share_are_pickled_as_in_a_call() -> None:
    table = {1: 2}
    with CrewExecutor(1) as executor, CrewExecutor(1, name="other") as other:
        handle = executor.share(table)

        assert executor.check(look_up, handle, 1)
        assert executor.check(look_up, [handle], 1)
        assert executor.check(look_up, table=handle, number=1)
        assert executor.check(lambda: handle)
        assert executor.submit(look_up, handle, 1).result() == 2
        found = executor.check(look_up, [other.share(table)], 1)

    assert found.culprit is not None
    assert found.culprit[:2] == ("args[0][0]", "Shared")  # what is in it is ours
    assert "can only be an argument of tasks of executor other" in str(found)


def test_what_a_worker_cannot_read_is_told_in_its_words() -> None:
    with CrewExecutor(1) as executor:
        found = executor.check(explode, NeedsModule())

    assert not found
    assert "a worker cannot read it: ModuleNotFoundError: No module named 'no_such_module_anywhere'" in str(found)


def test_after_the_shutdown_it_says_so() -> None:
    executor = CrewExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.check(explode)
