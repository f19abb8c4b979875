"""Exceptions to bytes and back, with their real frames: the only importer of tblib.

An exception travels with its attributes, `__cause__`, `__context__`, `__notes__` and traceback frames. What cannot
travel comes as a RemoteTaskError that carries the original's type, text and formatted traceback. Nothing is installed
globally: the reducers live in the pickler of this module alone.
"""

from __future__ import annotations

import os
import pickle
import re
import threading
from collections.abc import Callable
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any

from . import late, namespace, serialize
from .errors import CrewError, RemoteTaskError
from .frames import Remembered

if TYPE_CHECKING:
    import traceback

TEXT_MAX = 100_000
"""Characters of a formatted traceback that travel; a RecursionError has a thousand frames."""


FRAMES_FIRST, FRAMES_LAST = 20, 80
"""Frames of a traceback that travel, of each exception of a chain."""
CHAIN_MAX = 100
"""Exceptions of a chain that travel as such, one caused by the next; pickle's recursion bears some 300."""

_FOLDER = os.path.dirname(__file__) + os.sep
_FRAME = re.compile(r'  File ".*", line \d+ in ')
"""A line of faulthandler's."""
_WORKERS_FRAME = re.compile(
    r'  File ".*[/\\]crew_executor[/\\](__main__|agent|mapping|seeding|supervisor|worker)\b[^"]*"'
)
_START_FRAME = re.compile(r'  File "(<string>|<frozen runpy>|.*[/\\]runpy\.py)", line \d+ in (<module>|_run_)')
"""The lines below these: how the interpreter was started."""


def load() -> None:
    """Import tblib ahead of its first use."""
    with late.imports():
        import tblib.pickling_support  # noqa: F401


def describe(
    error: BaseException, frames: TracebackType | None = None, *, is_interruptible: bool = True
) -> dict[str, str]:
    """Return an exception as text: its type, message and formatted traceback. Never raises.

    Frames of this package are left out of the text, unless it is this package that has raised an exception.

    Args:
        error: the exception.
        frames: its frames, where they are not those that it carries now.
        is_interruptible: a KeyboardInterrupt is the caller's; else it is what a user's __str__ has raised.
    """
    kind = type(error)
    failures: Any = (Exception, SystemExit, GeneratorExit) if is_interruptible else BaseException
    try:
        text = str(error)
    except failures as broken:  # a user's __str__ may fail; its failure is the text then
        text = f"<no text: str() raised {type(broken).__name__}>"
    try:
        lines = _format(error, frames or error.__traceback__)
    except failures as broken:
        lines = f"<no traceback: formatting raised {type(broken).__name__}>"
    return {
        "type_name": f"{kind.__module__}.{kind.__qualname__}",
        "text": text[:TEXT_MAX],
        "traceback_text": lines[-TEXT_MAX:],
    }


_texts: Remembered[str] = Remembered()
_ENTANGLED = (CrewError, NameError, AttributeError, ImportError, SyntaxError)
"""Whose frames are shown in another way, or whose last line depends on them."""


def _format(error: BaseException, frames: TracebackType | None) -> str:
    with late.imports():
        import traceback  # late: the first worker is up sooner

    kind, is_followed = type(error), error.__context__ is not None and not error.__suppress_context__
    is_group = hasattr(kind, "exceptions")  # its class, for a user's attribute may do anything
    text = None
    if frames is not None and error.__cause__ is None and not (is_followed or is_group or issubclass(kind, _ENTANGLED)):
        text = _texts.of(frames, lambda: "".join(_formatted(error, frames).stack.format()) or None)
    if text is None:
        return "".join(_formatted(error, frames).format())
    last = traceback.TracebackException(kind, error, None, compact=True).format_exception_only()
    return "".join((_HEADER, text, *last))


_HEADER = "Traceback (most recent call last):\n"


def _formatted(error: BaseException, frames: TracebackType | None) -> traceback.TracebackException:
    import traceback

    formatted = traceback.TracebackException(type(error), error, frames, compact=True)
    if not isinstance(error, CrewError):
        _leave_out_ours(formatted)
    return formatted


def _leave_out_ours(formatted: traceback.TracebackException) -> None:
    """Leave our frames out of a traceback, and out of those that led to it; who wants them has the exception."""
    todo: list[traceback.TracebackException | None] = [formatted]
    seen: set[int] = set()
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        todo += (each.__cause__, each.__context__)
        if each.stack and not each.stack[-1].filename.startswith(_FOLDER):
            each.stack[:] = [frame for frame in each.stack if not frame.filename.startswith(_FOLDER)]


