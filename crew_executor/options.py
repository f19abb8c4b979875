"""What can be said about a task besides its call. Immutable; options of a view of a view add up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from operator import index
from typing import Any

from .core.budget import Budget
from .core.needs import Needs, needs_of
from .errors import TaskTimeoutError
from .seeding import SeedStream

RETRIES_MAX = 30_000
"""Attempts are counted in 16 bits on the wire."""

ExceptionClasses = type[BaseException] | tuple[type[BaseException], ...]


class TaskOptions:
    """The options of a view; None stands for "not said".

    Args:
        name: the tasks' name; default: the function's.
        priority: higher runs first; default 0.
        timeout: seconds that each run may take; default: no limit.
        retries: runs ending in an exception of `retry_on` that are repeated; default 0.
        retry_on: an exception class or a tuple of them; default Exception.
        crash_retries: runs lost with their worker that are repeated; default 0.
        cancel_running: whether cancel() also ends a running task; default False.
        capture_output: whether what a task writes is kept on its record instead of being shown; default False.
        ordered: whether map() gives its results in the order of the items; default True.
        seed: what the tasks' random numbers come from; default: whatever there is in the worker.
        resources: what their worker must have, amounts by name; default: any worker will do.
        progress: whether map() shows how far it is; default False.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        priority: int | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        retry_on: ExceptionClasses | None = None,
        crash_retries: int | None = None,
        cancel_running: bool | None = None,
        capture_output: bool | None = None,
        ordered: bool | None = None,
        seed: int | None = None,
        resources: Mapping[str, float] | Needs | None = None,
        progress: bool | None = None,
    ) -> None:
        self.name = name
        self.priority = priority
        self.timeout = timeout
        self.retries = retries
        self.retry_on = retry_on
        self.crash_retries = crash_retries
        self.cancel_running = cancel_running
        self.capture_output = capture_output
        self.ordered = ordered
        self.seed = index(seed) if seed is not None and hasattr(seed, "__index__") else seed  # numpy's integers, too
        self.resources = None if resources is None else needs_of(resources)
        self.progress = progress
        self._said = dict(vars(self))
        self._check()
        self.are_plain = all(said is None for said in self._said.values())
        self.seed_stream = None if self.seed is None else SeedStream(self.seed)

    def _check(self) -> None:
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name must be a string, not {type(self.name).__name__}")
        if self.priority is not None and not isinstance(self.priority, int):
            raise TypeError(f"priority must be an integer, not {type(self.priority).__name__}")
        _check_timeout(self.timeout)
        for name in ("cancel_running", "capture_output", "ordered", "progress"):
            switch = getattr(self, name)
            if switch is not None and not isinstance(switch, bool):
                raise TypeError(f"{name} must be True or False, not {switch!r}")
        if self.seed is not None and not isinstance(self.seed, int):
            raise TypeError(f"seed must be an integer, not {type(self.seed).__name__}")
        _check_retries("retries", self.retries)
        _check_retries("crash_retries", self.crash_retries)
        if self.retry_on is not None:
            classes: tuple[Any, ...] = self.retry_on if isinstance(self.retry_on, tuple) else (self.retry_on,)
            if not all(isinstance(cls, type) and issubclass(cls, BaseException) for cls in classes):
                raise TypeError(f"retry_on must be an exception class or a tuple of them, not {self.retry_on!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskOptions) and self._said == other._said

    def __repr__(self) -> str:
        said = {**self._said, "resources": None if self.resources is None else dict(self.resources)}
        return f"TaskOptions({', '.join(f'{name}={value!r}' for name, value in said.items() if value is not None)})"

    def __hash__(self) -> int:
        return hash(tuple(self._said.values()))

    def add(self, **options: Any) -> TaskOptions:
        """Return these options with those given that are not None."""
        sum_ = TaskOptions(**{**self._said, **{key: value for key, value in options.items() if value is not None}})
        if options.get("seed") is None:
            sum_.seed_stream = self.seed_stream  # no two tasks of one seed may have the same numbers
        return sum_

    @cached_property
    def has_limits(self) -> bool:
        """Whether a task of these options needs a budget."""
        return bool(self.timeout not in (None, math.inf) or self.retries or self.crash_retries)

    @property
    def is_ordered(self) -> bool:
        """Whether map() gives its results in the order of the items."""
        return self.ordered is not False

    @property
    def allows_chunks(self) -> bool:
        """Whether several items of a map() may be one task: each has none of the options that a task can have."""
        return not (self.is_for_each or self.capture_output or self.cancel_running)

    @property
    def is_for_each(self) -> bool:
        """Whether the options of a map() are those of each of its items: then each is a task."""
        return self.has_limits or self.seed is not None or bool(self.resources)

    @cached_property
    def retry_part(self) -> bytes | None:
        """The classes of `retry_on`, pickled for workers: they compare, so that the client need not open the error."""
        from . import table  # late: see intake.py

        return table.dumps_call(self.retried_classes) if self.retries else None

    @cached_property
    def task_flags(self) -> int:
        """What workers are told of a task, as TaskFlag."""
        from .core.messages import TaskFlag  # late: see intake.py

        return (TaskFlag.RETRY_ON if self.retries else 0) | (TaskFlag.CATCH_OUTPUT if self.capture_output else 0)

    @cached_property
    def _is_timeout_retried(self) -> bool:
        return issubclass(TaskTimeoutError, self.retried_classes)

    @property
    def retried_classes(self) -> ExceptionClasses:
        """What `retry_on` stands for."""
        return Exception if self.retry_on is None else self.retry_on

    def make_budget(self) -> Budget | None:
        """Return what one task may cost, or None for one that runs once, as long as it likes."""
        if not self.has_limits:
            return None
        timeout = 0.0 if self.timeout in (None, math.inf) else float(self.timeout or 0.0)
        return Budget(timeout, self.retries or 0, self.crash_retries or 0, self._is_timeout_retried)


def _check_timeout(timeout: Any) -> None:
    if timeout is None:
        return
    from numbers import Real  # late: rarely asked for

    if not isinstance(timeout, Real):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    try:
        is_positive = float(timeout) > 0  # NaN is not
    except OverflowError:
        raise ValueError("timeout is too large for a number of seconds: use None or math.inf for no limit") from None
    if not is_positive:
        raise ValueError(f"timeout must be None or a number of seconds above 0, not {timeout!r}")


def _check_retries(name: str, number: int | None) -> None:
    if number is None:
        return
    if not isinstance(number, int):
        raise TypeError(f"{name} must be an integer, not {type(number).__name__}")
    if not 0 <= number <= RETRIES_MAX:
        raise ValueError(f"{name} must be between 0 and {RETRIES_MAX}, not {number}")
