"""Checks witness.py: whatever changes a pickle is noticed, and what changes none is not taken for a change."""

from __future__ import annotations

import enum
import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

from crew_executor.witness import OBJECTS_MAX, PICKLE_BYTES_MAX, Witness

HOME = """
import abc
import collections
import contextvars
import xml
import dataclasses
import enum
import functools
import json
import logging
import re
import threading
import typing
from typing import NamedTuple

number = 1
words = ("one", ("two", 2.0))
mixed = ("one", ["two"])
settings = {"depth": [1, 2]}
items = [1, 2]
pattern = re.compile("a+")
log = logging.getLogger("home")
lock = threading.Lock()
nothing = None
unlisted = {1, 2}

def plain(x):
    return number + x

def branching(x):
    return later(x) if x else len(words)

def with_default(x, y=1, *, z=[2]):
    return x + y + z[0]

def marked(x):
    return x

marked.mark = [1]

def outer():
    inside = [1]
    def inner():
        return inside
    return inner

closing = outer()

def wrapper(function):
    @functools.wraps(function)
    def wrapped(*args):
        return function(*args)
    return wrapped

decorated = wrapper(plain)

@functools.lru_cache(maxsize=3)
def remembering(x):
    return x

def handler():
    return 1

class Base:
    scale = 2

class Point(Base):
    origin = (0, 0)
    seen = []
    handlers = {"first": handler}

    def __init__(self, x):
        super().__init__()
        self.x = x

    def norm(self):
        return self.x * self.scale

    @property
    def double(self):
        return 2 * self.x

    @classmethod
    def make(cls):
        return cls(1)

    @staticmethod
    def help(y=[1]):
        return y

    @functools.cached_property
    def slow(self):
        return self.x

    class Inner:
        depth = 1

class Slotted:
    __slots__ = ("x",)

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

class Square(Shape):
    def area(self):
        return 1

units = {"names": "km"}

def annotated(x: int) -> int:
    return x

limits = {"low": 1}

class Limit:
    depth = 1

def limited(x: typing.Annotated[int, limits], y: typing.Optional[Limit], z: "dict[str, list[int]] | None") -> None:
    return x

limited.__annotations__ |= {
    "x": typing.Annotated[int, limits], "y": typing.Optional[Limit], "z": dict[str, list[int]] | None
}

def packaged(x):
    return xml.etree.ElementInclude

class Around:
    tree = {"c": Base, "in": [1]}
    tree["self"] = tree
    tree["in"].append(tree)

letters = ["a"]
variable = contextvars.ContextVar("variable", default=letters)

@dataclasses.dataclass
class Config:
    depth: int = 1
    names: list = dataclasses.field(default_factory=lambda: ["a"], metadata=units)

class Color(enum.Enum):
    RED = 1
    BLUE = 2

class Pair(NamedTuple):
    first: int
    second: int = 2

Old = collections.namedtuple("Old", "a b")

point = Point(3)
config = Config(3)
red = Color.RED
partial = functools.partial(plain, 1)
pair = Pair(1)
"""


@pytest.fixture
def home() -> Iterator[Any]:
    """A module that travels by value."""
    module = ModuleType("home")
    sys.modules["home"] = module
    exec(HOME, module.__dict__)
    cloudpickle.register_pickle_by_value(module)
    yield module
    cloudpickle.unregister_pickle_by_value(module)
    del sys.modules["home"]


def watching(home: Any, name: str) -> Witness:
    witness = Witness()
    assert witness.watch(vars(home), name)
    assert witness.is_current()
    return witness


WATCHED = [
    "number", "words", "mixed", "settings", "items", "pattern", "log", "lock", "nothing", "unlisted", "plain",
    "branching", "with_default", "marked", "closing", "decorated", "remembering", "Base", "Point", "Slotted", "Shape",
    "Square", "Config", "Color", "annotated", "limited", "packaged", "Around", "variable", "Pair", "Old",
    "point", "config", "red",
    "partial", "pair", "json", "enum",
]  # fmt: skip


@pytest.mark.parametrize("name", WATCHED)
def test_it_stays_as_it_is_while_it_is_used(home: Any, name: str) -> None:
    witness = watching(home, name)
    value = getattr(home, name)
    repr(value)
    if isinstance(value, type) and issubclass(value, enum.Enum):
        list(value)
    elif callable(value) and name in ("plain", "with_default", "marked", "closing", "decorated", "remembering"):
        value(*[1] * (name != "closing"))

    assert witness.is_current()