def without_worker(text: str) -> str:
    """Leave our frames, which called the task's, out of faulthandler's report in a text; a line says how many."""
    kept: list[str] = []
    frames: list[str] = []
    for line in [*text.split("\n"), ""]:
        if _FRAME.match(line):
            frames.append(line)
            continue
        last = len(frames)
        for ours in (_START_FRAME, _WORKERS_FRAME):
            while last and ours.match(frames[last - 1]):
                last -= 1
        if last and _WORKERS_FRAME.match("".join(frames[last : last + 1])):  # else none of them is ours, or all are
            frames[last:] = [f"  ... called by {len(frames) - last} frames of crew_executor's worker"]
        kept += [*frames, line]
        frames = []
    return "\n".join(kept[:-1])


def remote_error(report: dict[str, str], why: str) -> RemoteTaskError:
    """Return the exception that stands for one that could not travel."""
    return RemoteTaskError(
        f"{report['type_name']}: {report['text']} ({why}; the worker's traceback is in .traceback_text)",
        type_name=report["type_name"],
        text=report["text"],
        traceback_text=report["traceback_text"],
    )


def dumps_error(error: BaseException) -> bytes:
    """Pickle an exception with its frames and whatever hangs on it; raise what pickling raises.

    The result has been unpickled once here: a class whose `__init__` does not fit its args is found out in the
    worker, not in the client. If only an exception that led to this one cannot travel, a RemoteTaskError stands for
    that one; chains that lead back to themselves end there.
    """
    chain = _Chain(error)
    try:
        return _dumps_checked(error, chain.reduce)
    except Exception:
        if not chain.replace_untravelled():
            raise
    return _dumps_checked(error, chain.reduce)


def _dumps_checked(error: BaseException, reduce: Callable[[Any], Any]) -> bytes:
    data = namespace.dumps_answer(error, reduce)
    _checking.is_on = True
    try:
        loaded = pickle.loads(data)
    finally:
        _checking.is_on = False
    if type(loaded) is not type(error) and type(loaded).__qualname__ != type(error).__qualname__:
        raise pickle.PicklingError(f"{type(error).__qualname__} comes back as {type(loaded).__qualname__}")
    return data


class _Checking(threading.local):
    is_on = False
    """Whether this thread only tries to unpickle an exception: its frames are half of the work, and no danger."""


_checking = _Checking()


class _Chain:
    """An exception and those that led to it, through `__cause__` and `__context__`."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self._links: list[BaseException] = []
        self._stand_ins: dict[int, BaseException] = {}
        self._cut: set[tuple[int, int]] = set()  # pairs of ids: this one does not lead to that one
        self._walk()

    def _walk(self) -> None:
        """List the links, cut what leads back, and what lies too deep for pickle's recursion."""
        seen: set[int] = set()
        path: list[int] = []
        todo: list[tuple[BaseException, int]] = [(self._error, 0)]  # with its depth
        while todo:
            error, depth = todo.pop()
            del path[depth:]
            path.append(id(error))
            if id(error) in seen:
                continue
            seen.add(id(error))
            self._links.append(error)
            _shorten(error)
            for link in (error.__cause__, error.__context__):
                if link is None:
                    continue
                if id(link) in path:
                    self._cut.add((id(error), id(link)))
                elif depth + 1 == CHAIN_MAX:
                    self._stand_for(link, f"it is more than {CHAIN_MAX} exceptions back")
                else:
                    todo.append((link, depth + 1))

    def replace_untravelled(self) -> bool:
        """Let stand-ins travel for the links that cannot; return whether there are any. The first has none."""
        before = len(self._stand_ins)
        for link in self._links[1:]:
            try:
                _dumps_checked(link, _reduce)  # by itself: what led to it is another link
            except Exception as broken:
                self._stand_for(link, f"it cannot be pickled: {type(broken).__name__}: {broken}")
        return len(self._stand_ins) > before

    def _stand_for(self, link: BaseException, why: str) -> None:
        if id(link) not in self._stand_ins:
            self._stand_ins[id(link)] = remote_error(describe(link), why)

    def reduce(self, value: Any) -> Any:
        """Reduce whatever belongs to the exception, as pickle's reducer_override."""
        if not isinstance(value, BaseException):
            return _reduce(value)
        return _reduce(value, self._led_by(value, value.__cause__), self._led_by(value, value.__context__))

    def _led_by(self, error: BaseException, link: BaseException | None) -> BaseException | None:
        if link is None or (id(error), id(link)) in self._cut:
            return None
        return self._stand_ins.get(id(link), link)


