"""What the fault tests let happen, and where: picklable classes and functions that strike at a chosen moment."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

# ---------------------------------------------------------------------- what happens


def strike_raise() -> None:
    raise ValueError("struck")


def strike_sys_exit() -> None:
    sys.exit(7)


def strike_os_exit() -> None:
    os._exit(7)


def strike_sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def strike_sigsegv() -> None:
    ctypes.string_at(0)


def strike_memory_error() -> None:
    bytearray(1 << 62)


def strike_recursion_error() -> None:
    strike_recursion_error()


STRIKES: dict[str, Callable[[], None]] = {
    "raise": strike_raise,
    "sys.exit": strike_sys_exit,
    "os._exit": strike_os_exit,
    "SIGKILL": strike_sigkill,
    "SIGSEGV": strike_sigsegv,
    "MemoryError": strike_memory_error,
    "RecursionError": strike_recursion_error,
}

DEADLY = {"os._exit": "exit code 7", "SIGKILL": "SIGKILL", "SIGSEGV": "SIGSEGV"}
RAISED = {"raise": ValueError, "sys.exit": SystemExit, "MemoryError": MemoryError, "RecursionError": RecursionError}

# ---------------------------------------------------------------------- where it happens


class StrikesWhenPickled:
    """Strikes when it is pickled."""

    def __init__(self, strike: str) -> None:
        self.strike = strike

    def __reduce__(self) -> tuple[Any, ...]:
        STRIKES[self.strike]()
        return (int, ())


class StrikesWhenUnpickled:
    """Strikes when it is unpickled, but not in the process `safe_pid`."""

    def __init__(self, strike: str, safe_pid: int) -> None:
        self.strike, self.safe_pid = strike, safe_pid

    def __reduce__(self) -> tuple[Any, ...]:
        return (_strike_unless, (self.strike, self.safe_pid))


def _strike_unless(strike: str, safe_pid: int) -> int:
    if os.getpid() != safe_pid:
        STRIKES[strike]()
    return 0


class ErrorThatStrikesWhenPickled(Exception):
    """An exception that strikes when it is pickled."""

    def __reduce__(self) -> Any:
        STRIKES[self.args[0]]()
        return super().__reduce__()


class ErrorThatStrikesWhenUnpickled(Exception):
    """An exception that strikes when it is unpickled, but not in the process `args[1]`."""

    def __reduce__(self) -> Any:
        return (_make_error_unless, self.args)


def _make_error_unless(strike: str, safe_pid: int) -> Exception:
    _strike_unless(strike, safe_pid)
    return ErrorThatStrikesWhenUnpickled(strike, safe_pid)


def run(strike: str) -> None:
    STRIKES[strike]()


def return_what_strikes_when_pickled(strike: str) -> StrikesWhenPickled:
    return StrikesWhenPickled(strike)


def return_what_strikes_when_unpickled(strike: str) -> StrikesWhenUnpickled:
    return StrikesWhenUnpickled(strike, os.getpid())


def raise_what_strikes_when_pickled(strike: str) -> None:
    raise ErrorThatStrikesWhenPickled(strike)


def raise_what_strikes_when_unpickled(strike: str) -> None:
    """Strike in whoever unpickles it: the worker, that tries it out before it sends it."""
    raise ErrorThatStrikesWhenUnpickled(strike, 0)


def raise_what_strikes_in_the_client(strike: str) -> None:
    """Strike in the client alone."""
    raise ErrorThatStrikesWhenUnpickled(strike, os.getpid())


MODULE_THAT_STRIKES = """
import os
from integration.fault_tasks import STRIKES
if os.getpid() != {safe_pid}:
    STRIKES[{strike!r}]()
def function():
    return 1
"""
