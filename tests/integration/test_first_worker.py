"""The first worker of a program has not imported what most tasks do not use, and nobody can tell.

Scripts of their own: workers that come later share what the supervisor has imported meanwhile.
"""

from __future__ import annotations

import json

import pytest

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


def test_finders_of_a_task_are_all_asked_though_one_of_them_logs() -> None:
    run("""
def look():
    import sys, importlib.machinery
    class Logs:
        def find_spec(self, name, path=None, target=None):
            if name == "made_up":
                __import__("logging").getLogger("quiet").debug("looking for %s", name)
    class Makes:
        def find_spec(self, name, path=None, target=None):
            if name == "made_up":
                return importlib.machinery.ModuleSpec(name, self)
        def create_module(self, spec):
            return None
        def exec_module(self, module):
            module.number = 42
    sys.meta_path += [Logs(), Makes()]
    return __import__("made_up").number
with CrewExecutor(1) as executor:
    assert executor.submit(look).result() == 42
""")


def test_a_module_of_the_users_is_not_taken_for_one_of_the_standard_library() -> None:
    out, _err = run("""
import os, sys, tempfile, traceback
with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "token.py"), "w") as file:
        file.write("secret = 1")
    sys.path.insert(0, folder)
    with CrewExecutor(1) as executor:
        print(repr(executor.submit(eval, "1 / 0").exception()))
        print(executor.submit(eval, "__import__('logging').root.level").result())
""")
    assert out.splitlines() == ["ZeroDivisionError('division by zero')", "30"]


@pytest.mark.parametrize("mp_context", ["fork", "spawn"])
def test_a_default_timeout_of_the_clients_sockets_ends_nothing(mp_context: str) -> None:
    run(f"""
import socket, time
socket.setdefaulttimeout(0.1)
with CrewExecutor(1, {mp_context!r}) as executor:
    first = executor.submit(time.sleep, 0.5)
    first.result()
    assert executor.submit(len, 1_000_000 * "x").result() == 1_000_000
    time.sleep(0.3)
    assert executor.submit(pow, 2, 5).result() == 32
    (worker,) = executor.stats().workers
    assert worker.name == first.record().worker
""")
