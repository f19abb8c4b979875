"""A submit() that waits within an event loop is mentioned in the log; one that was written to wait is not.

No loop is run here.
"""

from __future__ import annotations

import threading
import types
from asyncio import events
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from crew_executor.event_loop import mention_wait
from crew_executor.inbox import Inbox
from crew_executor.mailbox import Mailbox
from unit.test_inbox import make

Said = Callable[[Callable[..., object]], list[str]]


@pytest.fixture
def _loop() -> Iterator[None]:
    events._set_running_loop(object())  # type: ignore[arg-type]  # nobody asks it for anything
    yield
    events._set_running_loop(None)


def call() -> None:
    """Stand for a user's function that calls submit()."""
    mention_wait()


def finish(coroutine: Callable[..., object]) -> None:
    with pytest.raises(StopIteration):
        coroutine().send(None)  # type: ignore[attr-defined]


async def in_a_coroutine() -> None:
    call()


async def in_an_asynchronous_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        call()
        yield 1

    async for _number in numbers():
        pass


@types.coroutine
def in_an_old_coroutine() -> Iterator[None]:
    call()
    yield from ()


async def by_way_of_asyncio() -> None:
    within("asyncio.base_events", "call()")


async def in_code_of_a_shell() -> None:
    within("__main__", "call()")


async def in_a_coroutine_of_a_shell() -> None:
    within("__main__", "async def main(): call()\nfinish(main)")


async def in_asyncio_called_by_a_shell() -> None:
    within("__main__", "within('asyncio.base_events', 'def run(): call()\\nrun()')")


def within(module: str, code: str) -> None:
    names = {"__name__": module, "call": call, "finish": finish, "within": within}
    exec(compile(code, "<cell>", "exec"), names)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    def finish_and_tell(coroutine: Callable[..., object]) -> list[str]:
        finish(coroutine)
        return caplog.messages

    return finish_and_tell


@pytest.mark.usefixtures("_loop")
@pytest.mark.parametrize(
    "place",
    [
        in_a_coroutine, in_an_asynchronous_generator, in_an_old_coroutine, by_way_of_asyncio,
        in_a_coroutine_of_a_shell, in_asyncio_called_by_a_shell,
    ],
)  # fmt: skip
def test_code_that_a_loop_runs_is_told_of_where_it_stands(place: Callable[..., object], said: Said) -> None:
    (message,) = said(place)

    assert "asyncio.Semaphore" in message
    assert message.startswith(f"{__file__}:{call.__code__.co_firstlineno + 2}: ")


@pytest.mark.usefixtures("_loop")
def test_code_of_a_shell_that_waits_is_left_in_peace(said: Said) -> None:
    assert [] == said(in_code_of_a_shell)


def test_a_coroutine_without_a_loop_is_left_in_peace(said: Said) -> None:
    assert [] == said(in_a_coroutine)


@pytest.mark.usefixtures("_loop")
def test_other_threads_than_the_loops_are_left_in_peace(said: Said) -> None:
    caught: list[object] = []
    thread = threading.Thread(target=lambda: caught.extend(said(in_a_coroutine)))
    thread.start()
    thread.join()

    assert [] == caught


@pytest.mark.usefixtures("_loop")
def test_who_finds_room_is_left_in_peace(said: Said) -> None:
    async def submit() -> None:
        inbox.put_when(lambda: True, make(1))

    inbox = Inbox(Mailbox())

    assert [] == said(submit)


@pytest.mark.usefixtures("_loop")
def test_waits_are_mentioned_once(said: Said) -> None:
    answers = [True, False, False, True, False]

    def has_room() -> bool:
        inbox.wake_waiting()  # as another thread might, just after the look
        return answers.pop()

    async def submit() -> None:
        inbox.put_when(has_room, make(1))
        inbox.put_when(has_room, make(2))

    inbox = Inbox(Mailbox())

    assert 1 == len(said(submit))
    assert 2 == len(inbox.take())
