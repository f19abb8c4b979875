"""A launcher that is as unreliable as a busy cluster: some of its launches are refused, slow, late or lost.

Runs in the client. Keeps the contract of Launcher: on_exit is called exactly once for each launch that did not raise,
and kill() also reaches a launch that has not happened yet.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections import Counter
from collections.abc import Callable

from crew_executor import LaunchError
from crew_executor.launchers import Invitation, LocalLauncher, WorkerExit

_OnExit = Callable[[WorkerExit], None]

_REFUSED, _BROKEN, _SLOW, _LATE, _LOST = 0.03, 0.01, 0.05, 0.08, 0.02
"""The shares of launches that raise LaunchError, raise something else, block, happen later, never happen."""
_SLOW_SECONDS, _LATE_SECONDS = 0.3, 1.0
STARTUP_TIMEOUT = 6.0
"""Seconds; more than a freeze lasts, less than a test can wait."""


class ShakyLauncher(LocalLauncher):
    """Start local workers, mostly.

    Args:
        seed: decides what happens to which launch.
    """

    def __init__(self, seed: str) -> None:
        super().__init__(startup_timeout=STARTUP_TIMEOUT, max_failed_launches=10**6)
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._waiting: dict[str, threading.Event] = {}  # launches put off, by worker; set: do not wait any longer
        self._stall = threading.Event()  # never set: something to wait for

    def launch(self, invitation: Invitation, on_exit: _OnExit) -> None:
        """Launch, or do one of the other things."""
        dice = self._random.random()
        for share, name in (
            (_REFUSED, "refused"), (_BROKEN, "broken"), (_SLOW, "slow"), (_LATE, "late"), (_LOST, "lost"),
        ):  # fmt: skip
            dice -= share
            if dice < 0:
                self.counts[name] += 1
                getattr(self, f"_{name}")(invitation, on_exit)
                return
        self.counts["plain"] += 1
        super().launch(invitation, on_exit)

    def kill(self, invitation: Invitation, signal_number: int) -> None:
        """Kill the worker; one that is still to be launched never will be."""
        with self._lock:
            waiting = self._waiting.get(invitation.name)
            if waiting is not None:
                waiting.set()  # under the lock: afterwards it may have been launched
                return
        super().kill(invitation, signal_number)

    def _refused(self, invitation: Invitation, _on_exit: _OnExit) -> None:
        raise LaunchError(f"no room for {invitation.name}, says the chaos test")

    def _broken(self, invitation: Invitation, _on_exit: _OnExit) -> None:
        raise KeyError(f"a launcher's own mistake with {invitation.name}, says the chaos test")

    def _slow(self, invitation: Invitation, on_exit: _OnExit) -> None:
        self._stall.wait(self._random.uniform(0, _SLOW_SECONDS))  # the dispatcher's thread stands still meanwhile
        super().launch(invitation, on_exit)

    def _late(self, invitation: Invitation, on_exit: _OnExit) -> None:
        # The descriptors belong to the dispatcher, which may close them as soon as launch() has returned.
        kept = invitation._replace(descriptors=tuple(map(os.dup, invitation.descriptors)))
        self._put_off(kept, on_exit, super().launch)

    def _lost(self, invitation: Invitation, on_exit: _OnExit) -> None:
        def lose(invitation: Invitation, on_exit: _OnExit) -> None:
            on_exit(WorkerExit(invitation.name, reason="lost on the way, says the chaos test"))

        self._put_off(invitation._replace(descriptors=()), on_exit, lose)

    def _put_off(self, invitation: Invitation, on_exit: _OnExit, launch: Callable[[Invitation, _OnExit], None]) -> None:
        called_off = threading.Event()
        with self._lock:
            self._waiting[invitation.name] = called_off
        seconds = self._random.uniform(0, _LATE_SECONDS)
        arguments = (invitation, on_exit, launch, called_off, seconds)
        threading.Thread(target=self._launch_late, args=arguments, daemon=True).start()

    def _launch_late(
        self,
        invitation: Invitation,
        on_exit: _OnExit,
        launch: Callable[[Invitation, _OnExit], None],
        called_off: threading.Event,
        seconds: float,
    ) -> None:
        called_off.wait(seconds)
        with contextlib.ExitStack() as stack:
            for fd in invitation.descriptors:
                stack.callback(os.close, fd)
            with self._lock:  # from here on kill() is for the real launcher; before, for this one
                del self._waiting[invitation.name]
                if not called_off.is_set():
                    try:
                        launch(invitation, on_exit)
                    except Exception as error:  # whatever it is, the dispatcher must hear of the end
                        reason = repr(error)
                    else:
                        return
                else:
                    reason = "killed before it was launched"
        on_exit(WorkerExit(invitation.name, reason=reason))