def _shorten(error: BaseException) -> None:
    """Drop the middle of a long traceback: a RecursionError has a thousand frames, too deep for pickle's recursion."""
    frames = []
    frame = error.__traceback__
    while frame is not None:
        frames.append(frame)
        frame = frame.tb_next
    if len(frames) > FRAMES_FIRST + FRAMES_LAST:
        frames[FRAMES_FIRST - 1].tb_next = frames[-FRAMES_LAST]


def loads_error(data: Any, report: dict[str, str]) -> BaseException:
    """Unpickle an exception; RemoteTaskError made of the report when that fails."""
    try:
        error = pickle.loads(data)
    except BaseException as broken:  # even a SystemExit of some __setstate__: the future must get an error
        stand_in = remote_error(report, f"it cannot be unpickled here: {type(broken).__name__}: {broken}")
        stand_in.__cause__ = broken
        return stand_in
    if not isinstance(error, BaseException):
        return remote_error(report, f"it was unpickled as {type(error).__name__}, which is no exception")
    return error


_UNREDUCED = {
    SyntaxError: ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset", "print_file_and_line"),
    NameError: ("name",),
    AttributeError: ("name",),
}
"""What built-in exceptions keep beside their args and __dict__, so that plain pickle loses it."""


def _reduce(value: Any, cause: BaseException | None = None, context: BaseException | None = None) -> Any:
    """Reduce an exception, or a traceback; `cause` and `context`: what is to lead to it at the other end."""
    if isinstance(value, TracebackType):
        return _loads_frames, (_pickles.of(value, lambda: _dumps_frames(value)),)
    if not isinstance(value, BaseException):
        return NotImplemented
    with late.imports():
        from tblib import pickling_support  # late: only tasks that fail pay for it

    reduced = value.__reduce_ex__(serialize.PROTOCOL)
    if isinstance(reduced, str):
        raise pickle.PicklingError(f"{type(value).__qualname__} reduces to a global name, {reduced!r}")
    function, args, *state = reduced
    if _has_python_method(value, "__init__") and not _has_python_method(value, "__reduce__", "__reduce_ex__"):
        # The args are those of the built-in base, which the class's own __init__ need not accept.
        function, args, state = _Rebuild(type(value)), (args, value.__dict__), []
    kept = {name: getattr(value, name) for cls, names in _UNREDUCED.items() if isinstance(value, cls) for name in names}
    if kept:
        function, args = _Restore(kept), (function, args)
    notes = getattr(value, "__notes__", None)
    hung_on = (cause, value.__traceback__, context, value.__suppress_context__, notes)
    return (pickling_support.unpickle_exception, (function, args, *hung_on), *state)


_pickles: Remembered[bytes] = Remembered()


def _dumps_frames(traceback: TracebackType) -> bytes:
    with late.imports():
        from tblib import pickling_support

    _function, arguments = pickling_support.pickle_traceback(traceback)
    return pickle.dumps(arguments, serialize.PROTOCOL)


def _loads_frames(data: bytes) -> TracebackType | None:
    if _checking.is_on:
        return None
    with late.imports():
        from tblib import pickling_support

    frames: TracebackType | None = pickling_support.unpickle_traceback(*pickle.loads(data))
    return frames


def _has_python_method(value: object, *names: str) -> bool:
    return any(isinstance(getattr(type(value), name), FunctionType) for name in names)


class _Rebuild:
    """Make an exception without its Python __init__: the built-in one under it sets what it knows from the args."""

    def __init__(self, cls: type[BaseException]) -> None:
        self.cls = cls

    def __call__(self, args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
        error = self.cls.__new__(self.cls, *args)
        inits = (base.__dict__["__init__"] for base in self.cls.__mro__ if "__init__" in base.__dict__)
        built_in = next(init for init in inits if not isinstance(init, FunctionType))
        built_in(error, *args)
        error.__dict__.update(attributes)
        return error


class _Restore:
    """Make an exception and set what its args do not."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes

    def __call__(self, function: Any, args: tuple[Any, ...]) -> BaseException:
        error: BaseException = function(*args)
        for name, value in self.attributes.items():
            setattr(error, name, value)
        return error
