"""The one table of what differs on purpose: which of the standard library's tests CrewExecutor does not pass, and why.

Nothing is skipped because of this table. Each listed test is run and must fail with the stated symptom: a row whose
test passes, fails in another way or has gone is an error. So every skip, and every other failure, is a defect.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """One of the standard library's tests that CrewExecutor fails on purpose.

    Attributes:
        test: the mixin of the standard library and the test in it: "WaitTests.test_timeout".
        guarantee: what CrewExecutor promises that the standard library's expectation would break.
        symptom: how the test must fail here, a regular expression for "ExceptionName: its text".
        instead: our own test, in test_counterparts.py, of what the test is about, by public means.
        since: the first Python whose releases all have this test; earlier ones may have it as a backport.
    """

    test: str
    guarantee: str
    symptom: str
    instead: str
    since: tuple[int, int] = (3, 10)


@dataclass(frozen=True)
class Preparation:
    """A test that CrewExecutor passes, once its pool has a worker.

    Attributes:
        test: as in Difference.
        because: what the test takes for granted that is not promised.
    """

    test: str
    because: str


@dataclass(frozen=True)
class ClassNotRun:
    """Test classes of the standard library (a pattern of their names) that are not about a pool of processes."""

    pattern: str
    reason: str


# ------------------------------------------------------------------------------------- what is promised instead

_ALONE = (
    "A task that fails, fails alone: it does not break the pool for the others, so its error is no BrokenProcessPool."
)
_KEPT_CAUSE = (
    "An exception keeps its own __cause__, __context__ and traceback, whose frames are the worker's; no cause is put "
    "there to carry a text."
)
_PRIVATE = "Workers belong to a launcher, on any machine. What holds them is not public; stats() shows them. "
_PROCESSES = _PRIVATE + "There is no _processes with Process objects of multiprocessing."
_MANAGER = _PRIVATE + "There is no _executor_manager_thread to join; shutdown(wait=True) joins what there is."
_FORCE = _PRIVATE + "There is no _force_shutdown behind terminate_workers() and kill_workers()."
_NO_LIMIT = "There is no limit of 61 workers on Windows: no WaitForMultipleObjects is used."

DIFFERENCES: tuple[Difference, ...] = (
    # ---- a worker that dies, a call that cannot be carried
    Difference(
        "ProcessPoolExecutorTest.test_killed_child",
        _ALONE,
        "AttributeError: .*'_processes'",
        "test_killed_worker_fails_its_own_task_alone",
    ),
    Difference(
        "ProcessPoolExecutorTest.test_broken_process_pool_traceback",
        _ALONE,
        "AttributeError: .*'_processes'",
        "test_each_lost_task_has_an_exception_of_its_own",
        since=(3, 15),
    ),
    Difference(
        "ExecutorDeadlockTest.test_error_at_task_unpickle",
        _ALONE,
        "UnpicklingError: ",
        "test_argument_that_cannot_be_unpickled_fails_alone",
    ),
    Difference(
        "ExecutorDeadlockTest.test_exit_at_task_unpickle",
        _ALONE,
        "SystemExit: 1",
        "test_argument_that_cannot_be_unpickled_fails_alone",
    ),
    Difference(
        "ExecutorDeadlockTest.test_error_during_result_unpickle_in_result_handler",
        _ALONE,
        "UnpicklingError: ",
        "test_result_that_cannot_be_unpickled_fails_alone",
    ),
    Difference(
        "ExecutorDeadlockTest.test_exit_during_result_unpickle_in_result_handler",
        _ALONE,
        "SystemExit: 1",
        "test_result_that_cannot_be_unpickled_fails_alone",
    ),
    # ---- what an exception carries
    Difference(
        "ProcessPoolExecutorTest.test_traceback",
        _KEPT_CAUSE,
        "AssertionError: <class 'NoneType'> is not <class 'concurrent.futures.process._RemoteTraceback'>",
        "test_exception_keeps_its_own_cause_and_its_remote_frames",
    ),
    Difference(
        "ProcessPoolExecutorTest.test_traceback_when_child_process_terminates_abruptly",
        _KEPT_CAUSE,
        "AssertionError: .*_RemoteTraceback",
        "test_lost_task_tells_the_exit_code",
        since=(3, 15),
    ),
    # ---- private parts
    Difference(
        "ProcessPoolExecutorTest.test_saturation",
        _PROCESSES,
        "AttributeError: .*'_processes'",
        "test_saturated_pool_grows_to_its_limit_and_no_further",
    ),
    Difference(
        "ProcessPoolExecutorTest.test_idle_process_reuse_one",
        _PROCESSES,
        "AttributeError: .*'_processes'",
        "test_idle_worker_is_reused",
    ),
    Difference(
        "ProcessPoolExecutorTest.test_idle_process_reuse_multiple",
        _PROCESSES,
        "AttributeError: .*'_processes'",
        "test_no_more_workers_than_tasks",
    ),
    Difference(
        "ProcessPoolExecutorTest.test_max_tasks_per_child",
        _PROCESSES,
        "AttributeError: .*'_processes'",
        "test_worker_is_replaced_after_its_tasks",
        since=(3, 11),
    ),
    Difference(
        "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context",
        "Workers are never forked from the client, so max_tasks_per_child needs no other start method.",
        "AttributeError: .*'_mp_context'",
        "test_worker_is_replaced_after_its_tasks",
        since=(3, 11),
    ),
    Difference(
        "ProcessPoolShutdownTest.test_processes_terminate",
        _PROCESSES,
        "AttributeError: .*'_processes'",
        "test_workers_end_with_shutdown",
    ),
    Difference(
        "ProcessPoolShutdownTest.test_context_manager_shutdown",
        _PROCESSES,
        "AttributeError: .*'_processes'",
        "test_workers_end_with_shutdown",
    ),
    Difference(
        "ProcessPoolShutdownTest.test_del_shutdown",
        _MANAGER,
        "AttributeError: .*'_executor_manager_thread'",
        "test_forgotten_executor_finishes_its_work",
    ),
    Difference(
        "ProcessPoolShutdownTest.test_shutdown_no_wait",
        _PROCESSES,
        "AttributeError: .*'_processes'",
        "test_shutdown_without_wait_finishes_the_work",
    ),
    *(
        Difference(
            f"ProcessPoolShutdownTest.test_shutdown_gh_132969_case_{case}",
            _MANAGER,
            "AttributeError: .*'_executor_manager_thread'",
            "test_shutdown_without_wait_finishes_the_work",
            since=(3, 15),
        )
        for case in (1, 2)
    ),
    Difference(
        "ProcessPoolExecutorTest.test_shutdown_no_wait_max_tasks_gh119592",
        _MANAGER,
        "AttributeError: .*'_executor_manager_thread'",
        "test_shutdown_without_wait_finishes_the_work",
        since=(3, 15),
    ),
    Difference(
        "ProcessPoolExecutorTest.test_gc_during_max_tasks_worker_exit_gh152967",
        _MANAGER,
        "AttributeError: .*'_executor_manager_thread'",
        "test_forgotten_executor_finishes_its_work",
        since=(3, 15),
    ),
    Difference(
        "ProcessPoolExecutorTest.test_force_shutdown_during_max_tasks_worker_exit",
        _MANAGER,
        "AttributeError: .*'_executor_manager_thread'",
        "test_ended_workers_run_no_task_to_its_end",
        since=(3, 15),
    ),
    Difference(
        "ProcessPoolExecutorTest.test_failed_worker_replacement_breaks_pool",
        _MANAGER,
        "AttributeError: .*'_executor_manager_thread'",
        "test_worker_is_replaced_after_its_tasks",
        since=(3, 15),
    ),
    Difference(
        "ExecutorDeadlockTest.test_shutdown_deadlock_pickle",
        _MANAGER,
        "AttributeError: .*'_executor_manager_thread'",
        "test_argument_that_cannot_be_pickled_fails_alone_at_shutdown",
    ),
    *(
        Difference(
            f"ProcessPoolExecutorTest.test_{verb}_workers",
            _FORCE,
            "AssertionError: Expected .* to be called once",
            "test_ended_workers_run_no_task_to_its_end",
            since=(3, 14),
        )
        for verb in ("terminate", "kill")
    ),
    Difference(
        "ProcessPoolExecutorTest.test_force_shutdown_workers_invalid_op",
        _FORCE,
        "AttributeError: .*'_force_shutdown'",
        "test_ending_workers_before_they_start_or_after_they_died_is_no_error",
        since=(3, 14),
    ),
    *(
        Difference(
            f"ProcessPoolExecutorTest.{test}",
            _PROCESSES,
            "AttributeError: .*'_processes'",
            "test_ended_workers_run_no_task_to_its_end",
            since=(3, 14),
        )
        for test in ("test_force_shutdown_workers", "test_force_shutdown_workers_stops_pool")
    ),
    # ---- limits that are not ours
    Difference(
        "ProcessPoolExecutorTest.test_max_workers_too_large",
        _NO_LIMIT,
        "SkipTest: Windows-only|AssertionError: ValueError not raised",
        "test_more_than_61_workers_are_allowed",
    ),
)

PREPARATIONS: tuple[Preparation, ...] = (
    Preparation(
        "ProcessPoolShutdownTest.test_cancel_futures",
        "It expects that some of the tasks submitted a moment ago are not cancelled, for ProcessPoolExecutor feeds its "
        "queue before a worker runs. shutdown(cancel_futures=True) of CrewExecutor cancels all that no worker has, and "
        "while the workers are starting that is everything.",
    ),
)

# Classes of the standard library that test_stdlib.py runs, without a pool class to join them with.
CLASSES_RUN_APART = ("FutureTests", "FailingInitializerResourcesTest", "PoolExecutorTest")

CLASSES_NOT_RUN: tuple[ClassNotRun, ...] = (
    ClassNotRun("ThreadPool*", "threads of this process; what pools of processes share with them is run"),
    ClassNotRun("InterpreterPool*", "interpreters in this process; the same"),
    ClassNotRun("AsyncioTest", "InterpreterPoolExecutor under asyncio"),
)
