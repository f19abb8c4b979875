"""Programs whose functions and classes are in `__main__`: run as scripts, as users write them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAD = "import abc, contextlib, dataclasses, enum, functools, os, sys, typing\nfrom crew_executor import CrewExecutor\n"

STATE = """
state = None
counter = 0
cache = {}
class Settings:
    level = 0
    def read(self): return self.level
class Loud(Settings): pass
def begin(value):
    global state
    state = value
    Settings.level = 9
def look(): return state, Settings.level, Settings().read()
def remember(key):
    global counter
    counter += 1
    cache[key] = cache.get(key, 0) + 1
    return cache[key], counter
def take(settings): return type(settings) is Settings, settings.read()
with CrewExecutor(1, initializer=begin, initargs=("begun",)) as executor:
    call = lambda *args: executor.submit(*args).result()
    assert call(look) == ("begun", 9, 9)
    assert [call(remember, key) for key in "aab"] == [(1, 1), (2, 2), (1, 3)]
    assert call(take, Settings()) == (True, 9)
    assert call(Loud().read) == 9
    assert call(look) == ("begun", 9, 9)
    assert call(lambda: (state, sys.modules["__main__"].state)) == ("begun", "begun")
    assert list(executor.map(lambda number: (number, state), range(3), chunksize=2)) == [(n, "begun") for n in range(3)]
    assert (state, counter, cache, Settings.level) == (None, 0, {}, 0)
    state = "changed here"
    assert call(look) == ("changed here", 9, 9)
    def look(): return "redefined", state
    assert call(look) == ("redefined", "changed here")
    class Settings:
        level = 1
    assert call(lambda: Settings.level) == 1
"""

CLASSES = """
class Shape(abc.ABC):
    kinds = {}
    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        Shape.kinds.setdefault(cls.__name__, []).append(cls)
    @abc.abstractmethod
    def area(self): ...
    @classmethod
    def build(cls, kind): return cls.kinds[kind][0]()
class Square(Shape):
    class Corner:
        def __eq__(self, other): return type(self) is type(other)
        def __hash__(self): return 5
    def area(self): return 4
@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 2
    others: typing.ClassVar[list] = []
Point.others.append(Point(1))
T = typing.TypeVar("T")
class Node(typing.Generic[T]):
    def __init__(self, value): self.value = value
    @functools.cached_property
    def twice(self): return 2 * self.value
Node.default = Node(7)
class Pair(typing.NamedTuple):
    left: int
    right: int = 3
class Colour(enum.Flag):
    RED = 1
    BLUE = 2
    @property
    def is_red(self): return bool(self & Colour.RED)
class Kind(type):
    tag = 1
class Slim(metaclass=Kind):
    __slots__ = ("value",)
    def __init__(self): self.value = 1
class Failure(Exception):
    def __init__(self, left, right):
        super().__init__(f"{left}{right}")
        self.left = left
def noisy(function):
    @functools.wraps(function)
    def wrapper(*args): return "noisy", function(*args), offset
    wrapper.calls = 0
    return wrapper
offset = 3
@noisy
def shift(number): return number + offset
@contextlib.contextmanager
def context(): yield offset
corner, corners = Square.Corner(), {Square.Corner()}
def check():
    assert Shape.build("Square").area() == 4
    assert Shape.kinds == {"Square": [Square]}, Shape.kinds
    assert Point.others == [Point(1)]
    assert Node.default.twice == 14 and type(Node.default) is Node
    assert Pair(1).right == 3 and (Colour.RED | Colour.BLUE).is_red and Colour(3) is Colour.RED | Colour.BLUE
    assert Slim().value == 1 and type(Slim) is Kind and Slim.tag == 1
    assert shift(1) == ("noisy", 4, 3)
    with context() as value: assert value == 3
    assert corner in corners and type(corner) is Square.Corner
    return Point(1), Pair(1), Square(), Node(3), Colour.RED | Colour.BLUE, Slim, corner, shift, check
def change():
    shift.calls += 1
    Square.seen = getattr(Square, "seen", 0) + 1
