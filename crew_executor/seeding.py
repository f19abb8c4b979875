"""options(seed=...): random numbers that depend on the task alone, not on its worker nor on what ran there before.

In the client each task of a view gets a seed of its own, made of the view's and the task's number. In the worker the
generators of `random` and `numpy.random` begin there, and are put back after the task. numpy is not imported for that:
if the task does so, its generator begins at the seed then. A generator that a task makes for itself is its own matter:
numpy.random.default_rng() without an argument is never reproducible.
"""

from __future__ import annotations

import contextlib
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
        global is_used
        is_used = True
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
        global _copies
        _copies += 1
        return SeedStream, (self._seed, (*self._lineage, next(self._numbers)))


is_used = False
"""Whether there ever was a stream in this process."""
_copies = 0


def travels_in(pickle: Callable[[], object]) -> bool:
    """Answer whether a stream goes along when this pickles something; what it raises counts as no."""
    before = _copies
    with contextlib.suppress(Exception):
        pickle()
    return _copies > before


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

        states: list[_State] = [(random.setstate, random.getstate())]
        owner = getattr(self.func, "__self__", None)  # random.random is a method of a generator, which came with it
        words = [(self.seed >> shift) & _WORD for shift in range(0, 8 * SEED_BYTES, _WORD_BITS)]
        watch = _NumpyWatch(words, states)
        try:
            random.seed(self.seed)
            if isinstance(owner, random.Random):
                states.append((owner.setstate, owner.getstate()))
                owner.seed(self.seed)
            if "numpy" in sys.modules:
                from numpy import random as numpy_random

                _begin(numpy_random, words, states)
                if isinstance(owner, numpy_random.RandomState):
                    _begin(owner, words, states)
            else:
                sys.meta_path.insert(0, watch)
            return self.func(*args, **kwargs)
        finally:
            watch.end()
            for put_back, state in reversed(states):
                put_back(state)


_State = tuple[Callable[[Any], None], Any]


def _begin(generator: Any, words: list[int], states: list[_State]) -> None:
    """Let a generator of numpy's begin at a seed; remember where it was."""
    states.append((generator.set_state, generator.get_state()))
    generator.seed(words)


class _NumpyWatch:
    """A finder that finds nothing: while a task runs that is the first to import numpy.random, it seeds that.

    Else such a task would have other numbers in each run, and those after it in the same worker would not.
    """

    def __init__(self, words: list[int], states: list[_State]) -> None:
        self._words = words
        self._states = states

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return what the other finders find, with a loader that seeds numpy.random."""
        if name != "numpy.random":
            return None
        self.end()
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path)
        spec = next((one for one in found if one is not None), None)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            load = loader.exec_module

            def exec_module(module: Any) -> None:
                del loader.exec_module
                load(module)
                _begin(module, self._words, self._states)

            loader.exec_module = exec_module
        return spec

    def end(self) -> None:
        """Watch no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
