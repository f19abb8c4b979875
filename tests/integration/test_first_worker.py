"""The first worker of a program has not imported what most tasks do not use, and nobody can tell.

Scripts of their own: workers that come later share what the supervisor has imported meanwhile.
"""

from __future__ import annotations

import json

from . import clients

LATE = ["logging", "traceback", "multiprocessing.resource_tracker", "subprocess"]


def run(body: str) -> tuple[str, str]:
    """Run a script that ends well; return what it has written."""
    done = clients.run_to_end("from crew_executor import CrewExecutor\n" + body)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_it_is_up_without_what_takes_long_to_import_and_later_ones_share_that() -> None:
    out, _err = run(f"""
import json
look = "[name for name in {LATE} if name in __import__('sys').modules]"
with CrewExecutor(1, max_tasks_per_child=1) as executor:
    for _ in range(2):
        print(json.dumps(executor.submit(eval, look).result()))
""")
    assert list(map(json.loads, out.splitlines())) == [[], LATE]


def test_its_first_task_logs_as_any_other() -> None:
    out, err = run("""
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s %(task)s", level=logging.INFO)
logging.getLogger("quiet").setLevel(logging.ERROR)
def log():
    logging.debug("too low")
    logging.info("of a function of logging's own")
    logging.getLogger("quiet").warning("too low as well")
    logging.getLogger("loud").error("of a logger")
    return logging.root.level, [type(each).__name__ for each in logging.root.handlers]
with CrewExecutor(1) as executor:
    assert executor.options(name="first").submit(log).result() == (logging.INFO, [])
""")
    assert out.splitlines() == [
        "INFO root of a function of logging's own first",
        "ERROR loud of a logger first",
    ]
    assert err == ""


def test_a_level_set_by_a_task_is_kept_and_one_set_by_the_client_is_brought() -> None:
    run("""
import logging
def set_level(level):
    logging.getLogger("mine").setLevel(level)
def look():
    return logging.root.level, logging.getLogger("mine").level
with CrewExecutor(1) as executor:
    assert executor.submit(set_level, 33).result() is None
    assert executor.submit(look).result() == (logging.WARNING, 33)
    logging.root.setLevel(11)
    assert executor.submit(look).result() == (11, 33)
""")


def test_a_level_that_the_client_changes_before_anything_has_imported_logging_counts() -> None:
    out, err = run("""
import logging, sys
with CrewExecutor(1) as executor:
    executor.submit(pow, 2, 5).result()
    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s", level=logging.INFO)
    assert executor.submit(pow, 2, 5).result() == 32
    executor.submit(eval, "__import__('logging').info('of a task')").result()
""")
    assert (out, err) == ("INFO of a task\n", "")


def test_a_process_that_a_task_has_forked_logs_on_stderr() -> None:
    out, err = run("""
LOG = "lambda: (__import__('logging').warning('of a child'), sys.stderr.flush(), os._exit(0))"
WAIT = "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 'logging' in sys.modules)"
with CrewExecutor(1) as executor:
    executor.submit(exec, f"import os, sys; log = {LOG}; {WAIT} if (pid := os.fork()) else log()").result()
""")
    assert (out, err) == ("0 False\n", "of a child\n")


def test_its_first_task_fails_with_its_traceback_as_frames_and_as_text() -> None:
    out, _err = run("""
import traceback
with CrewExecutor(1) as executor:
    error = executor.submit(eval, "1 / 0").exception()
    print(*traceback.format_exception(error), sep="")
""")
    assert 'File "<string>", line 1, in <module>' in out
    out, _err = run("""
class Stubborn(Exception):
    def __reduce__(self):
        return 1 / 0
def fail():
    raise Stubborn
with CrewExecutor(1) as executor:
    print(executor.submit(fail).exception().traceback_text)
""")
    assert "in fail" in out


def test_shared_memory_of_its_first_task_outlives_it() -> None:
    run("""
from multiprocessing.shared_memory import SharedMemory
def make():
    memory = SharedMemory(create=True, size=10)
    memory.buf[0] = 7
    memory.close()
    return memory.name
with CrewExecutor(1, max_tasks_per_child=1) as executor:
    name = executor.submit(make).result()
memory = SharedMemory(name)
assert memory.buf[0] == 7
memory.close()
memory.unlink()
""")


def test_a_subtask_brings_no_surroundings_along_that_have_not_changed() -> None:
    run("""
def child():
    import logging
    return logging.root.level
def parent(executor):
    levels = [executor.submit(child).result()]
    import logging
    levels.append(executor.submit(child).result())
    logging.root.setLevel(5)
    return [*levels, executor.submit(child).result()]
import logging
logging.root.setLevel(20)
with CrewExecutor(2) as executor:
    assert executor.submit(parent, executor).result() == [20, 20, 5]
""")