def look(square, function): return square.seen, function.calls, shift.calls, isinstance(square, Shape)
def fail(): raise Failure(1, 2)
def in_a_pool():
    from concurrent.futures import ProcessPoolExecutor
    import multiprocessing
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(shift, 1).result()
with CrewExecutor(1) as executor:
    call = lambda *args: executor.submit(*args).result()
    point, pair, square, node, colour, slim, corner_back, *functions = call(check)
    assert point == Point(1) and pair == Pair(1) and type(square) is Square and type(node) is Node and slim is Slim
    assert colour is Colour.RED | Colour.BLUE and corner_back == corner and functions == [shift, check]
    call(change)
    call(change)
    assert call(look, Square(), shift) == (2, 2, 2, True)
    assert (hasattr(Square, "seen"), shift.calls) == (False, 0)
    assert Shape.kinds == {"Square": [Square]}
    error = executor.submit(fail).exception()
    assert type(error) is Failure and error.left == 1
    retried = executor.options(retries=2, retry_on=Failure).submit(fail)
    assert type(retried.exception()) is Failure and retried.record().attempts == 3
    assert call(in_a_pool) == ("noisy", 4, 3)
    assert call(lambda: (os.path.basename(__file__), __name__)) == ("script.py", "__main__")
"""

LOCAL = """
import contextvars, queue, threading, weakref
lock, event, local, lines = threading.Lock(), threading.Event(), threading.local(), queue.Queue()
variable = contextvars.ContextVar("variable", default=4)
known = weakref.WeakValueDictionary()
class Counter:
    _lock = threading.RLock()
    count = 0
    @classmethod
    def up(cls):
        with cls._lock:
            cls.count += 1
        return cls.count
@functools.singledispatch
def kind(x): return "something"
@kind.register
def _(x: int): return "a number"
def use():
    local.count = getattr(local, "count", 0) + 1
    lines.put(1)
    with lock: return local.count, lines.qsize(), event.is_set(), variable.get(), len(known), kind(1), kind("1")
with CrewExecutor(1) as executor, lock:
    call = lambda *args: executor.submit(*args).result()
    assert [call(use)[:2], call(use)] == [(1, 1), (2, 2, False, 4, 0, "a number", "something")]
    assert [call(Counter.up), call(Counter.up)] == [1, 2]
    assert call(kind, 1) == "a number"
    assert isinstance(executor.submit(print, lock).exception(), TypeError)
    assert call(lambda: sys.argv) == sys.argv == [__file__]
"""


BURSTS = """
import random
rate, weights, notes = 1, [1, 2], {"seen": 0}
class Unit:
    factor = 2
    def __init__(self, number): self.number = number
    def value(self): return self.number * self.factor * rate
    def add(self, more): return self.number + more + len(weights)
    def __reduce__(self):
        if self.number == "bad": raise TypeError("this one cannot travel")
        if self.number == "exit": raise SystemExit("this one neither")
        return (Unit, (self.number,))
@dataclasses.dataclass
class Block:
    data: bytearray
class Short(Exception): pass
def plain(number): return number * rate + sum(weights)
def of_unit(unit): return unit.value() + len(notes)
def make(number): return Unit(number)
def noted(key):
    notes["seen"] += 1
    return notes["seen"]
def size(block): return len(block.data), type(block) is Block
def fail(number): raise Short(number)
def adder(by): return lambda number: number + by + rate
def flaky(unit, seen):
    with open(seen, "ab") as file: file.write(b".")
    if os.path.getsize(seen) < 3: raise Short(unit.number)
    return unit.value()
def expected(number):
    of_unit = number if Unit.value.__code__.co_name == "<lambda>" else number * Unit.factor * rate
    return number * rate + sum(weights), of_unit + len(notes), number + 5 + len(weights), number + 10 + rate
def burst(executor, numbers):
    ten = adder(10)
    futures = [
        (executor.submit(plain, n), executor.submit(of_unit, Unit(n)), executor.submit(Unit(n).add, 5),
         executor.submit(ten, n), executor.submit(functools.partial(plain, n)), executor.submit(plain, number=n),
         executor.submit(make, n), executor.submit(max, [Unit(n)], key=Unit.value))
        for n in numbers
    ]
    for n, (first, *more) in zip(numbers, futures):
        whole, unit, method, closed = expected(n)
        results = (first.result(), *[future.result() for future in more[:5]])
        assert results == (whole, unit, method, closed, whole, whole), n
        assert type(more[5].result()) is Unit and more[6].result().number == n
    assert list(executor.map(of_unit, map(Unit, numbers))) == [expected(n)[1] for n in numbers]
    assert list(executor.map(plain, numbers, chunksize=7)) == [expected(n)[0] for n in numbers]
