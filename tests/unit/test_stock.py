"""Checks core/stock.py: who is given a set, when it comes back, and that a pool is never full of those without one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crew_executor.core.needs import needs_of
from crew_executor.core.stock import Stock
from crew_executor.core.worker import Worker

from .fakes import hypothesis_settings

GPU = {"gpus": 1.0}
NEEDS = needs_of(GPU)


def equip(stock: Stock, *names: str) -> list[Worker]:
    workers = [Worker(name) for name in names]
    for worker in workers:
        stock.equip(worker)
    return workers


def test_without_sets_all_have_the_same() -> None:
    stock = Stock({"db": 1})
    (worker,) = equip(stock, "w1")

    assert worker.resources == {"db": 1}
    assert stock.can_meet(needs_of({"db": 1}))
    assert not stock.can_meet(NEEDS)
    assert (stock.has_sets, stock.best()) == (False, "db=1")


def test_sets_are_given_last_unless_they_are_needed() -> None:
    stock = Stock({}, [GPU], 3)
    assert [{}, {}, GPU] == [worker.resources for worker in equip(stock, "w1", "w2", "w3")]

    stock = Stock({}, [GPU], 3)
    stock.note_needed(1)
    assert [GPU, {}, {}] == [worker.resources for worker in equip(stock, "w1", "w2", "w3")]


def test_a_pool_that_is_not_scaled_by_demand_has_them_first() -> None:
    stock = Stock({}, [GPU], 3, is_set_first=True)

    assert [GPU, {}, {}] == [worker.resources for worker in equip(stock, "w1", "w2", "w3")]


def test_there_is_always_room_for_all_sets() -> None:
    stock = Stock({}, [GPU, GPU], 3)
    equip(stock, "w1")

    assert stock.room() == 2
    stock.note_needed(2)
    assert [GPU, GPU] == [worker.resources for worker in equip(stock, "w2", "w3")]
    assert stock.room() == 0


def test_a_set_comes_back_when_the_process_is_gone_not_when_it_leaves() -> None:
    stock = Stock({}, [GPU], 1)
    (worker,) = equip(stock, "w1")
    worker.is_leaving = True

    assert stock.room() == 0
    stock.take_back(worker)
    assert stock.room() == 1
    assert [GPU] == [each.resources for each in equip(stock, "w2")]


def test_one_without_a_set_has_a_successor_while_it_leaves() -> None:
    stock = Stock({}, [GPU], 2)
    (worker,) = equip(stock, "w1")
    assert stock.room() == 1
    worker.is_leaving = True

    assert stock.room() == 2


def test_a_set_whose_holders_all_wait_is_lent_and_the_holder_knows_to_whom() -> None:
    stock = Stock({}, [GPU], 1)
    (holder,) = equip(stock, "w1")
    holder.is_lending = True
    (stand_in,) = equip(stock, "w2")

    assert stand_in.resources == GPU
    assert holder.stand_ins == [stand_in]
    assert stock.sets_left() == 0
    stand_in.is_lending = True
    assert stock.sets_left() == 1
    stock.take_back(stand_in)
    assert holder.stand_ins == []


def test_a_set_that_nobody_has_is_given_before_one_that_is_lent() -> None:
    stock = Stock({}, [GPU, GPU], 2)
    (holder,) = equip(stock, "w1")
    holder.is_lending = True
    (other,) = equip(stock, "w2")

    assert holder.stand_ins == []
    assert other.resources == GPU


def test_more_sets_than_workers_are_left_in_stock() -> None:
    stock = Stock({}, [GPU] * 4, 2)

    assert stock.room() == 2
    assert [GPU, GPU] == [worker.resources for worker in equip(stock, "w1", "w2")]


@given(
    sets=st.integers(0, 4),
    size=st.integers(1, 5),
    deeds=st.lists(st.tuples(st.sampled_from(["launch", "need", "leave", "end", "lend", "go on"]), st.integers(0, 9))),
)
@hypothesis_settings(examples=200)
def test_whatever_happens_a_set_has_one_worker_at_a_time_that_goes_on(
    sets: int, size: int, deeds: list[tuple[str, int]]
) -> None:
    stock, number = Stock({}, [GPU] * sets, size), 0
    places: dict[Worker, int | None] = {}
    for deed, which in deeds:
        worker = list(places)[which % len(places)] if places else None
        if deed in ("launch", "need") and (stock.room() or not stock.has_sets):
            is_needed = deed == "need" and stock.sets_left() > 0
            stock.note_needed(int(is_needed))
            number += 1
            new = Worker(f"w{number}")
            places[new] = stock.equip(new)
            assert places[new] is not None or not is_needed, "who is launched for a set has one"
        elif worker is not None and deed == "leave":
            worker.is_leaving = True
        elif worker is not None and deed == "lend":
            worker.is_lending = True
        elif worker is not None and deed == "go on":
            worker.is_lending = False
            for stand_in in worker.stand_ins:
                stand_in.is_leaving = True
        elif worker is not None and deed == "end":
            stock.take_back(worker)
            del places[worker]
        at_work = [where for each, where in places.items() if not (each.is_leaving or each.is_lending)]
        assert all(at_work.count(place) <= 1 for place in range(sets))
