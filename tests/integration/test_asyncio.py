"""asyncio in a strict interpreter, in debug mode: nothing hangs, nothing is written to stderr, no process is left.

Each case is a script of its own: what asyncio has to complain about, it says when futures and loops are collected.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from . import clients
from .helpers import wait_until

HEAD = """
import asyncio, os, sys, threading, time
from crew_executor import CrewExecutor, TaskTimeoutError, WorkerCrashError
FOLDER = sys.argv[1]
def here(name):
    return os.path.join(FOLDER, name)
def touch(name):
    open(here(name), "w").close()
    return name
def is_there(name):
    return os.path.exists(here(name))
def square(number):
    return number * number
def hold(name):  # until it is released; then it has an effect
    touch("begun " + name)
    while not is_there("release"):
        time.sleep(0.005)
    return touch("effect " + name)
def fail(number):
    raise LookupError(number)
def die():
    os.kill(os.getpid(), 9)
async def until(condition, *arguments):
    async def look():
        while not condition(*arguments):
            await asyncio.sleep(0.005)
    await asyncio.wait_for(look(), 30)
async def outcome(awaitable):
    try:
        return await awaitable
    except (Exception, asyncio.CancelledError) as error:
        return type(error)
def run(main, *arguments):
    async def start():
        asyncio.get_running_loop().slow_callback_duration = 3600  # a slow machine is no complaint
        return await main(*arguments)
    return asyncio.run(start())
"""

SCRIPTS = {
    "await": """
async def main():
    with CrewExecutor(2) as executor:
        future = executor.submit(square, 3)
        assert [await future, await future, future.record().status] == [9, 9, "success"]
        assert await asyncio.wait_for(executor.submit(square, 4), 30) == 16
        try:
            await executor.submit(fail, 7)
        except LookupError as error:
            assert error.args == (7,) and error.__traceback__.tb_next is not None
        else:
            raise AssertionError("no error")
        assert await outcome(executor.options(timeout=0.1).submit(time.sleep, 600)) is TaskTimeoutError
        assert await outcome(executor.submit(die)) is WorkerCrashError
        assert await executor.submit(square, 5) == 25
run(main)
""",
    "run_in_executor": """
async def main():
    loop = asyncio.get_running_loop()
    with CrewExecutor(2) as executor:
        assert await loop.run_in_executor(executor, square, 3) == 9
        assert await outcome(loop.run_in_executor(executor, fail, 3)) is LookupError
        impatient = executor.options(timeout=0.1)
        assert await outcome(loop.run_in_executor(impatient, time.sleep, 600)) is TaskTimeoutError
        assert await outcome(loop.run_in_executor(executor, die)) is WorkerCrashError
        assert await loop.run_in_executor(impatient, square, 4) == 16
run(main)
""",
    "gather of 5,000": """
async def main():
    with CrewExecutor(2) as executor:
        squares = await asyncio.gather(*(executor.submit(square, number) for number in range(5000)))
        assert squares == [number * number for number in range(5000)]
        some = await asyncio.gather(*(executor.submit(fail, n) for n in range(9)), return_exceptions=True)
        assert [error.args[0] for error in some] == list(range(9))
run(main)
""",
    "asyncio.wait and as_completed": """
async def main():
    with CrewExecutor(2) as executor:
        held = asyncio.wrap_future(executor.submit(hold, "one"))
        others = {asyncio.wrap_future(executor.submit(square, number)) for number in range(50)}
        done, _pending = await asyncio.wait(others | {held}, return_when=asyncio.FIRST_COMPLETED)
        assert done and held not in done
        done, pending = await asyncio.wait(others)
        assert sorted(future.result() for future in done) == [n * n for n in range(50)] and not pending
        touch("release")
        assert [await first for first in asyncio.as_completed([held])] == ["effect one"]
run(main)
""",
    "a time-out while queued": """
async def main():
    with CrewExecutor(1) as executor:
        held = executor.submit(hold, "one")
        await until(is_there, "begun one")
        futures = [executor.submit(touch, f"queued {number}") for number in range(20)]
        waits = [outcome(asyncio.wait_for(asyncio.wrap_future(future), 0.3)) for future in futures]
        assert set(await asyncio.gather(*waits)) == {asyncio.TimeoutError}
        cancelled = [future.cancelled() for future in futures]
        assert sum(cancelled) >= 10  # the first may be with the worker
        touch("release")
        await held
    assert [is_there(f"queued {number}") for number in range(20)] == [not was for was in cancelled]
run(main)
""",
    "a time-out while running": """
