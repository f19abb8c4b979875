"""Calls and results to bytes and back: the only importer of cloudpickle.

Plain pickle is ten times faster than cloudpickle, but it names functions instead of carrying them. That is wrong for
whatever lives in a module that a worker does not have: `__main__`, and modules registered with
cloudpickle.register_pickle_by_value. So: pickle first; if the bytes mention such a module, or pickling fails,
cloudpickle. A string that happens to contain the name costs time, never correctness; where a reducer looks at each
object anyway, it costs nothing.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable, Iterable
from types import CodeType, ModuleType
from typing import Any

from . import late
from .buffers import Buffers
from .handlers import is_from_handler

PROTOCOL = 5
MAIN_MODULES = ("__main__", "__mp_main__")
"""A program's main module, and its name in multiprocessing's children."""
_MAIN = b"_main__"  # what both end in


def dumps(
    value: Any,
    reduce: Callable[[Any], Any] | None = None,
    reduce_by_value: Callable[[Any], Any] | None = None,
    buffers: Buffers | None = None,
) -> bytes:
    """Pickle anything a user may hand over, functions of `__main__` and lambdas by value.

    Args:
        value: anything.
        reduce: asked first for each object, as pickle's reducer_override; NotImplemented leaves it to pickle.
        reduce_by_value: asked next, if something must travel by value.
        buffers: takes large buffers, which the pickle then is without.

    Raises:
        whatever cloudpickle raised.
    """
    data = dumps_by_name(value, reduce, buffers)
    if data is not None:
        return data
    return dumps_by_value(value, chained(reduce, reduce_by_value), buffers=buffers)


def dumps_by_name(
    value: Any, reduce: Callable[[Any], Any] | None = None, buffers: Buffers | None = None
) -> bytes | None:
    """Pickle with plain pickle, or return None if that fails or would name what a worker does not have."""
    watch = None if reduce is None else _Watch(reduce)
    take = _begin(buffers)
    try:
        if watch is None:
            data = pickle.dumps(value, PROTOCOL, buffer_callback=take)
        else:
            data = _dumps_with(value, watch.reduce, take)
    except Exception as error:  # a lambda, a local class: cloudpickle may know better, or raises the error to report
        if is_from_handler(error):
            raise
        return None
    if is_by_value(data) and (watch is None or watch.has_seen_by_value):
        return None
    return data if take is None else buffers.wrap(data)  # type: ignore[union-attr]


def _begin(buffers: Buffers | None) -> Callable[[pickle.PickleBuffer], bool] | None:
    """Return what pickle asks about each buffer, for a pickle that begins now."""
    if buffers is None:
        return None
    buffers.begin()
    return buffers.take


def dumps_each_by_name(values: Iterable[Any], buffers: Buffers) -> list[bytes] | None:
    """Pickle each of several values by itself, or return None if dumps_by_name() would for any of them.

    If large buffers were left out, the pickles are of no use: each must have its own.
    """
    take = _begin(buffers)
    pickles: list[bytes] = []
    parted: dict[int, bytes] = {}
    try:
        for value in values:
            data = pickle.dumps(value, PROTOCOL, buffer_callback=take)
            if buffers.views:
                parted[len(pickles)] = buffers.wrap(data)
                if buffers.views:
                    return pickles
            pickles.append(data)
    except (Exception, SystemExit) as error:  # of one of them, which is told when it is pickled alone
        if is_from_handler(error):
            raise
        return None
    if is_by_value(b"".join(pickles)):
        return None
    for place, whole in parted.items():
        pickles[place] = whole
    return pickles


class _Watch:
    """See whether a pickle names something of a module that workers do not have.

    pickle names classes, functions, and objects whose reduction is a string, and takes the module from `__module__`;
    it asks for a reduction of each of them first. What the reducer replaces is not named. Instances of C types have no
    `__module__`; those that pickle names (copyreg says how, as for numpy's ufuncs) it searches for in all modules.
    """

    def __init__(self, reduce: Callable[[Any], Any]) -> None:
        self._reduce = reduce
        self._verdicts: dict[str, bool] = {}
        self.has_seen_by_value = False

    def reduce(self, item: Any) -> Any:
        reduced = self._reduce(item)
        if reduced is NotImplemented and not self.has_seen_by_value:
            self.has_seen_by_value = self._is_by_value(item)
        return reduced

    def _is_by_value(self, item: Any) -> bool:
        try:
            module = item.__module__
            verdict = self._verdicts.get(module)
        except AttributeError:
            return type(item) in copyreg.dispatch_table
        except Exception:  # a user's attribute may do anything
            return True
        if verdict is None:
            verdict = not isinstance(module, str) or is_module_by_value(module)
            self._verdicts[module] = verdict
        return verdict


def chained(*reducers: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    """Return a reducer that asks these one after the other."""
    asked = [reducer for reducer in reducers if reducer is not None]
    if len(asked) < 2:
        return asked[0] if asked else None

    def reduce(item: Any) -> Any:
        for reducer in asked:
            reduced = reducer(item)
            if reduced is not NotImplemented:
                return reduced
        return NotImplemented

    return reduce


def _dumps_with(value: Any, reduce: Callable[[Any], Any], take: Callable[[pickle.PickleBuffer], bool] | None) -> bytes:
    buffer = io.BytesIO()
    pickler = _OpenPickler(buffer, PROTOCOL, buffer_callback=take)
    # The C pickler looks the method up on the instance when dump() begins.
    pickler.reducer_override = reduce  # type: ignore[method-assign]
    pickler.dump(value)
    return buffer.getvalue()


class _OpenPickler(pickle.Pickler):
    """A pickler that takes attributes: instances of the C class itself refuse them."""


def _make_code(make: Callable[..., CodeType], args: tuple[Any, ...], filename: str) -> CodeType:
    """Make a code object that knows where its lines are: since 3.1.3 cloudpickle does not keep that."""
    return make(*args).replace(co_filename=filename)


def load() -> None:
    """Import cloudpickle ahead of its first use."""
    with late.imports():
        import cloudpickle  # noqa: F401


loads: Callable[[Any], Any] = pickle.loads
"""Unpickle; cloudpickle's bytes are ordinary pickles."""


def is_by_value(data: bytes) -> bool:
    """Answer whether a pickle mentions a module that workers do not have."""
    if _MAIN in data:
        return True
    names = registered()
    return bool(names) and any(name.encode() in data for name in names)


def is_module_by_value(name: str) -> bool:
    """Answer whether what is defined in a module travels by value."""
    if name in MAIN_MODULES:
        return True
    if "cloudpickle" not in sys.modules:  # asked for each call; see registered()
        return False
    names = registered()
    while names and name:
        if name in names:
            return True
        name = name.rpartition(".")[0]
    return False


def ship(module: ModuleType) -> None:
    """Let what is defined in a module travel by value from now on."""
    with late.imports():
        import cloudpickle

    cloudpickle.register_pickle_by_value(module)


def registered() -> set[str]:
    """Return the names of modules that a program has registered to travel by value."""
    # Nobody can have registered a module with what is not imported, or not yet whole.
    return registry()()


def registry() -> Callable[[], set[str]]:
    """Return what tells these names, as long as cloudpickle is loaded or is not."""
    return getattr(sys.modules.get("cloudpickle"), "list_registry_pickle_by_value", set)


def dumps_by_value(
    value: Any,
    reduce: Callable[[Any], Any] | None = None,
    adapt: Callable[[Any, Any], Any] | None = None,
    buffers: Buffers | None = None,
) -> bytes:
    """Pickle with cloudpickle.

    Args:
        value: anything.
        reduce: asked first for each object, as pickle's reducer_override; NotImplemented leaves it to cloudpickle.
        adapt: called with each object and what cloudpickle has reduced it to; returns what to take instead.
        buffers: as in dumps().
    """
    with late.imports():
        import cloudpickle  # late: 15 ms that most programs need not pay

    main = sys.modules.get("__mp_main__")
    if main is not None and main.__name__ not in cloudpickle.list_registry_pickle_by_value():
        cloudpickle.register_pickle_by_value(main)
    buffer = io.BytesIO()
    pickler = cloudpickle.Pickler(buffer, PROTOCOL, buffer_callback=_begin(buffers))
    by_value = pickler.reducer_override
    reduce_code = pickler.dispatch_table[CodeType]

    def reducer_override(obj: Any) -> Any:
        reduced = NotImplemented if reduce is None else reduce(obj)
        if reduced is not NotImplemented:
            return reduced
        if isinstance(obj, CodeType):
            make, args = reduce_code(obj)
            return (make, args) if obj.co_filename in args else (_make_code, (make, args, obj.co_filename))
        reduced = by_value(obj)
        return reduced if adapt is None or reduced is NotImplemented else adapt(obj, reduced)

    # The C pickler looks the method up on the instance when dump() begins.
    pickler.reducer_override = reducer_override
    try:
        pickler.dump(value)
    finally:
        # It refers to the pickler, which remembers all that it has pickled: memory that would wait for the collector.
        # And that collector crashes on views of memory in a circle, up to Python 3.12.3 (CPython's issue 77894).
        del pickler.reducer_override
    return buffer.getvalue() if buffers is None else buffers.wrap(buffer.getvalue())
