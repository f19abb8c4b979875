"""What the workers run for behaviour.py: tasks that misbehave in one way each, and the objects they misbehave with.

Workers import this module by its name, whatever pool they belong to. It must not import any pool, nor psutil.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

LOCK = threading.Lock()
"""A lock such as every module of some size has; see `take_the_modules_lock`."""

_shared: list[Any] = []

# ------------------------------------------------------------------------------------------------------- well-behaved


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def echo(value: Any) -> Any:
    """Return the argument."""
    return value


def echo_keywords(**keywords: object) -> dict[str, object]:
    """Return the keyword arguments."""
    return keywords


def nap(value: Any, seconds: float) -> Any:
    """Return the value after some seconds."""
    time.sleep(seconds)
    return value


def pid_after(seconds: float) -> int:
    """Return this worker's process id after some seconds."""
    time.sleep(seconds)
    return os.getpid()


def touch_and_nap(path: str, seconds: float) -> None:
    """Make a file that says that this task runs, then sleep."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)


def nap_and_touch(path: str, seconds: float) -> None:
    """Sleep, then make a file: the side effect that a stopped task must not have."""
    time.sleep(seconds)
    Path(path).touch()


def touch_nap_touch(began: str, ended: str, seconds: float) -> None:
    """Say that it runs, sleep in small steps, and leave a side effect."""
    Path(began).write_text(str(os.getpid()))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
    Path(ended).touch()


def log_line(path: str, number: int, seconds: float) -> int:
    """Append the number and this worker's pid to a file, in one write, so that runs can be counted; then sleep."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{number} {os.getpid()}\n".encode())
    os.close(descriptor)
    time.sleep(seconds)
    return number


# ---------------------------------------------------------------------------------------------------------- exceptions


class TwoArguments(Exception):
    """An ordinary exception whose __init__ does not fit its args."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")
        self.left = left
        self.right = right


class Falsy(Exception):
    """An exception that counts as false, as one with __len__ may."""

    def __bool__(self) -> bool:
        return False


class ExitsWhenUnpickled(Exception):
    """An exception that ends whatever process unpickles it."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[int]]:
        return os._exit, (7,)


class HoldsALock(Exception):
    """An exception with an attribute that cannot be pickled, as those of network libraries have."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


def raise_two_arguments() -> None:
    """Raise a TwoArguments."""
    raise TwoArguments("one", "two")


def raise_falsy() -> None:
    """Raise an exception that counts as false."""
    raise Falsy("raised, all the same")


def raise_holds_a_lock() -> None:
    """Raise an exception that cannot be pickled."""
    raise HoldsALock("the disk is full")


def raise_exits_when_unpickled() -> None:
    """Raise an exception that ends whatever process unpickles it."""
    raise ExitsWhenUnpickled


def fail_with_cause() -> None:
    """Raise a ValueError from a ZeroDivisionError."""
    try:
        innermost(0)
    except ZeroDivisionError as error:
        raise ValueError("no ratio") from error


def innermost(number: int) -> float:
    """Fail in a frame of its own."""
    return 1 / number


def exit_with_four() -> None:
    """Call sys.exit in a task."""
    sys.exit(4)


def warn() -> str:
    """Cause a warning."""
    warnings.warn("mind the gap", UserWarning, stacklevel=1)
    return "warned"


# ------------------------------------------------------------------------------------------------------------- pickles


class ExitsInWorker:
    """An argument that ends the process which unpickles it, but not the one that made it."""

    def __init__(self) -> None:
        self.maker = os.getpid()

    def __setstate__(self, state: dict[str, int]) -> None:
        if os.getpid() != state["maker"]:
            os._exit(3)


class FailsToUnpickle:
    """Can be pickled, not unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[()]]:
        return refuse, ()


class TellsWhenPickled:
    """Sets off something in the moment when it is pickled."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def __reduce__(self) -> tuple[Callable[..., object], tuple[()]]:
        self._tell()
        return tuple, ()


def refuse() -> None:
    """Fail while something is unpickled."""
    raise ValueError("does not want to be unpickled")


def make_a_lock() -> Any:
    """Return what cannot be pickled."""
    return threading.Lock()


def make_fails_to_unpickle() -> Any:
    """Return what can be pickled, not unpickled."""
    return FailsToUnpickle()


def make_nested(depth: int) -> list[Any]:
    """Return a list in a list in a list: deeper than pickle can follow."""
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def die_while_sending(size: int) -> tuple[TellsWhenPickled, bytes]:
    """Return a large result, and be killed while it is on its way.

    What tells stands before the bytes; the copying of the bytes keeps the interpreter lock, so the killer, who needs
    it, comes next when the sending lets go of it.
    """
    is_pickling = threading.Event()

    def kill() -> None:
        is_pickling.wait()
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    return TellsWhenPickled(is_pickling.set), bytes(size)


# ----------------------------------------------------------------------------------------------------------- processes


def kill_self() -> None:
    """Kill this worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def nap_or_die(number: int, victim: int, seconds: float) -> int:
    """Return the number after some seconds, unless it is the victim's."""
    time.sleep(seconds)
    if number == victim:
        kill_self()
    return number


def die_the_first_time(path: str) -> str:
    """Kill this worker, unless a first attempt has left its mark."""
    if Path(path).exists():
        return "second attempt"
    Path(path).touch()
    kill_self()
    return "never"


def freeze(path: str) -> None:
    """Say which process this is, then stop it as a debugger or a full terminal would."""
    Path(path).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_the_interpreter_lock(path: str) -> int:
    """Say that it runs, then compute in C code that never lets go of the interpreter lock."""
    Path(path).touch()
    return sum(itertools.repeat(0, 10**13))


def fork_and_return() -> tuple[int, int]:
    """Fork, and return in the parent and in the child: the pid before, and the pid after."""
    before = os.getpid()
    os.fork()
    return before, os.getpid()


def close_descriptors() -> str:
    """Close what a careless daemonising library closes: every descriptor but the standard three."""
    os.closerange(3, 4096)
    return "closed"


def start_a_child(path: str) -> None:
    """Start a program, say which process it is, and wait for it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(path).write_text(str(child.pid))
    child.wait()


def leave_a_thread() -> str:
    """Leave a thread behind that never ends, and that is no daemon."""
    threading.Thread(target=threading.Event().wait, daemon=False).start()
    return "left"


def use_a_pool() -> int:
    """Use a pool of one's own in a task."""
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(double, 21).result()


def take_the_modules_lock() -> str:
    """Take a lock of this module, which somebody may have held in a process that this one was forked from."""
    with LOCK:
        return "taken"


# -------------------------------------------------------------------------------------------------------- initializers


def fail_to_initialize() -> None:
    """Fail as an initializer does that misses something."""
    raise ValueError("no licence found")


def keep_lock(lock: Any) -> None:
    """Keep a lock of multiprocessing for the tasks of this worker."""
    _shared.append(lock)


def take_the_kept_lock() -> str:
    """Take the lock that the initializer kept."""
    with _shared[-1]:
        return "taken"