async def main():
    with CrewExecutor(1) as executor:
        worker = await executor.submit(os.getpid)
        impatient = executor.options(cancel_running=True)
        future = impatient.submit(hold, "one")
        await until(is_there, "begun one")
        assert await outcome(asyncio.wait_for(future, 0.1)) is asyncio.TimeoutError
        assert future.cancelled()
        assert await executor.submit(os.getpid) == worker
        future = impatient.submit(hold, "two")
        await until(is_there, "begun two")
        if sys.version_info >= (3, 11):
            try:
                async with asyncio.timeout(0.1):
                    await future
            except TimeoutError:
                pass
            assert future.cancelled()
        else:
            future.cancel()
        assert await executor.submit(os.getpid) == worker
        touch("release")
    assert not is_there("effect one") and not is_there("effect two")
run(main)
""",
    "a cancelled coroutine": """
async def use(executor, name):
    await executor.submit(hold, name)
async def main():
    with CrewExecutor(2) as executor:
        views = {"ended": executor.options(cancel_running=True), "left": executor}
        tasks = [asyncio.create_task(use(view, name)) for name, view in views.items()]
        for name in views:
            await until(is_there, "begun " + name)
        for task in tasks:
            task.cancel()
        assert [await outcome(task) for task in tasks] == [asyncio.CancelledError] * 2
        assert await executor.submit(square, 3) == 9  # on the worker that was freed
        touch("release")
    assert not is_there("effect ended")
    assert is_there("effect left")
run(main)
""",
    "a shield": """
async def main():
    with CrewExecutor(1) as executor:
        inner = asyncio.ensure_future(executor.options(cancel_running=True).submit(hold, "one"))
        assert await outcome(asyncio.wait_for(asyncio.shield(inner), 0.1)) is asyncio.TimeoutError
        touch("release")
        assert await inner == "effect one"
run(main)
""",
    "the default executor": """
async def main():
    loop = asyncio.get_running_loop()
    with CrewExecutor(1) as executor:
        try:
            loop.set_default_executor(executor)
        except (TypeError, DeprecationWarning) as error:
            assert isinstance(error, TypeError) or sys.version_info < (3, 11)
        else:
            raise AssertionError("it is accepted now: say so in the README")
        assert await loop.run_in_executor(executor, square, 3) == 9
run(main)
""",
    "a loop that is closed too early": """
kept = []
async def main(executor):
    loop = asyncio.get_running_loop()
    kept.extend(loop.run_in_executor(executor, hold, str(number)) for number in range(4))
    kept.extend(asyncio.ensure_future(executor.options(cancel_running=True).submit(hold, str(n))) for n in (4, 5))
    await until(is_there, "begun 1")
executor = CrewExecutor(2)
run(main, executor)
loop = asyncio.new_event_loop()
loop.slow_callback_duration = 3600
kept.append(loop.run_in_executor(executor, hold, "6"))
loop.close()
touch("release")
executor.shutdown()
assert [is_there(f"effect {number}") for number in range(7)] == [True] * 4 + [False] * 2 + [True]
""",
    "loops in threads": """
results = []
async def main(executor):
    results.append(sum(await asyncio.gather(*(executor.submit(square, number) for number in range(100)))))
