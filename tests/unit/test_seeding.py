"""Checks seeding.py: each task has a seed of its own, and leaves the generators as it has found them."""

from __future__ import annotations

import pickle
import random
import sys
import types
from typing import Any

import pytest

from crew_executor.options import TaskOptions
from crew_executor.seeding import Seeded, SeedStream

SEED_OF_TASK_0_OF_7 = 57803814226531916785404074004195864757
"""Programs count on it from one version to the next."""


def draw() -> float:
    return random.random()


def fail() -> None:
    random.random()
    raise ValueError("on purpose")


def test_a_stream_is_the_same_in_every_run_and_no_two_of_its_seeds_are() -> None:
    first, again, other = SeedStream(7), SeedStream(7), SeedStream(8)
    seeds = [first.next() for _ in range(1000)]

    assert seeds == [again.next() for _ in range(1000)]
    assert len({*seeds, *(other.next() for _ in range(1000))}) == 2000
    assert seeds[0] == SEED_OF_TASK_0_OF_7


def test_a_copy_that_travels_has_seeds_of_its_own_the_same_in_every_run() -> None:
    def seeds() -> list[int]:
        stream = SeedStream(7)
        copies = [pickle.loads(pickle.dumps(stream)) for _ in range(2)]
        grandchild = pickle.loads(pickle.dumps(copies[0]))
        return [one.next() for one in (stream, *copies, grandchild) for _ in range(100)]

    assert seeds() == seeds()
    assert len(set(seeds())) == 400


def test_the_generators_begin_at_the_seed_and_go_on_afterwards_where_they_were() -> None:
    random.seed(1)
    expected = [random.random(), random.random()]
    random.seed(1)

    assert random.random() == expected[0]
    assert Seeded(5, draw)() == Seeded(5, draw)() == random.Random(5).random()
    with pytest.raises(ValueError, match="on purpose"):
        Seeded(5, fail)()
    assert random.random() == expected[1]


def test_a_method_of_a_generator_begins_there_as_well() -> None:
    generator = random.Random(1)
    state = generator.getstate()
    copy = pickle.loads(pickle.dumps(Seeded(5, generator.random)))

    assert copy() == Seeded(5, generator.random)() == Seeded(5, random.random)() == random.Random(5).random()
    assert generator.getstate() == state


class FakeNumpy(types.ModuleType):
    """Stands for numpy.random."""

    def __init__(self) -> None:
        super().__init__("numpy.random")
        self.state: Any = "before"

    class RandomState:
        """A generator."""

    def get_state(self) -> Any:
        return self.state

    def set_state(self, state: Any) -> None:
        self.state = state

    def seed(self, words: list[int]) -> None:
        assert all(0 <= word < 1 << 32 for word in words)
        self.state = words


def test_numpy_is_seeded_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy, fake = types.ModuleType("numpy"), FakeNumpy()
    numpy.random = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    monkeypatch.setitem(sys.modules, "numpy.random", fake)
    within = Seeded((3 << 96) + (2 << 32) + 1, fake.get_state)()

    assert within == [1, 2, 0, 3]
    assert fake.state == "before"


def test_views_of_a_view_share_its_stream_unless_they_have_a_seed_of_their_own() -> None:
    view = TaskOptions(seed=7)
    named, other = view.add(name="named"), view.add(seed=7)
    assert view.seed_stream is not None
    assert named.seed_stream is view.seed_stream
    assert other.seed_stream is not None
    assert other.seed_stream.next() == view.seed_stream.next() != named.seed_stream.next()


def test_options_with_a_seed_can_travel() -> None:
    options = TaskOptions(seed=7, name="named")
    copy = pickle.loads(pickle.dumps(options))

    assert copy == options
    assert copy.add(name="other").seed_stream is copy.seed_stream
