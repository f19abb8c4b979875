"""Sets logging up in a worker as soon as anything imports it: the client's levels, and records that go to the client.

Must not import logging itself, which takes a tenth of the time in which the first worker is up.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .. import on_import
from ..channel import Channel
from .output import Output

if TYPE_CHECKING:
    from .call import CallRunner


class LogSetup:
    """What logging will be like.

    Args:
        channel: to the client.
        output: keeps a line of each record for a post-mortem.
        levels: the client's, as log_records.current_levels() tells them.

    Attributes:
        runner: what runs tasks, once there are any.
        pid: the worker's: what imports logging may be a process that a task has forked.
    """

    def __init__(self, channel: Channel, output: Output, levels: dict[str, Any]) -> None:
        self.runner: CallRunner | None = None
        self.pid = os.getpid()
        self._channel = channel
        self._output = output
        self._levels = levels
        self._root: Any = None

    def install(self) -> None:
        """Set logging up, now or when it is imported."""
        on_import.when_imported("logging", self._set_up)
        on_import.when_imported("traceback", on_import.do_nothing)  # what tells of a task's error imports it late, too

    @property
    def level(self) -> int:
        """The level of the root logger, or what it will be."""
        level: int = self._levels["levels"][""] if self._root is None else self._root.level
        return level

    def _set_up(self, logging: ModuleType) -> None:
        from ..log_records import adopt_levels  # late, as is all that imports logging
        from .log_forwarder import forwarder

        adopt_levels(self._levels)
        forwarder.connect(self._channel, self._output, self)
        self._root = logging.root
