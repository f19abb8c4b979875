"""Checks workforce.py: who is buried when."""

from __future__ import annotations

import signal
from unittest.mock import Mock

import pytest

from crew_executor.launchers.base import WorkerExit
from crew_executor.workforce import Workforce


@pytest.mark.parametrize("has_exited", [True, False])
def test_a_worker_that_nobody_has_read_from_is_buried_when_all_are_killed(has_exited: bool) -> None:
    """The main thread, lent to read, may never come again; the dispatcher would wait for ever for its reader."""
    home, end = Mock(), WorkerExit("w1")
    workforce = Workforce(home, Mock(), "crew", None, 1, Mock())
    connection = Mock(exit=end if has_exited else None, is_far=False, is_reader_done=False, has_failed_to_start=False)
    workforce.readerless.append(connection)
    workforce.kill_all(signal.SIGKILL)
    if not has_exited:
        home.worker_removed.assert_not_called()
        workforce._exited(connection, end)

    home.worker_removed.assert_called_once_with(connection)
