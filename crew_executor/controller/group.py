"""Several controllers as one. Whoever waits for a group waits on one condition, which each of its controllers wakes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .controller import Controller
from .result import Result, Results
from .summary import Summary
from .waiting import check_error_mode, heed, wait_for

if TYPE_CHECKING:
    from typing_extensions import Self


class ControllerGroup:
    """Push to one of several controllers; wait for, pop, collect from some or all of them.

    In all methods, `controllers` are names of some of them; default: all.

    Args:
        controllers: at least one; no two of the same name.

    Raises:
        ValueError: there is none, or two have the same name.
    """

    def __init__(self, *controllers: Controller) -> None:
        if not controllers:
            raise ValueError("a group needs at least one controller")
        self.controllers = {controller.name: controller for controller in controllers}
        if len(self.controllers) < len(controllers):
            raise ValueError(f"no two controllers may have one name: {', '.join(one.name for one in controllers)}")
        self._condition = threading.Condition()
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
        for controller in self._some(controllers):
            controller.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.terminate()

    def push(self, fn: Callable[..., Any], /, *args: Any, controller: str | None = None, **options: Any) -> Any:
        """Push to one controller: see Controller.push().

        Args:
            fn, args, options: as there.
            controller: its name; default: the first one's.
        """
        return (self._some(None)[0] if controller is None else self[controller]).push(fn, *args, **options)

    def wait(
        self, mode: str = "all", seconds_timeout: float | None = None, controllers: str | Iterable[str] | None = None
    ) -> bool:
        """Wait until all tasks of these controllers are done, or pop() has one of them: see Controller.wait()."""
        return wait_for(self._condition, partial(_is_waited_for, self._some(controllers), mode), mode, seconds_timeout)

    def pop(self, error: str = "silent", controllers: str | Iterable[str] | None = None) -> Result | None:
        """Return the record that came first in any of these controllers, or None: see Controller.pop()."""
        check_error_mode(error)
        while True:
            first = [(number, one) for one in self._some(controllers) if (number := one.first_number()) is not None]
            if not first:
                return None
            result = min(first, key=lambda pair: pair[0])[1].pop()
            if result is not None:  # else another thread was faster
                return heed(result, error)

    def collect(self, error: str = "silent", controllers: str | Iterable[str] | None = None) -> Results:
        """Return all records of these controllers, in the order they came: see Controller.collect()."""
        check_error_mode(error)
        some = self._some(controllers)
        if error == "stop":
            for controller in some:
                controller.check()
        results = Results(sorted([one for each in some for one in each.collect()], key=lambda result: result.number))
        for result in results:
            heed(result, error)
        return results

    def cancel(
        self, names: str | Iterable[str] = (), *, all: bool = False, controllers: str | Iterable[str] | None = None,  # noqa: A002  crew's word
    ) -> int:  # fmt: skip
        """Cancel tasks of these controllers; return how many: see Controller.cancel()."""
        names = [names] if isinstance(names, str) else list(names)
        return sum([controller.cancel(names, all=all) for controller in self._some(controllers)])

    def size(self, controllers: str | Iterable[str] | None = None) -> int:
        """Return how many tasks there are, not done or not popped."""
        return sum([controller.size() for controller in self._some(controllers)])

    def empty(self, controllers: str | Iterable[str] | None = None) -> bool:
        """Return whether there is no task, not done or not popped."""
        return not self.size(controllers)

    def summary(
        self, columns: str | Iterable[str] | None = None, controllers: str | Iterable[str] | None = None
    ) -> Summary:
        """Return one table of all seats of these controllers: see Controller.summary()."""
        return Summary([row for one in self._some(controllers) for row in one.summary()], columns)

    def __repr__(self) -> str:
        return f"<ControllerGroup of {', '.join(self.controllers)}>"


def _is_waited_for(controllers: list[Controller], mode: str) -> bool:
    return not any(one.unresolved() for one in controllers) or (
        mode == "one" and any(one.unpopped() for one in controllers)
    )
