"""What a call is named after, and what is said of one that cannot be pickled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .notes import add_note


def command_of(fn: Any) -> str:
    """Return the qualified name of a callable; of a partial, that of its function."""
    while (name := getattr(fn, "__qualname__", None)) is None and hasattr(fn, "func"):
        fn = fn.func
    return f"{getattr(fn, '__module__', None) or 'builtins'}.{name or type(fn).__qualname__}"


def pickling_error(
    error: BaseException, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> BaseException:
    """Name what cannot be pickled; the error keeps the type that pickling gave it."""
    from concurrent.futures import Future  # late: a worker that submits nothing does without

    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    for place, value in (*enumerate(args), *kwargs.items()):
        if isinstance(value, Future):
            return TypeError(
                f"argument {place!r} of {name} is a future, which cannot be sent: pass its result, future.result()"
            )
    add_note(error, f"raised while pickling the call of {name} in the client")
    return error
