"""Workers on this machine: forked by the supervisor, or started as fresh interpreters."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..process_settings import current_environment, current_settings
from .base import DEFAULT_MAX_FAILED_LAUNCHES, DEFAULT_STARTUP_TIMEOUT, BaseLauncher, Invitation, WorkerExit
from .equipment import DEVICES_VARIABLE, Equipment, Outfit, exclusive, own_devices

BYTES_MAX = 1 << 62
"""More than the kernel takes as a limit."""

OMP_FOLLOWERS = {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"}
"""Whoever reads one of these reads OMP_NUM_THREADS if it is not set."""


class LocalLauncher(BaseLauncher):
    """Start workers on this machine.

    Args:
        startup_timeout: seconds from a launch until the worker must have joined.
        walltime: seconds after which a worker is let go once its running task is done, or None.
        max_failed_launches: so many failed launches in a row, with no worker at work, break the pool.
        python: the interpreter to start each worker with. None forks workers of the supervisor, a fresh interpreter
            that has imported what they need: milliseconds instead of a tenth of a second.
        python_args: options for that interpreter; None passes those of this one.
        max_worker_memory: bytes of resident memory above which a worker is replaced once its running task is done, or
            None: for code that leaks.
        max_task_memory: bytes of data that a worker may have while it runs a task, or None. A task that needs more
            fails with MemoryError. The kernel counts what is allocated, used or not (RLIMIT_DATA); on macOS it does
            not enforce the limit.
        gpus: how many GPUs of this machine the workers may use, or which ones, as CUDA names them. Each belongs to one
            worker at a time, which has one, or several where there are more GPUs than workers; other workers see none.
            None: all see what this process sees.
        resources: what each worker has besides, amounts by name: see options(resources=...).
    """

    def __init__(
        self,
        *,
        startup_timeout: float = DEFAULT_STARTUP_TIMEOUT,
        walltime: float | None = None,
        max_failed_launches: int = DEFAULT_MAX_FAILED_LAUNCHES,
        python: str | os.PathLike[str] | None = None,
        python_args: tuple[str, ...] | None = None,
        max_worker_memory: int | None = None,
        max_task_memory: int | None = None,
        gpus: int | Sequence[int | str] | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            startup_timeout=startup_timeout, walltime=walltime, max_failed_launches=max_failed_launches,
            resources=resources,
        )  # fmt: skip
        self._devices = own_devices(gpus)
        if gpus is not None and "gpus" in self.resources:
            raise ValueError("gpus= says how many GPUs workers have: leave them out of resources=")
        self.python = None if python is None else os.fsdecode(python)
        self.python_args = python_args
        self.max_worker_memory = _checked_bytes("max_worker_memory", max_worker_memory)
        self.max_task_memory = _checked_bytes("max_task_memory", max_task_memory)

    def outfit(self, workers: int) -> Outfit:
        """Return what workers have: some of them GPUs."""
        if self._devices is None:
            return super().outfit(workers)
        sets = [
            Equipment({**self.resources, "gpus": len(devices)}, devices)
            for devices in exclusive(self._devices, workers)
        ]
        return Outfit(self.resources, (), sets)

    def with_python(self, python: str) -> LocalLauncher:
        """Return a launcher like this one that starts each worker with its own interpreter."""
        twin = copy.copy(self)
        twin.python = python
        return twin

    def prepare(self) -> None:
        """Start the supervisor: its imports go on beside the client's own.

        Raises:
            ValueError: `python_args` without `python`: workers are forks of a process that has no such options.
        """
        if self.python_args is not None and self.python is None:
            raise ValueError(
                "python_args are options of the interpreter that LocalLauncher(python=...) names: name one"
            )
        from . import supervisor_handle  # late, as all imports of it here: with subprocess it takes 10 ms

        supervisor_handle.current()
        import multiprocessing  # noqa: F401  beside the supervisor's imports; launch() needs it

    def launch(self, invitation: Invitation, on_exit: Callable[[WorkerExit], None]) -> None:
        """Order a worker of the supervisor, and return.

        Args:
            invitation: what to hand to the worker.
            on_exit: called once, from any thread, when the worker's process is over or never was.

        Raises:
            LaunchError: it could not even be tried.
        """
        from ..inheritance import tracker_fd  # late: see prepare()
        from . import supervisor_handle

        handle = supervisor_handle.current()
        with contextlib.ExitStack() as stack:
            own = (_duplicate(fd, stack) for fd in (tracker_fd(), 1, 2))
            descriptors = (*own, *invitation.descriptors)
            common = self._common(invitation)
            handle.launch(_launch_id(invitation), self._own(invitation), common, descriptors, on_exit)

    def kill(self, invitation: Invitation, signal_number: int) -> None:
        """Send a signal to a worker and the processes its tasks started; "already gone" is no error."""
        from . import supervisor_handle

        handle = supervisor_handle.running()
        if handle is not None:
            handle.kill(_launch_id(invitation), signal_number)

    def stop(self, invitation: Invitation, ordinal: int) -> None:
        """Let the supervisor end the run of one task: interrupt it, and kill its worker if that does not help.

        Args:
            invitation: the worker's.
            ordinal: the number of the task on the worker's link. If the worker is beyond it, nothing happens to it.
        """
        from . import supervisor_handle

        handle = supervisor_handle.running()
        if handle is not None:
            handle.stop(_launch_id(invitation), ordinal)

    def describe(self) -> str:
        """Return the interpreter's command, or that workers are forked."""
        if self.python is None:
            return f"forked by the supervisor ({sys.executable})"
        return " ".join([self.python, *self._arguments(), "-c", "..."])

    def _arguments(self) -> list[str]:
        if self.python_args is not None:
            return list(self.python_args)
        from . import supervisor_handle

        return supervisor_handle.interpreter_arguments()

    @staticmethod
    def _own(invitation: Invitation) -> dict[str, Any]:
        """Return what a worker has for itself."""
        return {
            "name": invitation.name,
            "run": invitation.run,
            "secret": invitation.secret,
            "idle_timeout": invitation.idle_timeout,
            "own_env": _devices(invitation.devices),
        }

    def _common(self, invitation: Invitation) -> dict[str, Any]:
        """Return what it has in common with the last one, as a rule."""
        import multiprocessing

        message: dict[str, Any] = {
            "env": _environment(invitation.environment),
            "authkey": bytes(multiprocessing.current_process().authkey).hex(),
            "cwd": working_directory(),
            "sys_path": list(map(str, sys.path)),
            "argv": list(map(str, getattr(sys, "argv", [""]))),
            "main": self._main_module(),
            "settings": current_settings(),
            "python": self.python,
            "max_worker_memory": self.max_worker_memory,
            "max_task_memory": self.max_task_memory,
        }
        if self.python is not None:
            message["python_args"] = self._arguments()
            from . import supervisor_handle

            message["boot"] = supervisor_handle.boot_arguments("worker.process", "start_after_exec", [])
        return message

    def _main_module(self) -> dict[str, str | None]:
        """Return what multiprocessing, in a task, must know to import the client's main module in its own processes."""
        return main_module()


