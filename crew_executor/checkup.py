"""What stands in the way of a call: what cannot be pickled, how large it is, whether workers can read it.

It tries, and believes nothing: each part is pickled as the call would be, and in the end the whole is unpickled by a
worker. The function is not called.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from . import table
from .buffers import Buffers
from .calls import command_of
from .obituary import in_words
from .shares import Shared

DEPTH_MAX = 12
"""So many steps into an object are taken to find the part of it that cannot be pickled."""
CHILDREN_MAX = 1000
"""So many parts of one object are tried."""
SHOWN_BYTES_MIN = 10_000
"""Parts below this are not worth a line of their own."""
SHARE_BYTES_MIN = 1_000_000


class Part(NamedTuple):
    """A part of a call.

    Attributes:
        path: as Python would write it: "args[0].model", "kwargs['table']", "fn".
        kind: the name of its type.
        size: of its pickle in bytes, with its buffers; None: it cannot be pickled.
    """

    path: str
    kind: str
    size: int | None


class Checkup(NamedTuple):
    """What was found. It is true if the call can be sent, and a worker can read it; str() says it in words.

    In words, "fn" is named: "the function area (fn)".

    Attributes:
        parts: the function and its arguments, one by one.
        problem: what cannot be pickled and why, or what the worker said; empty if there is nothing.
        culprit: the innermost part that cannot be pickled, or None.
        where: the worker that has read the call, or empty.
        name: what the function is called.
    """

    parts: tuple[Part, ...]
    problem: str
    culprit: Part | None
    where: str
    name: str = ""

    def __bool__(self) -> bool:
        return not self.problem

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        total = sum(part.size or 0 for part in self.parts)
        if self.problem:
            yield self.problem
        else:
            yield f"the call can be sent, {in_words(total)}, and {self.where} can read it"
        for part in self.parts:
            if part.size is not None and part.size >= SHOWN_BYTES_MIN:
                hint = "; if many calls have it, executor.share() sends it once" * (part.size >= SHARE_BYTES_MIN)
                path = _with_name(part.path, self.name) if part is self.parts[0] else part.path
                yield f"  {path} ({part.kind}): {in_words(part.size)}{hint}"


def look(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Checkup:
    """Pickle the parts of a call; return what was found, of workers nothing yet.

    Handles of share() can only be pickled while their executor collects them: see Shares.collecting().
    """
    name = command_of(fn).removeprefix("__main__.")
    values: dict[str, Any] = {"fn": fn}
    values |= {f"args[{number}]": value for number, value in enumerate(args)}
    values |= {f"kwargs[{key!r}]": value for key, value in kwargs.items()}
    parts = tuple(Part(path, type(value).__qualname__, _size(value)[0]) for path, value in values.items())
    for part in parts:
        if part.size is None:
            # Only the root of a path stands for the function: "fn" may be the name of a global or a keyword as well.
            root = _ROOT if part is parts[0] else part.path
            culprit, error = _find_culprit(root, values[part.path])
            words = f"{_with_name(culprit.path, name, _ROOT)} ({culprit.kind}) cannot be pickled: {error}"
            return Checkup(parts, words, culprit._replace(path=culprit.path.replace(_ROOT, "fn")), "", name)
    return Checkup(parts, "", None, "", name)


_ROOT = "\0"
"""Stands in paths for the function that is looked at."""


def _with_name(path: str, name: str, root: str = "fn") -> str:
    """Return a path in words that name the function at its root: "the global lock of the function area (fn)"."""
    if path.startswith(f"{root}."):
        return f"fn{path.removeprefix(root)} of the function {name}"
    inner = re.search(rf"{root}((?:\.\w+|\[\d+\])*)", path)
    if inner is None:
        return path
    named = f"fn{inner[1]} of the function {name}" if inner[1] else f"the function {name} (fn)"
    return path[: inner.start()] + named + path[inner.end() :]


def arrive(_fn: Any, _args: Any, _kwargs: Any) -> tuple[int, str]:
    """In a worker: nothing more is to be done, for the call has been read."""
    import socket

    return os.getpid(), socket.gethostname()


def _size(value: Any) -> tuple[int | None, str]:
    """Return the bytes of a value's pickle, or None and why there is none."""
    buffers = Buffers()
    try:
        data = table.dumps_call(value, None, buffers)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    return len(data) + sum(view.nbytes for view in buffers.views), ""


def _find_culprit(path: str, value: Any) -> tuple[Part, str]:
    """Go into a value that cannot be pickled, as long as one of its parts cannot be pickled either."""
    error = _size(value)[1]
    seen = {id(value)}
    for _depth in range(DEPTH_MAX):
        for inner_path, inner in _parts_of(path, value):
            if id(inner) in seen:
                continue
            seen.add(id(inner))
            size, why = _size(inner)
            if size is None:
                path, value, error = inner_path, inner, why
                break
        else:
            break
    return Part(path, type(value).__qualname__, None), error


def _parts_of(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value is made of, with its path, CHILDREN_MAX at most."""
    if isinstance(value, Shared):
        return  # one of another executor: what is in it is ours, and no part of the call
    for number, part in enumerate(_all_parts_of(path, value)):
        if number >= CHILDREN_MAX:
            return
        yield part


def _all_parts_of(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{path}[{key!r:.80}]", item) for key, item in list(value.items()))
        yield from ((f"a key of {path}", key) for key in list(value))
    elif isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", None)
        if names:
            yield from ((f"{path}.{name}", item) for name, item in zip(names, value, strict=False))
        else:
            yield from ((f"{path}[{number}]", item) for number, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"an item of {path}", item) for item in list(value))
    elif isinstance(value, FunctionType):
        yield from _parts_of_function(path, value)
    else:
        for name in ("__self__", "__func__", "func", "args", "keywords"):  # of methods and partials
            if not isinstance(value, (type, ModuleType)) and hasattr(value, name):
                yield f"{path}.{name}", getattr(value, name)
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict) and not isinstance(value, (type, ModuleType)):
            yield from ((f"{path}.{name}", item) for name, item in list(attributes.items()))
        for name in _slots_of(type(value)):
            if hasattr(value, name):
                yield f"{path}.{name}", getattr(value, name)


def _parts_of_function(path: str, function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"{name}, which {path} has from around it,", cell.cell_contents
        except ValueError:  # it is empty yet
            continue
    for number, item in enumerate(function.__defaults__ or ()):
        yield f"default {number} of {path}", item
    for name in function.__code__.co_names:
        if name in function.__globals__ and not isinstance(function.__globals__[name], ModuleType):
            yield f"the global {name} of {path}", function.__globals__[name]


def _slots_of(kind: type) -> Iterator[str]:
    for each in kind.__mro__:
        slots = each.__dict__.get("__slots__", ())
        yield from ((slots,) if isinstance(slots, str) else slots)


def judge(checkup: Checkup, error: BaseException | None, arrival: tuple[int, str] | None) -> Checkup:
    """Return what was found, now that a worker has tried to read the call."""
    if error is not None:
        said = f"{type(error).__name__}: {error}"
        hint = ""
        if isinstance(error, ImportError):
            hint = (
                "; what it needs must be installed where workers run, or be on the client's sys.path; to other hosts "
                "ship= of the launcher brings a module along"
            )
        return checkup._replace(problem=f"the call can be pickled, but a worker cannot read it: {said}{hint}")
    pid, host = arrival or (0, "")
    return checkup._replace(where=f"a worker (pid {pid} on {host})")
