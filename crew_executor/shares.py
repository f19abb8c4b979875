"""Constants that are sent to each worker once: executor.share(obj) returns what stands for the object in calls.

    client:  Shared, pickled in a call --> its Share goes with the task; a connection sends it before, once --> worker
    worker:  number, pickle, buffers --> the object, made when a task first needs it, and the same for all tasks

A Share lives as long as its handle, or a task that was given it, and then each worker forgets it. Nothing here sends.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, TypeVar

from . import serialize
from .buffers import incoming

if TYPE_CHECKING:
    from .segments import Segment

T = TypeVar("T")


class Share:
    """The client's side of one constant.

    Args:
        number: among the executor's.
        data: the object's pickle.
        content: its large buffers, or None.
    """

    __slots__ = ("__weakref__", "content", "data", "number", "whole")

    def __init__(self, number: int, data: bytes, content: Segment | bytes | None) -> None:
        self.number = number
        self.whole = Whole(data)
        self.data = data
        self.content = content

    def __reduce__(self) -> NoReturn:
        raise TypeError("a share is sent by its executor's connections")


class Whole:
    """A pickle that is sent to each host once, as the content of a segment is."""

    __slots__ = ("__weakref__", "_data", "size")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def view(self) -> memoryview:
        """Return it."""
        return memoryview(self._data)


class Beside(NamedTuple):
    """What goes to a worker beside or before a task: its large buffers, and the constants that it needs."""

    segment: Segment | None
    shares: tuple[Share, ...] = ()


class Shared(Generic[T]):
    """What stands for an object in calls of the executor that shared it; a task gets the object itself.

    When the last reference to it is gone, and the tasks that were given it are done, workers forget the object.
    """

    __slots__ = ("_name", "_share", "_type_name")

    def __init__(self, share: Share, name: str, type_name: str) -> None:
        self._share = share
        self._name = name
        self._type_name = type_name

    def __reduce__(self) -> Any:
        collection = getattr(_here, "collection", None)
        if collection is None or collection.name != self._name:
            raise TypeError(
                f"{self!r} can only be an argument of tasks of executor {self._name}: elsewhere nobody has the object"
            )
        collection.shares[self._share.number] = self._share
        return _resolve, (self._share.number,)

    def __repr__(self) -> str:
        return f"<shared {self._type_name} {self._share.number} of {self._name}>"


class _Collection:
    def __init__(self, name: str) -> None:
        self.name = name
        self.shares: dict[int, Share] = {}


_here = threading.local()


class Shares:
    """The constants of one executor.

    Args:
        name: the executor's.
        forget: called with the number of a share that nobody refers to any more, in any thread, at any moment.
    """

    def __init__(self, name: str, forget: Callable[[int], None]) -> None:
        self._name = name
        self._forget = forget
        self._last = 0

    def add(self, value: T, data: bytes, content: Segment | bytes | None) -> Shared[T]:
        """Return what stands for an object with this pickle and these buffers."""
        self._last += 1
        share = Share(self._last, data, content)
        weakref.finalize(share, self._forget, share.number).atexit = False
        return Shared(share, self._name, type(value).__qualname__)

    @contextlib.contextmanager
    def collecting(self) -> Iterator[dict[int, Share]]:
        """Yield a dictionary which is filled with the shares that are pickled meanwhile, in this thread."""
        before = getattr(_here, "collection", None)
        _here.collection = collection = _Collection(self._name)
        try:
            yield collection.shares
        finally:
            _here.collection = before

    @property
    def is_empty(self) -> bool:
        """Whether there has never been one: then none can be met."""
        return not self._last


# ---------------------------------------------------------------------- in the worker


class _Received(NamedTuple):
    data: bytes
    content: Any


_received: dict[int, _Received] = {}
_objects: dict[int, Any] = {}


def receive(number: int, data: bytes, content: Any) -> None:
    """Keep what has come for a number until a task asks for it."""
    _received[number] = _Received(data, content)


def forget(number: int) -> None:
    """Forget a constant; tasks that have kept the object keep it."""
    _received.pop(number, None)
    _objects.pop(number, None)


def _resolve(number: int) -> Any:
    """Return the object with this number: made once, the same for all tasks."""
    if number not in _objects:
        received = _received.get(number)
        if received is None:
            raise RuntimeError(
                f"shared object {number} has not been sent to this worker: a task must be given it by the client, not "
                "by another task"
            )
        with incoming(received.content):
            _objects[number] = serialize.loads(received.data)
    return _objects[number]