@pytest.mark.parametrize("name", WATCHED)
def test_another_value_is_noticed(home: Any, name: str) -> None:
    witness = watching(home, name)
    setattr(home, name, ["something else"])

    assert not witness.is_current()


@pytest.mark.parametrize("name", WATCHED)
def test_that_it_is_gone_is_noticed(home: Any, name: str) -> None:
    witness = watching(home, name)
    delattr(home, name)

    assert witness.is_current() == (name == "nothing")  # None is what is sent in both cases


CHANGES = [
    ("number", "number = True"),
    ("words", "words = ('one', ('two', 2.0), 3)"),
    ("mixed", "mixed[1].append('three')"),
    ("settings", "settings['depth'].append(3)"),
    ("settings", "settings['more'] = 1"),
    ("items", "items[0] = True"),
    ("unlisted", "unlisted.add(3)"),
    ("pattern", "pattern = re.compile('a*')"),
    ("plain", "plain.__code__ = (lambda x: 5).__code__"),
    ("plain", "plain.__defaults__ = (1,)"),
    ("plain", "plain.__kwdefaults__ = {'x': 1}"),
    ("plain", "plain.attribute = 1"),
    ("branching", "later = handler"),
    ("with_default", "with_default.__defaults__ = (2,)"),
    ("with_default", "with_default.__kwdefaults__['z'] = [3]"),
    ("with_default", "with_default.__kwdefaults__['z'].append(3)"),
    ("marked", "marked.mark.append(2)"),
    ("marked", "marked.mark = [1]"),
    ("marked", "marked.more = 1"),
    ("closing", "closing.__closure__[0].cell_contents = [1]"),
    ("closing", "closing.__closure__[0].cell_contents.append(2)"),
    ("closing", "del closing.__closure__[0].cell_contents"),
    ("decorated", "plain.__code__ = (lambda x: 5).__code__"),
    ("remembering", "remembering.__wrapped__.__code__ = (lambda x: 5).__code__"),
    ("Base", "Base.scale = 3"),
    ("Base", "Base.more = 3"),
    ("Base", "del Base.scale"),
    ("Point", "Base.scale = 3"),
    ("Point", "Point.origin = (0, 1)"),
    ("Point", "Point.seen.append(1)"),
    ("Point", "Point.handlers['second'] = handler"),
    ("Point", "Point.handlers['first'] = plain"),
    ("Point", "handler.__code__ = plain.__code__"),
    ("Point", "Point.norm.__code__ = (lambda self: 5).__code__"),
    ("Point", "Point.norm.__defaults__ = (5,)"),
    ("Point", "Point.double.fget.__code__ = (lambda self: 5).__code__"),
    ("Point", "Point.__dict__['make'].__func__.__code__ = (lambda cls: 5).__code__"),
    ("Point", "Point.help.__defaults__[0].append(2)"),
    ("Point", "Point.slow = property(len)"),
    ("Point", "Point.Inner.depth = 2"),
    ("Point", "Point.__bases__ = (Other,)"),
    ("Slotted", "Slotted.more = 1"),
    ("Shape", "Shape.register(Slotted)"),
    ("Square", "Square.area = plain"),
    ("Config", "Config.depth = 2"),
    ("Config", "Config.__dataclass_fields__['names'].default_factory.__code__ = (lambda: []).__code__"),
    ("Color", "Color.RED._more = 1; Color.more = 1"),
    ("Pair", "Pair.first = property(len)"),
    ("Old", "Old.a = 1"),
    ("point", "point.x = 4"),
    ("config", "config.names.append('b')"),
    ("red", "red = Color.BLUE"),
    ("partial", "partial = functools.partial(plain, 2)"),
    ("variable", "letters.append('b')"),
    ("plain", "plain.__doc__ = 'new'"),
    ("plain", "plain.__name__ = 'other'"),
    ("plain", "plain.__qualname__ = 'other'"),
    ("plain", "plain.__module__ = 'other'"),
    ("marked", "marked.__dict__ = {'mark': marked.mark}"),
    ("annotated", "annotated.__annotations__ = {}"),
    ("limited", "limits['low'] = 5"),
    ("limited", "limited.__annotations__['y'].__args__[0].depth = 5"),
    ("plain", "plain.__annotations__ = {'x': int}"),
    *([] if sys.version_info >= (3, 14) else [("annotated", "annotated.__annotations__['x'] = str")]),
    ("packaged", "import xml.etree.ElementInclude"),
    ("Point", "Point.norm.__doc__ = 'new'"),
    ("Point", "Point.__name__ = 'Dot'"),
    ("Point", "Point.double.__doc__ = 'new'") if sys.version_info >= (3, 12) else ("Point", "del Point.double"),
    ("Point", "Point.__dict__['slow'].func = handler"),
    ("Point", "Point.__dict__['slow'].attrname = 'other'"),
    ("remembering", "remembering.__wrapped__ = plain"),
    ("Config", "units['names'] = 'm'"),
    ("Config", "Config.__dataclass_fields__['depth'].default = 5"),
    ("Config", "Config.__dataclass_fields__['depth'].type = str"),
    ("Config", "Config.__dataclass_params__.eq = 5"),
    ("Color", "Color.RED._name_ = 'ROT'"),
    ("Around", "Around.tree['more'] = 1"),
    ("Around", "Around.tree['in'].append(1)"),
    ("Around", "Around.tree['c'].scale = 7"),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[f"{name}: {change}" for name, change in CHANGES])
