"""Several controllers as one. Whoever waits for a group waits on one condition, which each of its controllers wakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..condition import FutureCondition, may_hold
from .controller import Controller
from .result import Result, Results
from .summary import Summary
from .waiting import check_error_mode, heed, wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

may_hold(__file__)


class ControllerGroup:
    """Push to one of several controllers; wait for, pop, collect from some or all of them.

    In all methods, `controller` is the name of one of them, by default the first, and `controllers` are names of some,
    by default all.

    Args:
        controllers: at least one; no two of the same name.

    Raises:
        ValueError: there is none, or two have the same name.
        TypeError: something else is among them.
    """

    def __init__(self, *controllers: Controller) -> None:
        if not controllers:
            raise ValueError("a group needs at least one controller")
        for one in controllers:
            if not isinstance(one, Controller):
                raise TypeError(f"a group is made of controllers, ControllerGroup(first, second), not of {one!r}")
        self.controllers = {controller.name: controller for controller in controllers}
        if len(self.controllers) < len(controllers):
            raise ValueError(f"no two controllers may have one name: {', '.join(one.name for one in controllers)}")
        self._condition = FutureCondition()
        for controller in controllers:
            controller.tell(self._condition)

    def __getitem__(self, name: str) -> Controller:
        """Return one by its name; raise KeyError, with those there are, if there is none."""
        if name not in self.controllers:
            raise KeyError(f"no controller of the group is named {name!r}; there are {', '.join(self.controllers)}")
        return self.controllers[name]

    def _some(self, names: str | Iterable[str] | None) -> list[Controller]:
        if names is None:
            return list(self.controllers.values())
        return [self[name] for name in ([names] if isinstance(names, str) else names)]

    def start(self, controllers: str | Iterable[str] | None = None) -> None:
        """Start controllers; push() starts the one that it needs."""
        for controller in self._some(controllers):
            controller.start()

    def terminate(self, controllers: str | Iterable[str] | None = None) -> None:
        """Terminate controllers."""
        some = self._some(controllers)
        for controller in some:
            controller.cancel(all=True)  # first: one may be the backup of another, and would be started again
        for controller in some:
            controller.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()

    def _one(self, name: str | None) -> Controller:
        return self._some(None)[0] if name is None else self[name]

    def push(self, fn: Callable[..., Any], /, *args: Any, controller: str | None = None, **options: Any) -> Any:
        """Push to one controller: see Controller.push() for the other arguments."""
        return self._one(controller).push(fn, *args, **options)

    def map(
        self, fn: Callable[..., Any], /, *iterables: Iterable[Any], controller: str | None = None, **options: Any
    ) -> Results:
        """Have one controller call a function for each item: see Controller.map() for the other arguments."""
        return self._one(controller).map(fn, *iterables, **options)

    def walk(
        self, fn: Callable[..., Any], /, *iterables: Iterable[Any], controller: str | None = None, **options: Any
    ) -> list[Any]:
        """Push a call for each item to one controller: see Controller.walk() for the other arguments."""
        return self._one(controller).walk(fn, *iterables, **options)

    def launch(self, n: int = 1, controllers: str | Iterable[str] | None = None) -> None:
        """Launch so many workers more of each of these controllers: see Controller.launch()."""
        for controller in self._some(controllers):
            controller.launch(n)

    def scale(self, controllers: str | Iterable[str] | None = None) -> int:
        """Launch the workers that are missing; return how many: see Controller.scale()."""
        return sum([controller.scale() for controller in self._some(controllers)])

    def wait(
        self, mode: str = "all", seconds_timeout: float | None = None, controllers: str | Iterable[str] | None = None
    ) -> bool:
        """Wait until all tasks of these controllers are done, or pop() has one of them: see Controller.wait()."""
        some = self._some(controllers)
        for one in some:
            one.check_before_wait()
        return wait_for(self._condition, partial(_is_waited_for, some, mode), mode, seconds_timeout)

    def pop(self, error: str = "silent", controllers: str | Iterable[str] | None = None) -> Result | None:
        """Return the record that came first in any of these controllers, or None: see Controller.pop()."""
        check_error_mode(error)
        some = self._some(controllers)
        for one in some:
            one.catch_up()
        while True:
            first = [(number, one) for one in some if (number := one.first_number()) is not None]
            if not first:
                return None
            result = min(first, key=lambda pair: pair[0])[1].pop()
            if result is not None:  # else another thread was faster
                return heed(result, error)

    def collect(self, error: str = "silent", controllers: str | Iterable[str] | None = None) -> Results:
        """Return all records of these controllers, in the order they came: see Controller.collect()."""
        check_error_mode(error)
        some = self._some(controllers)
        for one in some:
            one.catch_up()
        number = max([one.last_number() or 0 for one in some], default=0)  # what comes later must not be popped unseen
        for one in some:
            one.check(error, number)
        return Results(sorted([one for each in some for one in each.take_until(number)], key=lambda one: one.number))

    def cancel(
        self, names: str | Iterable[str] = (), *, all: bool = False, controllers: str | Iterable[str] | None = None,  # noqa: A002  crew's word
    ) -> int:  # fmt: skip
        """Cancel tasks of these controllers; return how many: see Controller.cancel()."""
        names = [names] if isinstance(names, str) else list(names)
        return sum([controller.cancel(names, all=all) for controller in self._some(controllers)])

    @property
    def started(self) -> bool:
        """Whether all controllers are started."""
        return all(controller.started for controller in self.controllers.values())

    @property
    def pushed(self) -> int:
        """How many tasks were pushed to all controllers."""
        return sum([controller.pushed for controller in self.controllers.values()])

    @property
    def popped(self) -> int:
        """How many results of all controllers were popped."""
        return sum([controller.popped for controller in self.controllers.values()])

    def unresolved(self, controllers: str | Iterable[str] | None = None) -> int:
        """Return how many tasks are not done."""
        return sum([controller.unresolved() for controller in self._some(controllers)])

    def resolved(self, controllers: str | Iterable[str] | None = None) -> int:
        """Return how many tasks were pushed and are done, popped or not."""
        return sum([controller.resolved() for controller in self._some(controllers)])

    def unpopped(self, controllers: str | Iterable[str] | None = None) -> int:
        """Return how many records pop() has."""
        return sum([controller.unpopped() for controller in self._some(controllers)])

    def saturated(self, controller: str | None = None) -> bool:
        """Return whether one controller has as many tasks not done as workers."""
        return self._one(controller).saturated()

    def crashes(self, name: str, controllers: str | Iterable[str] | None = None) -> int:
        """Return how many times in a row the worker of a task of this name has died: see Controller.crashes()."""
        chains = {id(one): one for each in self._some(controllers) for one in each.chain()}
        return sum([one.crashes(name) - sum([o.crashes(name) for o in one.chain()[1:2]]) for one in chains.values()])

    def size(self, controllers: str | Iterable[str] | None = None) -> int:
        """Return how many tasks there are, not done or not popped."""
        return sum([controller.size() for controller in self._some(controllers)])

    def empty(self, controllers: str | Iterable[str] | None = None) -> bool:
        """Return whether there is no task, not done or not popped."""
        return not self.size(controllers)

    def nonempty(self, controllers: str | Iterable[str] | None = None) -> bool:
        """Return whether there is a task, not done or not popped."""
        return not self.empty(controllers)

    def summary(
        self, columns: str | Iterable[str] | None = None, controllers: str | Iterable[str] | None = None
    ) -> Summary:
        """Return one table of all seats of these controllers: see Controller.summary()."""
        return Summary([row for one in self._some(controllers) for row in one.summary()], columns)

    def __repr__(self) -> str:
        return f"<ControllerGroup of {', '.join(self.controllers)}>"


def _is_waited_for(controllers: list[Controller], mode: str) -> bool:
    return all(one.is_waited_for("all") for one in controllers) or (
        mode == "one" and any(one.unpopped() for one in controllers)
    )
