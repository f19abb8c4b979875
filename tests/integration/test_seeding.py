"""options(seed=...): random numbers that depend on the task alone."""

from __future__ import annotations

import pickle
import random
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_executor import CrewExecutor


def draw(_item: int = 0) -> tuple[float, float]:
    return random.random(), random.gauss(0, 1)


def draw_late(seconds: float) -> float:
    import time

    time.sleep(seconds)
    return random.random()


def begin_at(seed: int) -> None:
    random.seed(seed)


def fail() -> None:
    raise ValueError(str(random.random()))


def draw_in_subtasks(view: CrewExecutor) -> list[tuple[float, float]]:
    return [future.result() for future in [view.submit(draw) for _ in range(3)]]


@pytest.fixture
def executor() -> Iterator[CrewExecutor]:
    with CrewExecutor(2) as executor:
        yield executor


def test_each_task_has_its_own_numbers_the_same_in_every_run(executor: CrewExecutor) -> None:
    runs = []
    for workers in (1, 2):
        with CrewExecutor(workers) as other:
            view = other.options(seed=42)
            runs.append([future.result() for future in [view.submit(draw) for _ in range(20)]])
    view = executor.options(seed=42)

    assert runs[0] == runs[1] == list(view.map(draw, range(20)))
    assert len(set(runs[0])) == 20
    assert runs[0] == list(executor.options(seed=42).map(draw, range(20), chunksize=7))
    assert runs[0] != list(executor.options(seed=43).map(draw, range(20)))


def test_the_order_of_the_tasks_does_not_matter(executor: CrewExecutor) -> None:
    view = executor.options(seed=42)
    slow_first = [view.submit(draw_late, 0.1 if number == 0 else 0).result for number in range(8)]
    other = executor.options(seed=42)
    slow_last = [other.submit(draw_late, 0.1 if number == 7 else 0).result for number in range(8)]

    assert [result() for result in slow_first] == [result() for result in slow_last]


def test_the_record_has_the_seed(executor: CrewExecutor) -> None:
    future = executor.options(seed=42).submit(draw)
    generator = random.Random(future.record().seed)

    assert future.result() == (generator.random(), generator.gauss(0, 1))
    assert future.record().command.endswith(".draw")
    assert executor.submit(draw).record().seed is None


def test_a_retry_has_the_same_numbers_and_the_error_only_frames_of_the_user(executor: CrewExecutor) -> None:
    texts = []
    for _ in range(2):
        future = executor.options(seed=42, retries=1).submit(fail)
        with pytest.raises(ValueError, match=r"0\.") as caught:
            future.result()
        texts.append(str(caught.value))
        assert future.record().attempts == 2
        assert "crew_executor/seeding.py" not in "".join(traceback.format_exception(caught.value))

    assert texts[0] == texts[1]


def test_tasks_without_a_seed_are_left_alone() -> None:
    with CrewExecutor(1) as executor:
        executor.submit(begin_at, 1).result()
        first = executor.submit(draw_late, 0).result()
        executor.options(seed=42).submit(draw).result()
        generator = random.Random(1)

        assert [first, executor.submit(draw_late, 0).result()] == [generator.random(), generator.random()]


def test_a_view_in_a_task_has_numbers_of_its_own(executor: CrewExecutor) -> None:
    runs = []
    for _ in range(2):
        view = executor.options(seed=42)
        runs.append([view.submit(draw).result(), *executor.submit(draw_in_subtasks, view).result()])

    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 4


def test_what_cannot_be_sent_is_named_as_ever(executor: CrewExecutor) -> None:
    with pytest.raises((TypeError, pickle.PicklingError)) as caught:
        executor.options(seed=42).submit(draw, (number for number in range(3))).result()

    assert "draw" in "".join(traceback.format_exception(caught.value))


def test_a_task_that_is_the_first_of_its_worker_to_import_numpy_begins_at_the_seed_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands for numpy, which the tests need not have: what matters is when it is imported.
    package = tmp_path / "numpy"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "random.py").write_text(
        "import random as _r\n_own = _r.Random()\nclass RandomState: pass\n"
        "def seed(words): _own.seed(repr(words))\n"
        "get_state, set_state, rand = _own.getstate, _own.setstate, _own.random\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # workers have the same path
    runs = []
    for workers in (1, 2, 2):
        with CrewExecutor(workers, max_tasks_per_child=2) as pool:
            runs.append(list(pool.options(seed=42).map(draw_of_numpy, range(10), chunksize=1)))

    assert runs[0] == runs[1] == runs[2]
    assert len(set(runs[0])) == 10


def draw_of_numpy(_item: int) -> float:
    import numpy.random

    return numpy.random.rand()  # type: ignore[no-any-return]


def test_subtasks_of_the_items_of_a_map_have_numbers_of_their_own(executor: CrewExecutor) -> None:
    view = executor.options(seed=1)

    def parent(_item: int) -> tuple[float, float]:
        return view.submit(draw).result()  # type: ignore[no-any-return]

    def run() -> list[tuple[float, float]]:
        return list(executor.map(parent, range(60)))

    assert len(set(run())) == 60


def test_an_integer_of_numpys_is_a_seed_as_any_other(executor: CrewExecutor) -> None:
    views = [executor.options(seed=AnInteger()), executor.options(seed=7)]  # type: ignore[arg-type]
    assert len({view.submit(draw).record().seed for view in views}) == 1


class AnInteger:
    """As numpy's: no int, but may stand for one."""

    def __index__(self) -> int:
        return 7