with CrewExecutor(2) as executor:
    threads = [threading.Thread(target=run, args=[main, executor]) for _ in range(3)]
    for thread in threads:
        thread.start()
    run(main, executor)
    for thread in threads:
        thread.join()
    loop = asyncio.new_event_loop()
    loop.slow_callback_duration = 3600
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(main(executor), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
assert results == [328350] * 5
""",
    "one future, many loops": """
async def main(future):
    return await asyncio.gather(future, asyncio.wrap_future(future), asyncio.shield(future))
with CrewExecutor(1) as executor:
    future = executor.submit(hold, "one")
    results = []
    threads = [threading.Thread(target=lambda: results.append(run(main, future))) for _ in range(3)]
    for thread in threads:
        thread.start()
    touch("release")
    for thread in threads:
        thread.join()
    assert results + [run(main, future)] == [["effect one"] * 3] * 4
""",
    "shutdown without holding up the loop": """
async def main():
    executor = CrewExecutor(1)
    future = executor.submit(hold, "one")
    ending = asyncio.create_task(asyncio.to_thread(executor.shutdown))
    await until(is_there, "begun one")
    touch("release")
    await ending
    assert future.result() == "effect one"
run(main)
""",
    "max_pending and a semaphore": """
async def use(executor, room, number):
    async with room:
        return await executor.submit(hold, str(number))
async def main():
    room = asyncio.Semaphore(2)
    with CrewExecutor(2, max_pending=2) as executor:
        calls = asyncio.gather(*(use(executor, room, number) for number in range(20)))
        await until(is_there, "begun 1")
        touch("release")  # so the loop has gone on
        assert await calls == [f"effect {number}" for number in range(20)]
run(main)
""",
    "max_pending and to_thread": """
async def main():
    with CrewExecutor(2, max_pending=2) as executor:
        first = [executor.submit(hold, str(number)) for number in range(2)]
        third = asyncio.create_task(asyncio.to_thread(executor.submit, square, 3))
        await until(is_there, "begun 1")
        assert not third.done()
        touch("release")
        assert await (await third) == 9
run(main)
""",
    "max_pending without either": """
import logging
said = []
class Note(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger("crew_executor").addHandler(Note())
async def main():
    with CrewExecutor(1, max_pending=1) as executor:
        held = executor.submit(hold, "one")
        release = threading.Timer(0.2, touch, ["release"])
        release.start()
        waited = [executor.submit(square, 3), asyncio.get_running_loop().run_in_executor(executor, square, 4)]
        assert held.done(), "the loop stood still until there was room"
        assert [await held, *[await future for future in waited]] == ["effect one", 9, 16]
        release.join()
    (text,) = said
    assert "asyncio.Semaphore" in text
run(main)
""",
    "the end of the interpreter": """
async def main(executor):
    return [asyncio.get_running_loop().run_in_executor(executor, square, number) for number in range(20)]
executor = CrewExecutor(2)
futures = run(main, executor)
""",
}

GROUP = """
async def main():
    with CrewExecutor(2) as executor:
        view = executor.options(cancel_running=True)
        async def use(fn, *arguments):
            return await view.submit(fn, *arguments)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(use(square, number)) for number in range(100)]
        assert [task.result() for task in tasks] == [number * number for number in range(100)]
        try:
            async with asyncio.TaskGroup() as group:
                held = group.create_task(use(hold, "one"))
                await until(is_there, "begun one")
                failing = group.create_task(use(fail, 7))
                queued = [group.create_task(use(hold, f"queued {number}")) for number in range(10)]
        except BaseExceptionGroup as errors:
            assert [error.args for error in errors.exceptions] == [(7,)]
        assert held.cancelled() and all(task.cancelled() for task in queued)
        assert await executor.submit(square, 3) == 9
        touch("release")
    assert not is_there("effect one")
    assert not any(is_there(f"effect queued {number}") for number in range(10))
run(main)
"""

UVLOOP = """
import uvloop
async def main():
    loop = asyncio.get_running_loop()
    assert type(loop) is uvloop.Loop
    with CrewExecutor(1) as executor:
        assert await executor.submit(square, 3) == 9
        results = await asyncio.gather(*(loop.run_in_executor(executor, square, number) for number in range(1000)))
        assert results == [number * number for number in range(1000)]
        assert await outcome(executor.submit(fail, 7)) is LookupError
        future = executor.options(cancel_running=True).submit(hold, "one")
        await until(is_there, "begun one")
        assert await outcome(asyncio.wait_for(future, 0.1)) is asyncio.TimeoutError
        assert future.cancelled()
        assert await executor.submit(square, 4) == 16
        touch("release")
    assert not is_there("effect one")
loop = uvloop.new_event_loop()
loop.set_debug(True)
loop.slow_callback_duration = 3600
loop.run_until_complete(main())
loop.close()
"""


def _expect_silence(script: str, folder: Path) -> None:
    """Run a script and expect that it ends by itself, with nothing said and nobody left."""
    mark = clients.new_mark()
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", HEAD + script, str(folder)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=50, check=False, env={**os.environ, **dict([mark])}
        )

        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        wait_until(lambda: not clients.family_of(mark), "no process of the script is left", 10)
    finally:
        clients.kill_family(mark)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=list(SCRIPTS))
def test_a_script(script: str, tmp_path: Path) -> None:
    _expect_silence(script, tmp_path)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup came with Python 3.11")
def test_a_task_group(tmp_path: Path) -> None:
    _expect_silence(GROUP, tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed: pip install uvloop")
def test_uvloop(tmp_path: Path) -> None:
    _expect_silence(UVLOOP, tmp_path)


# ---------------------------------------------------------------------- Ctrl-C

AWAITING = {
    "a future": "await executor.submit(work)",
    "wait_for": "await asyncio.wait_for(executor.submit(work), 600)",
    "a future that ends its task": "await executor.options(cancel_running=True).submit(work)",
}

INTERRUPTED = """
async def main():
    call = asyncio.get_running_loop().run_in_executor(executor, work)
    asyncio.get_running_loop().slow_callback_duration = 3600
    ready()
    {awaiting}
asyncio.run(main())
"""


@pytest.mark.parametrize("opening", ["with CrewExecutor(2) as executor:", "executor = CrewExecutor(2)"])
@pytest.mark.parametrize("awaiting", AWAITING)
def test_ctrl_c_in_a_coroutine(awaiting: str, opening: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    script = clients.script(INTERRUPTED.format(awaiting=AWAITING[awaiting]), opening=opening)
    with clients.running(script, tmp_path) as client:
        client.wait_ready()
        clients.wait_asleep(client.pid)
        os.kill(client.pid, signal.SIGINT)
        code = client.wait_over()
        wait_until(lambda: not client.family(), "no process of the client is left", 10)

        assert len(client.reports()) == 1, client.errors()
        assert client.errors().endswith("KeyboardInterrupt\n")
        assert code == -signal.SIGINT