def main_module() -> dict[str, str | None]:
    """Return where this process's main module comes from."""
    main = sys.modules.get("__main__")
    path, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    return {"file": None if path is None else os.path.abspath(path), "name": getattr(spec, "name", None)}


def _checked_bytes(name: str, number: int | None) -> int | None:
    if number is None:
        return None
    if not isinstance(number, int):
        raise TypeError(f"{name} must be None or a whole number of bytes, not {type(number).__name__}")
    if not 0 < number <= BYTES_MAX:
        raise ValueError(f"{name} must be None or a number of bytes above 0 and up to {BYTES_MAX}, not {number}")
    return number


def _environment(defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the client's environment as it is now, with defaults for what the user has not set."""
    environment = current_environment()
    if "OMP_NUM_THREADS" in environment:  # the user has told those as well: none of ours must tell them otherwise
        defaults = {name: value for name, value in defaults.items() if name not in OMP_FOLLOWERS}
    return {**defaults, **environment}


def _devices(devices: tuple[str, ...] | None) -> dict[str, str]:
    return {} if devices is None else {DEVICES_VARIABLE: ",".join(devices)}


def _launch_id(invitation: Invitation) -> str:
    return f"{invitation.run:x}/{invitation.name}"


def working_directory() -> str:
    """Return this process's working directory."""
    try:
        return os.getcwd()
    except OSError:  # deleted under our feet; the worker stays where the supervisor is
        return "/"


def _duplicate(fd: int, stack: contextlib.ExitStack) -> int:
    """Duplicate a descriptor of the client as it is now, or /dev/null when it is closed."""
    try:
        duplicate = os.dup(fd)
    except OSError:
        duplicate = os.open(os.devnull, os.O_RDWR)
    stack.callback(os.close, duplicate)
    return duplicate