def test_a_change_is_noticed(home: Any, name: str, change: str) -> None:
    exec("class Other:\n    scale = 2", home.__dict__)
    witness = watching(home, name)
    exec(change, home.__dict__)

    assert not witness.is_current()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("plain", "plain.__dict__"),
        ("plain", "unrelated = 1"),
        ("branching", "words = ()"),  # that is another global, which the caller watches
        ("Point", "Point(1).more = 2"),
        ("lock", "lock.acquire()"),
        ("remembering", "remembering(1)"),
        ("log", "log.setLevel(10)"),
    ],
)
def test_what_changes_no_pickle_is_no_change(home: Any, name: str, change: str) -> None:
    witness = watching(home, name)
    exec(change, home.__dict__)

    assert witness.is_current()


@pytest.mark.parametrize(
    "definition",
    [
        "value = open(__import__('os').devnull)",
        "value = (number for number in ())",
        "value = [].append",
        "class Meta(type): pass\nclass value(metaclass=Meta): pass",
        "def make():\n    class value: pass\n    return value\nvalue = make()",
        "def make():\n    def value(): return later\n    return value\n    later = 1\nvalue = make()",
        "class value:\n    made = Point(1)",
        "class value:\n    file = open(__import__('os').devnull)",
        "import sys\nvalue = sys.modules['home']",
    ],
)
def test_what_it_cannot_be_sure_of_is_not_watched(home: Any, definition: str) -> None:
    exec(definition, home.__dict__)
    try:
        assert not Witness().watch(vars(home), "value")
    finally:
        for value in (home.value, getattr(home.value, "file", None)):
            if hasattr(value, "close"):
                value.close()


@pytest.mark.parametrize("kinds", ["(A,)", "frozenset([A])", "[A]", "{'a': A}"])
@pytest.mark.parametrize(
    "definition",
    [
        "class Meta(type): pass\nclass A(metaclass=Meta): pass",
        "class A:\n    origin = Point(1)",
        "class A:\n    def norm(self, other=Point(1)): pass\n    def later(self): pass",
    ],
)
def test_a_class_that_cannot_be_watched_is_not_wherever_it_was_seen_before(
    home: Any, definition: str, kinds: str
) -> None:
    exec(f"{definition}\nKINDS = {kinds}", home.__dict__)
    witness = Witness()
    witness.watch(vars(home), "KINDS")

    assert not witness.watch(vars(home), "A")
    assert not witness.watch(vars(home), "A")


