"""Checks core/taskqueue.py: priorities, order, cancelled tasks skipped; and the queue against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crew_executor.core.task import DONE, QUEUED, SENT, Task
from crew_executor.core.taskqueue import TaskQueue

from .fakes import hypothesis_settings


def peek(queue: TaskQueue) -> Task | None:
    """Return the task whose turn it is, without taking it."""
    lane = queue.front()
    return None if lane is None else lane[0]


def pop(queue: TaskQueue) -> Task:
    """Take that task, as the scheduler does."""
    lane = queue.front()
    assert lane is not None
    task = lane.popleft()
    queue.living -= task.items
    return task


def make(task_id: int, priority: int = 0) -> Task:
    """Return a task as the scheduler puts it into the queue."""
    task = Task(task_id, "f", (b"",), priority=priority)
    task.state = QUEUED
    return task


def fill(*tasks: Task) -> TaskQueue:
    queue = TaskQueue()
    for task in tasks:
        queue.append(task)
    return queue


def take(queue: TaskQueue) -> int:
    """Take the next task as the scheduler does and return its id."""
    task = peek(queue)
    assert task is not None
    assert task is pop(queue)
    task.state = SENT
    return task.task_id


def drop(queue: TaskQueue, task: Task) -> None:
    """Cancel as the scheduler does."""
    queue.living -= 1
    task.state = DONE


def test_an_empty_queue_has_nobody_whose_turn_it_is() -> None:
    queue = TaskQueue()

    assert 0 == len(queue)
    assert peek(queue) is None
    assert [] == list(queue)


def test_tasks_of_one_priority_come_out_in_order() -> None:
    queue = fill(make(1), make(2), make(3))

    assert [1, 2, 3] == [take(queue) for _ in range(3)]
    assert 0 == len(queue)


def test_the_higher_priority_comes_first() -> None:
    queue = fill(make(1, -1), make(2, 0), make(3, 5), make(4, 0), make(5, 5))

    assert [3, 5, 2, 4, 1] == [task.task_id for task in queue]
    assert [3, 5, 2, 4, 1] == [take(queue) for _ in range(5)]


def test_peek_takes_nothing() -> None:
    queue = fill(make(1))

    assert peek(queue) is peek(queue)
    assert 1 == len(queue)


def test_a_cancelled_task_is_skipped_and_not_counted() -> None:
    tasks = [make(1), make(2), make(3)]
    queue = fill(*tasks)
    drop(queue, tasks[0])
    drop(queue, tasks[1])

    assert 1 == len(queue)
    assert [3] == [task.task_id for task in queue]
    assert 3 == take(queue)
    assert peek(queue) is None


def test_a_priority_whose_tasks_were_all_cancelled_blocks_nobody() -> None:
    tasks = [make(1, 9), make(2, 9)]
    queue = fill(*tasks, make(3, 1))
    for task in tasks:
        drop(queue, task)

    assert 3 == take(queue)


def test_a_task_put_back_comes_before_those_of_its_priority_and_after_higher_ones() -> None:
    queue = fill(make(1), make(2), make(3))
    first, second = peek(queue), None
    take(queue)
    second = peek(queue)
    take(queue)
    assert first is not None
    assert second is not None
    queue.append(make(4, 7))
    for task in (second, first):  # the latest first
        task.state = "queued"
        queue.put_back(task)

    assert 4 == len(queue)
    assert [4, 1, 2, 3] == [take(queue) for _ in range(4)]


def test_a_priority_that_ran_empty_can_be_used_again() -> None:
    queue = fill(make(1, 3))
    take(queue)
    queue.append(make(2, 3))
    taken = take(queue)
    exhausted = peek(queue)
    queue.append(make(3, 3))

    assert 2 == taken
    assert exhausted is None
    assert 3 == take(queue)


MOVES = st.lists(st.tuples(st.sampled_from(["append", "take", "put_back", "cancel"]), st.integers(0, 7)), max_size=60)


@given(MOVES)
@hypothesis_settings(examples=60)
def test_the_queue_does_what_a_plain_list_does(moves: list[tuple[str, int]]) -> None:
    queue, lanes, taken, made = TaskQueue(), {priority: list[Task]() for priority in (1, 0, -1)}, list[Task](), 0
    for move, number in moves:
        waiting = [task for lane in lanes.values() for task in lane]
        if move == "append":
            made += 1
            task = make(made, number % 3 - 1)
            queue.append(task)
            lanes[task.priority].append(task)
        elif move == "take" and waiting:
            task = waiting[0]
            lanes[task.priority].remove(task)
            taken.append(task)
            assert task.task_id == take(queue)
        elif move == "put_back" and taken:
            task = taken.pop()
            task.state = "queued"
            queue.put_back(task)
            lanes[task.priority].insert(0, task)
        elif move == "cancel" and waiting:
            task = waiting[number % len(waiting)]
            lanes[task.priority].remove(task)
            drop(queue, task)
        waiting = [task for lane in lanes.values() for task in lane]

        assert len(waiting) == len(queue)
        assert waiting == list(queue)
        assert (waiting[0] if waiting else None) is peek(queue)