with CrewExecutor(2) as executor:
    for change in ("", "rate = 3", "weights.append(4)", "Unit.factor = 5", "notes['more'] = 1", "weights = (7,)",
                   "Unit.value.__code__ = (lambda self: self.number).__code__", "del notes['more']", "rate = 1"):
        exec(change)
        burst(executor, range(150))
    futures = [executor.submit(fail, n) for n in range(100)]
    for n, future in enumerate(futures):
        assert type(future.exception()) is Short and future.exception().args == (n,)
    assert "fail" in futures[3].report()
    try: futures[3].replay()
    except Short as error: assert error.args == (3,)
    try: executor.submit(of_unit, Unit("bad")).result()
    except TypeError as error: assert "cannot travel" in str(error)
    results = executor.map(of_unit, [Unit(1), Unit(2), Unit("bad"), Unit(4)])
    assert [next(results), next(results)] == [1 + len(notes), 2 + len(notes)]
    try: next(results)
    except TypeError as error: assert "cannot travel" in str(error)
    results = executor.map(of_unit, [Unit(1), Unit("exit")])
    assert next(results) == 1 + len(notes)
    try: next(results)
    except SystemExit as error: assert "neither" in str(error)
    ended = executor.submit(of_unit, Unit(1))
    assert ended.result() and not ended._head, "a future would keep what the call used"
    blocks = [Block(bytearray(1_000_000 * (n % 3))) for n in range(12)]
    sizes = [(1_000_000 * (n % 3), True) for n in range(12)]
    assert list(executor.map(size, blocks)) == sizes
    assert [executor.submit(size, block).result() for block in blocks] == sizes
    view = executor.options(retries=4, retry_on=Short, name="flaky", seed=7)
    assert view.submit(flaky, Unit(3), sys.argv[0] + ".seen").result() == 3
    seeded = [view.submit(random.random) for _ in range(20)]
    assert len({future.result() for future in seeded}) == 20
    sys.path.append(os.path.dirname(sys.argv[0]) + "/more")
    burst(executor, range(20))
    shared = executor.share(Unit(8))
    def with_shared(number): return shared.number + number
    assert [executor.submit(with_shared, n).result() for n in range(30)] == [8 + n for n in range(30)]
    assert [executor.submit(of_unit, shared).result() for n in range(30)] == 30 * [8 + len(notes)]
    burst(executor, range(20))
def counter(n):
    def inc():
        nonlocal n
        n += 1
        return n
    return inc
def summing():
    total = 0
    def add(x):
        nonlocal total
        total += x
        return total
    return add
space = {"__name__": "__main__"}
exec("acc = []\\ndef grow(x):\\n acc.append(x)\\n return len(acc)", space)
class Kind:
    k = 1
    def __init__(self, x): self.x = x
def times(kind): return kind.x * Kind.k
def scaled(x): return x * rate
with CrewExecutor(1) as executor:
    call = lambda function, *args: executor.submit(function, *args).result()
    # Each call has a copy of its own of what a function holds that is no global.
    inc, adders = counter(0), [summing(), summing()]
    assert [call(inc) for _ in range(4)] == [1, 1, 1, 1]
    assert [call(add, 3) for add in 3 * adders] == 6 * [3]
    assert [call(space["grow"], 1) for _ in range(4)] == [1, 1, 1, 1]
    # What was submitted before has the globals of that time, and each map() those of its own.
    for Kind.k, rate in ((1, 1), (10, 10), (1, 1)):
        assert list(executor.map(times, [Kind(1), Kind(2)])) == [Kind.k, 2 * Kind.k]
        assert list(executor.map(scaled, [1, 2])) == [rate, 2 * rate]
        Kind.k = rate = 7
        assert call(times, Kind(1)) == 7 and call(scaled, 1) == 7
    kinds = (Kind,)
    class Meta(type): pass
    class Kind(metaclass=Meta): k = 1
    kinds = (Kind,)
    def of_kinds(): return kinds[0].k
    for Kind.k in (1, 2, 3):
        assert call(of_kinds) == Kind.k
with CrewExecutor(1) as executor:
    assert [executor.submit(noted, 1).result() for _ in range(5)] == [1, 2, 3, 4, 5]
    notes["seen"] = 100
    assert [executor.submit(noted, 1).result() for _ in range(2)] == [101, 102]
"""


@pytest.mark.parametrize(
    "body", [STATE, CLASSES, LOCAL, BURSTS], ids=["state", "classes", "what belongs to a process", "bursts"]
)
def test_a_script(body: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(HEAD + body)

    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=50, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_script_that_multiprocessing_runs(tmp_path: Path) -> None:
    """In its children the main module is `__mp_main__`, too."""
    script = tmp_path / "script.py"
    script.write_text(
        HEAD
        + """
import multiprocessing
state = None
def begin():
    global state
    state = "begun"
def look(): return state
def work():
    with CrewExecutor(1, initializer=begin) as executor:
        assert executor.submit(look).result() == "begun"
        assert executor.submit(lambda: look).result() is look
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""
    )

    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=50, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