def test_what_is_large_in_many_parts_is_not_watched(home: Any) -> None:
    exec("class A:\n    tree = {}", home.__dict__)
    home.A.tree.update({number: {"class": home.Base, "number": [number]} for number in range(OBJECTS_MAX)})
    assert not Witness().watch(vars(home), "A")
    witness = Witness()
    home.one, home.two = 2 * [[bytes(PICKLE_BYTES_MAX // 2 + 1)]]
    assert [witness.watch(vars(home), name) for name in ("one", "two")] == [True, False]
    assert PICKLE_BYTES_MAX // 2 < witness.size < PICKLE_BYTES_MAX


def test_what_refers_to_itself_many_times_is_looked_at_once(home: Any) -> None:
    exec("class A:\n    tree = {'a': Base}\n    for _ in range(40): tree = {'a': tree, 'b': tree}", home.__dict__)
    witness = watching(home, "A")
    home.A.tree["a"]["b"]["a"]["new"] = 1

    assert not witness.is_current()


def test_a_module_that_travels_by_value_from_now_on_is_a_change(home: Any) -> None:
    witness, module = watching(home, "plain"), ModuleType("another_home")
    sys.modules["another_home"] = module
    try:
        cloudpickle.register_pickle_by_value(module)
        assert not witness.is_current()
        cloudpickle.unregister_pickle_by_value(module)
        assert witness.is_current()
    finally:
        del sys.modules["another_home"]


def test_a_foreign_functions_globals_are_watched(home: Any) -> None:
    foreign: dict[str, Any] = {"__name__": "foreign", "flag": 1, "table": {"a": 1}}
    exec("def decorate(function):\n    def inner(): return flag, table, missing, function\n    return inner", foreign)
    home.value = foreign["decorate"](home.plain)
    home.value.__module__ = "home"
    for change in ("flag = 2", "table['a'] = 2", "missing = 1"):
        witness = watching(home, "value")
        exec(change, foreign)
        assert not witness.is_current(), change


@pytest.mark.parametrize(
    ("definition", "change"),
    [
        ("value = lambda x: x", "value.__code__ = (lambda x: 5).__code__"),
        ("value = lambda x, y=1: x", "value.__defaults__ = (2,)"),
        ("value = (lambda y: lambda x: y)(1)", "value.__closure__[0].cell_contents = 2"),
        ("value = lambda x: later", "later = 1"),
        ("value = lambda x: x", "value.mark = 1"),
    ],
)
def test_a_change_of_a_function_that_is_no_global_is_noticed(home: Any, definition: str, change: str) -> None:
    exec(definition, home.__dict__)
    witness = Witness()
    assert witness.watch_function(home.value)
    assert witness.is_current()
    exec(change, home.__dict__)

    assert not witness.is_current()


@pytest.mark.parametrize(
    "definition",
    [
        "value = lambda x, y=[1]: x",
        "value = lambda x, *, y=1: x",
        "value = lambda x: x\nvalue.mark = 1",
        "value = (lambda y: lambda x: y)([1])",
        "value = (lambda y: lambda x: y)(plain)",
        "def outer():\n    def value(): return later\n    return value\n    later = 1\nvalue = outer()",
        "value = eval('lambda x: x', {'__name__': 'home', 'more': 1})",
    ],
)
def test_a_function_that_holds_something_is_not_watched(home: Any, definition: str) -> None:
    exec(definition, home.__dict__)

    assert not Witness().watch_function(home.value)


def test_what_raises_is_a_change(home: Any) -> None:
    class Fragile:
        is_broken = False

        def __reduce__(self) -> Any:
            if self.is_broken:
                raise ValueError("broken")
            return (str, ())

    home.value = fragile = Fragile()
    witness = watching(home, "value")
    fragile.is_broken = True

    assert not witness.is_current()


def test_it_keeps_no_value_that_has_a_pickle(home: Any) -> None:
    class Array(list[int]):
        __reduce__ = None  # type: ignore[assignment]

        def __reduce_ex__(self, _protocol: Any) -> Any:
            return (list, ())

    home.value = Array()
    witness, seen = watching(home, "value"), weakref.ref(home.value)
    del home.value
    gc.collect()

    assert seen() is None
    assert not witness.is_current()


def test_a_long_pickle_is_not_watched(home: Any) -> None:
    home.value = [bytes(PICKLE_BYTES_MAX)]

    assert not Witness().watch(vars(home), "value")


def test_a_dictionary_that_changes_meanwhile_is_a_change(home: Any) -> None:
    """Another thread adds attributes while they are looked at: that is a change, and no error."""
    witness, is_over = watching(home, "Point"), threading.Event()

    def add() -> None:
        number = 0
        while not is_over.is_set():
            setattr(home.Point, f"attribute_{number % 50}", number)
            number += 1

    thread = threading.Thread(target=add)
    thread.start()
    try:
        assert not any([witness.is_current() for _ in range(2000)][100:])
    finally:
        is_over.set()
        thread.join()
