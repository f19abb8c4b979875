"""Which executor stands for which pool: itself in its own process, the front of its pool in one of its workers.

An executor gets into a worker in two ways. It was pickled; or a module that has one as a global is imported there. The
first is found by its run, the second by its birthplace: the line of the module that makes it, and how many that line
had made before. Without that, each worker would make a pool of its own, each worker of that one another, and so on.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

_executors: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_dispatchers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_joined: dict[int, Callable[[str, int], Any]] = {}
_births: Counter[tuple[str, int]] = Counter()
_IMPORT_FILE = "<frozen importlib._bootstrap>"


class Origin(NamedTuple):
    """What a worker must know of its executor.

    Attributes:
        run: tells executors apart.
        name, max_workers: the executor's.
        birthplace: see birthplace().
    """

    run: int
    name: str
    max_workers: int
    birthplace: tuple[str, int, int] | None

    def __reduce__(self) -> tuple[Any, ...]:
        return (_note, tuple(self))


_origins: dict[tuple[str, int, int], Origin] = {}  # in a worker: of the pools it belongs to


def _note(*fields: Any) -> Origin:
    origin = Origin(*fields)
    if origin.birthplace is not None:
        _origins[origin.birthplace] = origin
    return origin


def add(run: int, executor: Any) -> None:
    """Note an executor of this process."""
    _executors[run] = executor


def add_dispatcher(run: int, dispatcher: Any) -> None:
    """Note what does an executor's work. It may outlive the executor: its thread keeps it until the work is done."""
    _dispatchers[run] = dispatcher


def dispatchers() -> list[Any]:
    """Return the dispatchers of this process, the oldest first; also of executors that are forgotten."""
    # The references are copied in one step: another thread may make an executor meanwhile.
    return [dispatcher for each in _dispatchers.valuerefs() if (dispatcher := each()) is not None]


def forget_dispatchers() -> None:
    """Note none any more: in a forked child they are its parent's."""
    global _dispatchers
    _dispatchers = weakref.WeakValueDictionary()


def join(run: int, make_front: Callable[[str, int], Any]) -> None:
    """Note that this process is a worker; `make_front` returns what its tasks can submit to."""
    _joined[run] = make_front


def find(run: int, name: str, max_workers: int) -> Any:
    """Return what an executor that was pickled is here.

    Args:
        run: tells executors apart.
        name, max_workers: the executor's.

    Raises:
        RuntimeError: this process is neither its client nor one of its workers.
    """
    if run in _joined:
        return _joined[run](name, max_workers)
    executor = _executors.get(run)
    if executor is None:
        raise RuntimeError(
            f"executor {name} cannot be used in process {os.getpid()}: a task can submit to the pool that runs it, and "
            "to executors of its own"
        )
    return executor


def birthplace() -> tuple[str, int, int] | None:
    """Return where a module is making an executor: file, line, and how many it has made there before.

    None if no module is being imported, but for the program itself: functions make executors of their own.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    if frame is None or frame.f_globals.get("__name__") == "__main__":
        return None
    place = (frame.f_code.co_filename, frame.f_lineno)
    _births[place] += 1
    return (*place, _births[place])


def is_imported_by_worker() -> bool:
    """Answer whether the caller is a module that is being imported in a worker."""
    return bool(_joined) and birthplace() is not None


def front_for(place: tuple[str, int, int] | None) -> Any:
    """Return the front of the pool that this process is a worker of, if its executor was made there; else None."""
    origin = None if place is None else _origins.get(place)
    return None if origin is None or origin.run not in _joined else find(origin.run, origin.name, origin.max_workers)


def check_not_importing() -> None:
    """Refuse work of a module that a worker is importing: its own workers would import it too, and so for ever.

    The same goes for a script that multiprocessing imports in a process that it has spawned.

    Raises:
        RuntimeError: this process is a worker, and the caller is a module that is being imported.
    """
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "this process was spawned by multiprocessing and is importing the main module, which submits tasks: each "
            "process of the pool would do so again. Put that below `if __name__ == '__main__':`"
        )
    if not _joined:
        return
    module = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>" and module is None:
            module = frame
        if frame.f_code.co_filename == _IMPORT_FILE and module is not None:
            raise RuntimeError(
                f"{module.f_globals.get('__name__')} submits tasks while it is imported ({module.f_code.co_filename}, "
                f"line {module.f_lineno}), and this is a worker, which imports it to find a function: each worker "
                "would do so again. Put that into a function, or below `if __name__ == '__main__':`"
            )
        frame = frame.f_back
