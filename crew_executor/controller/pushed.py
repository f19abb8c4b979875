"""A task of a controller from push() to its record."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .result import Result, text_of_call

if TYPE_CHECKING:
    from .controller import Controller


class Call(NamedTuple):
    """What a task is made of."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    seed: int | None
    timeout: float | None


class Pushed:
    """A task that has no result yet.

    Attributes:
        owner: whose pop() gives the result.
        done: where it goes: the owner's queue, or a list of map().
        call: None when nobody could run it again.
        future: None until it is submitted.
        is_plain: without a name of the user's, a seed, a timeout.
    """

    __slots__ = ("call", "command", "done", "future", "is_plain", "name", "owner", "seed")

    def __init__(self, name: str, owner: Controller, done: deque[Result], call: Call) -> None:
        self.name = name
        self.owner = owner
        self.done = done
        self.call: Call | None = call
        self.command = text_of_call(call.fn, call.args, call.kwargs)
        self.seed = call.seed
        self.future: Any = None
        self.is_plain = False
