"""CrewExecutor with real workers: calls, results, options, snapshots, the ends of a pool."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import multiprocessing
import operator
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from crew_executor import BrokenCrewError, CrewExecutor
from crew_executor.launchers import LocalLauncher

from .helpers import add, append_line, identity, touch_and_wait, wait_until


def test_results_come_back_in_any_number() -> None:
    with CrewExecutor(2) as executor:
        futures = [executor.submit(add, number, 1) for number in range(3000)]

        assert [future.result() for future in futures] == list(range(1, 3001))


def test_keywords_belong_to_the_task() -> None:
    with CrewExecutor(1) as executor:
        future = executor.submit(dict, fn=1, timeout=2, retries=3, name=4, self=5, task=6, options=7)

        assert future.result() == {"fn": 1, "timeout": 2, "retries": 3, "name": 4, "self": 5, "task": 6, "options": 7}


def _process_name() -> str:
    return logging.LogRecord("tasks", logging.INFO, "", 0, "", (), None).processName or ""


@pytest.mark.parametrize("method", [None, "spawn"])
def test_what_a_task_logs_bears_the_name_of_its_worker(method: str | None) -> None:
    """As with ProcessPoolExecutor, no worker is called MainProcess: programs tell by it where they are."""
    with CrewExecutor(1, method, name="tiles") as executor:
        assert executor.submit(_process_name).result() == "tiles-1"


def test_lambdas_and_closures_travel() -> None:
    offset = 10
    with CrewExecutor(1) as executor:
        assert executor.submit(lambda value: value + offset, 1).result() == 11


@pytest.mark.parametrize("chunksize", [1, 7])
def test_map_keeps_the_order(chunksize: int) -> None:
    with CrewExecutor(2) as executor:
        assert list(executor.map(add, range(100), range(100), chunksize=chunksize)) == [2 * i for i in range(100)]


@pytest.mark.parametrize("chunksize", [1, 5])
def test_map_gives_the_items_before_a_failing_one(chunksize: int) -> None:
    with CrewExecutor(2) as executor:
        results = executor.map(operator.truediv, [6, 6, 6, 6], [1, 2, 0, 3], chunksize=chunksize)

        assert [next(results), next(results)] == [6, 3]
        with pytest.raises(ZeroDivisionError):
            next(results)


@pytest.mark.parametrize("chunksize", [1, 5])
@pytest.mark.parametrize("is_view", [False, True], ids=["executor", "view"])
def test_map_submits_by_the_public_method_which_programs_replace(*, is_view: bool, chunksize: int) -> None:
    """As tqdm does on the instance, to count the futures that end."""
    futures = []
    with CrewExecutor(2) as executor:
        pool = executor.options(priority=1) if is_view else executor
        submit = pool.submit

        def submit_and_note(*args: object, **kwargs: object) -> object:
            futures.append(submit(*args, **kwargs))
            return futures[-1]

        pool.submit = submit_and_note

        assert list(pool.map(add, range(20), range(20), chunksize=chunksize)) == [2 * number for number in range(20)]

    assert [f"{add.__module__}.add"] * (20 // chunksize) == [future.record().command for future in futures]


def test_map_with_a_buffersize_reads_no_further_ahead() -> None:
    read = []

    def numbers() -> object:
        for number in range(1000):
            read.append(number)
            yield number

    with CrewExecutor(2) as executor:
        results = executor.map(identity, numbers(), buffersize=4)

        assert next(results) == 0
        assert len(read) <= 6


def test_a_higher_priority_runs_first(tmp_path: Path) -> None:
    order = str(tmp_path / "order")
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with CrewExecutor(1) as executor:
        blocker = executor.submit(touch_and_wait, started, release)
        wait_until(Path(started).exists, "the blocking task runs")
        urgent = executor.options(priority=1)
        futures = [executor.submit(append_line, order, f"low {number}") for number in range(3)]
        futures += [urgent.submit(append_line, order, f"high {number}") for number in range(3)]
        Path(release).touch()
        blocker.result()
        for future in futures:
            future.result()

    assert Path(order).read_text().split("\n")[:-1] == ["high 0", "high 1", "high 2", "low 0", "low 1", "low 2"]


def test_options_of_a_view_of_a_view_add_up() -> None:
    with CrewExecutor(1) as executor:
        view = executor.options(name="alpha").options(priority=3)
        record = view.submit(int).record()

        assert record.name == "alpha"
        with pytest.raises(TypeError):
            executor.options(colour="red")  # type: ignore[call-arg]


def test_a_view_that_is_shut_down_waits_for_its_own_tasks_and_leaves_the_pool(tmp_path: Path) -> None:
    with CrewExecutor(2) as executor:
        with executor.options(name="own") as view:
            future = view.submit(add, 1, 1)

        assert future.done()
        with pytest.raises(RuntimeError, match="after shutdown"):
            view.submit(int)
        assert executor.submit(add, 2, 2).result() == 4


def test_stats_is_a_consistent_snapshot(tmp_path: Path) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with CrewExecutor(1) as executor:
        blocker = executor.submit(touch_and_wait, started, release)
        waiting = [executor.submit(add, 1, 1) for _ in range(5)]
        wait_until(Path(started).exists, "the blocking task runs")
        stats = executor.stats()
        Path(release).touch()
        pid = blocker.result()
        for future in waiting:
            future.result()
        after = executor.stats()

    assert (stats.queued, stats.running, stats.done) == (5, 1, 0)
    assert [(worker.pid, worker.state) for worker in stats.workers] == [(pid, "busy")]
    assert (after.queued, after.running, after.done) == (0, 0, 6)
    assert after.workers[0].tasks == 6


def test_the_pool_grows_with_the_demand_and_not_beyond(tmp_path: Path) -> None:
    release = str(tmp_path / "release")
    with CrewExecutor(3) as executor:
        assert executor.stats().workers == ()

        futures = [executor.submit(touch_and_wait, str(tmp_path / str(number)), release) for number in range(8)]
        wait_until(lambda: len(list(tmp_path.iterdir())) == 3, "three workers run")
        assert len(executor.stats().workers) == 3
        Path(release).touch()
        assert len({future.result() for future in futures}) == 3


def test_idle_workers_leave_and_come_back() -> None:
    with CrewExecutor(2, idle_timeout=0.2) as executor:
        first = executor.submit(os.getpid).result()
        wait_until(lambda: not executor.stats().workers, "the idle worker has left")

        assert executor.submit(os.getpid).result() != first
        assert executor.stats().launched == 2
        words = [decision.partition(":")[0] for decision in executor.stats().decisions]
        assert words == ["launch 1", f"worker {executor._name}-1 leaves", "launch 1"]


def test_min_workers_stay_although_idle() -> None:
    with CrewExecutor(2, idle_timeout=0.1, min_workers=1) as executor:
        wait_until(lambda: [w.state for w in executor.stats().workers] == ["idle"], "one worker without any task")
        pid = executor.submit(os.getpid).result()
        time.sleep(0.5)  # several idle time-outs: the absence of an event has no event to wait for

        assert executor.submit(os.getpid).result() == pid


def test_scaling_none_keeps_a_fixed_pool() -> None:
    with CrewExecutor(2, scaling="none") as executor:
        wait_until(lambda: [w.state for w in executor.stats().workers] == ["idle", "idle"], "both workers are there")


def test_a_worker_is_replaced_after_max_tasks_per_child() -> None:
    with CrewExecutor(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(os.getpid).result() for _ in range(6)]

        assert len(set(pids)) == 3
        assert all(pids.count(pid) == 2 for pid in pids)


def test_a_worker_leaves_after_its_walltime_and_loses_no_task() -> None:
    with CrewExecutor(1, launcher=LocalLauncher(walltime=0.3)) as executor:
        first = executor.submit(os.getpid).result()
        wait_until(lambda: executor.submit(os.getpid).result() != first, "another worker answers")


def test_an_initializer_runs_in_each_worker_first() -> None:
    with CrewExecutor(1, initializer=os.putenv, initargs=("CREW_TEST", "1")) as executor:
        output = executor.submit(subprocess.check_output, ["printenv", "CREW_TEST"]).result()

        assert output == b"1\n"


def test_a_failing_initializer_breaks_the_pool_with_its_own_exception_as_cause() -> None:
    with CrewExecutor(2, initializer=operator.truediv, initargs=(1, 0)) as executor:
        futures = [executor.submit(int) for _ in range(5)]
        for future in futures:
            with pytest.raises(BrokenCrewError) as caught:
                future.result(timeout=30)

            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        with pytest.raises(BrokenCrewError):
            executor.submit(int)


def test_max_pending_makes_submit_block(tmp_path: Path) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    with CrewExecutor(1, max_pending=2) as executor:
        first = executor.submit(touch_and_wait, started, release)
        executor.submit(int)
        third: list[object] = []
        thread = threading.Thread(target=lambda: third.append(executor.submit(int)))
        thread.start()
        wait_until(Path(started).exists, "the first task runs")
        thread.join(0.3)

        assert not third

        Path(release).touch()
        first.result()
        thread.join(30)

        assert third[0].result() == 0  # type: ignore[attr-defined]


def test_submit_after_shutdown_says_so() -> None:
    executor = CrewExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        executor.submit(int)


def test_shutdown_without_waiting_finishes_the_work() -> None:
    executor = CrewExecutor(1)
    futures = [executor.submit(add, number, 0) for number in range(50)]
    executor.shutdown(wait=False)

    assert [future.result(timeout=30) for future in futures] == list(range(50))
    executor.shutdown()


def test_shutdown_can_cancel_what_is_queued(tmp_path: Path) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    executor = CrewExecutor(1)
    running = executor.submit(touch_and_wait, started, release)
    queued = [executor.submit(int) for _ in range(10)]
    wait_until(Path(started).exists, "the first task runs")
    executor.shutdown(wait=False, cancel_futures=True)
    Path(release).touch()
    executor.shutdown()

    assert running.result() > 0
    assert all(future.cancelled() for future in queued)


def test_a_forgotten_executor_finishes_its_work() -> None:
    executor = CrewExecutor(2)
    futures = [executor.submit(add, number, 0) for number in range(100)]
    gone = weakref.ref(executor)
    del executor
    gc.collect()

    assert gone() is None
    assert [future.result(timeout=30) for future in futures] == list(range(100))


def test_an_executor_whose_map_is_read_is_not_forgotten() -> None:
    executor = CrewExecutor(1)
    results = executor.map(abs, range(-100, 0), buffersize=3)
    del executor
    gc.collect()

    assert list(results) == list(range(100, 0, -1))


@pytest.mark.parametrize("how", ["shutdown", "kill_workers", "terminate_workers"])
def test_an_executor_that_has_ended_is_freed_whatever_it_had_queued(how: str) -> None:
    executor = CrewExecutor(1)
    executor.submit(abs, 1)
    results = executor.map(abs, range(-5_000, 0))
    getattr(executor, how)()
    executor.shutdown()
    gone = weakref.ref(executor), weakref.ref(executor._dispatcher)
    del executor, results
    gc.collect()

    assert [reference() for reference in gone] == [None, None]


@pytest.mark.parametrize("method", ["kill_workers", "terminate_workers"])
def test_workers_can_be_ended_in_mid_task(method: str, tmp_path: Path) -> None:
    started, release = str(tmp_path / "started"), str(tmp_path / "release")
    executor = CrewExecutor(1)
    running = executor.submit(touch_and_wait, started, release)
    queued = executor.submit(int)
    wait_until(Path(started).exists, "the first task runs")
    getattr(executor, method)()

    assert running.exception(timeout=30) is not None
    assert queued.cancelled()
    executor.shutdown()


def test_leaving_the_with_block_by_an_interrupt_ends_what_runs(tmp_path: Path) -> None:
    started = str(tmp_path / "started")
    with pytest.raises(KeyboardInterrupt), CrewExecutor(1) as executor:  # noqa: PT012  the block is the subject
        running = executor.submit(touch_and_wait, started, str(tmp_path / "never"))
        wait_until(Path(started).exists, "the task runs")
        raise KeyboardInterrupt

    assert running.exception() is not None


def test_spawn_starts_a_fresh_interpreter_for_each_worker() -> None:
    with CrewExecutor(1, "spawn") as executor:
        assert executor.submit(add, 1, 2).result(timeout=30) == 3


def test_modules_beside_the_script_are_importable_in_workers(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "script.py").write_text(
        "import beside\nfrom crew_executor import CrewExecutor\n"
        "def local(x):\n    return beside.double(x) + 1\n"
        "with CrewExecutor(2) as executor:\n"
        "    print(executor.submit(local, 3).result(), *executor.map(beside.double, [1, 2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("7 2 4\n", "")


def test_a_script_from_stdin_needs_no_guard() -> None:
    script = (
        "from crew_executor import CrewExecutor\n"
        "class Point:\n    def __init__(self, x): self.x = x\n"
        "def move(p): return Point(p.x + 1)\n"
        "e = CrewExecutor(2)\n"
        "f = e.submit(move, Point(1))\n"
        "assert type(f.result()) is Point and f.result().x == 2\n"
        "print('ok')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-"], input=script, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout, done.stderr, done.returncode) == ("ok\n", "", 0)


def test_work_pending_at_interpreter_exit_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import sys\nfrom crew_executor import CrewExecutor\n"
        "def write(path, line):\n    with open(path, 'a') as f: f.write(line)\n"
        "e = CrewExecutor(2)\n"
        "for i in range(20): e.submit(write, sys.argv[1], 'x')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(out)], timeout=60, check=True)

    assert out.read_text() == "x" * 20


def _keep_queue(queue: object, lock: object) -> None:
    _kept.extend([queue, lock])


_kept: list[object] = []


def _put_through_queue(value: int) -> None:
    queue, lock = _kept
    with lock:  # type: ignore[attr-defined]
        queue.put(value)  # type: ignore[attr-defined]


@pytest.mark.parametrize("mp_context", [None, "spawn"])
def test_queues_and_locks_of_multiprocessing_travel_in_initargs(mp_context: str | None) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with CrewExecutor(2, mp_context, initializer=_keep_queue, initargs=(queue, context.Lock())) as executor:
        list(executor.map(_put_through_queue, range(10)))

        assert sorted(queue.get(timeout=30) for _ in range(10)) == list(range(10))
    queue.close()
    queue.join_thread()


def test_every_callback_runs_once_under_many_threads() -> None:
    """Effects taken under the lock must be carried out by one thread only."""
    calls: list[object] = []
    with CrewExecutor(2) as executor:

        def submit_many() -> None:
            for number in range(1500):
                executor.submit(add, number, 0).add_done_callback(calls.append)

        threads = [threading.Thread(target=submit_many) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(calls) == len(set(map(id, calls))) == 6000


def test_killing_the_workers_ends_what_was_sent_ahead() -> None:
    for _ in range(5):
        executor = CrewExecutor(2)
        [future.result() for future in [executor.submit(time.sleep, 0.005) for _ in range(20)]]
        futures = [executor.submit(time.sleep, 0.005) for _ in range(50)]
        executor.kill_workers()
        _done, pending = concurrent.futures.wait(futures, timeout=30)
        executor.shutdown()

        assert not pending


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": "2"}, TypeError, "max_workers must be an integer, not '2'"),
        ({"max_workers": 2.0}, TypeError, "max_workers must be an integer, not 2.0"),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
        ({"max_tasks_per_child": 1.5}, TypeError, "max_tasks_per_child must be an integer"),
        ({"mp_context": "thread"}, ValueError, "mp_context"),
        ({"mp_context": 3}, ValueError, "mp_context must be None, a multiprocessing context or its name, not 3"),
        ({"launcher": "nowhere"}, ValueError, "no launcher is named 'nowhere'; known are: .*local, lsf"),
        ({"launcher": 3}, TypeError, "launcher must be a name or a Launcher"),
        ({"min_workers": 3, "max_workers": 2}, ValueError, "min_workers must be between 0 and max_workers=2"),
        ({"scaling": "up"}, ValueError, "scaling must be one of demand, one, none"),
        ({"idle_timeout": 0}, ValueError, "idle_timeout"),
        ({"max_pending": 0}, ValueError, "max_pending"),
        ({"name": ""}, ValueError, "name must have 1 to 100 printable characters"),
    ],
)
def test_wrong_constructor_values_are_named(arguments: dict[str, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        CrewExecutor(**arguments)  # type: ignore[arg-type]


def test_options_of_an_interpreter_need_one_that_is_named() -> None:
    with pytest.raises(ValueError, match="python_args are options of the interpreter"):
        CrewExecutor(1, launcher=LocalLauncher(python_args=("-O",)))
    with CrewExecutor(1, launcher=LocalLauncher(python=sys.executable, python_args=("-O",))) as executor:
        assert executor.submit(eval, "__debug__").result() is False
