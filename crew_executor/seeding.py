"""options(seed=...): random numbers that depend on the task alone, not on its worker nor on what ran there before.

In the client each task of a view gets a seed of its own, made of the view's and the task's number. In the worker the
generators of `random` and, if it is loaded, `numpy.random` begin there, and are put back after the task. A generator
that a task makes for itself is its own matter: numpy.random.default_rng() without an argument is never reproducible.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

from . import late

SEED_BYTES = 16
"""128 bits, as numpy's SeedSequence takes from the system: that two of 10^9 tasks share one has a chance of 1e-21."""

_WORD_BITS, _WORD = 32, 0xFFFFFFFF  # numpy takes the seed in such pieces


class SeedStream:
    """Give each task a seed of its own, the same ones in every run of the program. Threads may share it.

    A copy that travels to a worker, with a view, gives others: those below a number of this one.

    Args:
        seed: any integer.
        lineage: the numbers that it and its ancestors were copied at.
    """

    def __init__(self, seed: int, lineage: tuple[int, ...] = ()) -> None:
        self._seed = seed
        self._lineage = lineage
        self._numbers = itertools.count()

    def next(self) -> int:
        """Return the next task's seed."""
        with late.imports():
            import hashlib  # late: 5 ms, for those who use seeds

        place = (self._seed, *self._lineage, next(self._numbers))
        return int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=SEED_BYTES).digest(), "little")

    def __reduce__(self) -> Any:
        return SeedStream, (self._seed, (*self._lineage, next(self._numbers)))


class Seeded:
    """A function that is called with generators that begin at a seed.

    Its attribute is named as that of a partial, so that the function is found wherever a name is asked for.
    """

    def __init__(self, seed: int, func: Callable[..., Any]) -> None:
        self.seed = seed
        self.func = func

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; tasks without a seed go on afterwards as if this one had not been."""
        import random

        states: list[tuple[Callable[[Any], None], Any]] = [(random.setstate, random.getstate())]
        owner = getattr(self.func, "__self__", None)  # random.random is a method of a generator, which came with it
        try:
            random.seed(self.seed)
            if isinstance(owner, random.Random):
                states.append((owner.setstate, owner.getstate()))
                owner.seed(self.seed)
            if "numpy" in sys.modules:
                from numpy import random as numpy_random

                words = [(self.seed >> shift) & _WORD for shift in range(0, 8 * SEED_BYTES, _WORD_BITS)]
                for generator in (numpy_random, owner):
                    if generator is numpy_random or isinstance(generator, numpy_random.RandomState):
                        states.append((generator.set_state, generator.get_state()))
                        generator.seed(words)
            return self.func(*args, **kwargs)
        finally:
            for put_back, state in reversed(states):
                put_back(state)
