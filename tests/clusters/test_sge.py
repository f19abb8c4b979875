"""A real Grid Engine takes, starts, deletes and loses jobs as tests of a launcher need it, and is gone afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import Hosts, is_alive, wait_until, which
from .sge import GridEngine, missing

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

SECONDS = 60.0
"""For what takes 1 or 2 on a machine that does nothing else."""


@pytest.fixture
def sge(hosts: Hosts) -> Iterator[GridEngine]:
    with GridEngine(hosts) as made:
        yield made


def submit(sge: GridEngine, command: str, *options: str) -> str:
    """Submit a script on stdin; return the job's number, of an array without its tasks."""
    argv = ["qsub", "-terse", "-S", "/bin/sh", "-o", "/dev/null", "-j", "y", *options]
    done = sge.run(argv, stdin=None, input=command)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.strip().partition(".")[0]


def refusal(sge: GridEngine, *options: str) -> str:
    done = sge.run(["qsub", "-terse", *options, "-b", "y", "true"])
    assert (0, "") != (done.returncode, done.stdout)
    return done.stderr


def states(sge: GridEngine, job: str) -> list[str]:
    return [found["state"] for found in sge.jobs() if found["id"] == job]


def wait_for(sge: GridEngine, job: str, state: str, number: int = 1) -> None:
    wait_until(lambda: states(sge, job) == [state] * number, f"{job} is {state}", SECONDS)


def wait_for_end(sge: GridEngine, job: str) -> None:
    wait_until(lambda: not states(sge, job), f"{job} has ended", SECONDS)


def test_a_job_runs_on_a_host_with_little_of_the_environment_of_its_user(sge: GridEngine, tmp_path: Path) -> None:
    code = "import json, os, socket; print(json.dumps([socket.gethostname(), os.getcwd(), dict(os.environ)]))"
    argv = [
        "qsub",
        "-terse",
        "-o",
        str(tmp_path / "out"),
        "-j",
        "y",
        "-cwd",
        "-pe",
        "smp",
        "2",
        "-v",
        "MINE=1",
        "-b",
        "y",
    ]
    done = sge.run([*argv, sys.executable, "-c", f"'{code}'"], env={"NOT_MINE": "1"}, cwd=tmp_path)
    job = done.stdout.strip()
    wait_for_end(sge, job)

    host, folder, environment = json.loads((tmp_path / "out").read_text("utf-8"))
    assert host in {"h1", "h2"}
    assert str(tmp_path) == folder
    assert ("1", None) == (environment["MINE"], environment.get("NOT_MINE"))
    assert (job, "undefined", "2") == tuple(map(environment.get, ("JOB_ID", "SGE_TASK_ID", "NSLOTS")))
    assert set(sge.environment.items()) <= set(environment.items())


def test_an_array_runs_on_both_hosts_and_each_task_knows_its_index(sge: GridEngine, tmp_path: Path) -> None:
    words = "echo $JOB_ID $SGE_TASK_ID $(hostname); sleep 2"
    job = submit(sge, words, "-t", "1-8", "-N", "array", "-o", str(tmp_path))
    wait_until(lambda: len(states(sge, job)) == 8, "each is told", SECONDS)
    wait_for_end(sge, job)

    said = [(tmp_path / f"array.o{job}.{index}").read_text("utf-8").split() for index in range(1, 9)]
    assert [[job, str(index)] for index in range(1, 9)] == [words[:2] for words in said]
    assert {"h1", "h2"} == {words[2] for words in said}


def test_jobs_are_deleted(hosts: Hosts, sge: GridEngine) -> None:
    job = submit(sge, "sleep 100", "-t", "1-2", "-q", "all.q@h1")
    wait_for(sge, job, "r", 2)
    assert ["1", "2"] == sorted(found["index"] for found in sge.jobs())
    assert {"all.q@h1"} == {found["queue"] for found in sge.jobs()}

    sge.delete(job)
    wait_for_end(sge, job)
    wait_until(lambda: len(hosts.processes("h1")) == 1, "there is but the daemon", SECONDS)
    sge.delete(job)


def test_a_job_pends_while_the_queue_is_disabled(sge: GridEngine) -> None:
    running = submit(sge, "sleep 100")
    wait_for(sge, running, "r")
    sge.disable()
    pending = submit(sge, "true")
    assert [] == sge.ready()
    wait_until(lambda: "is disabled" in sge.run(["qstat", "-j", pending]).stdout, "it is told why it pends", SECONDS)
    assert (["qw"], ["r"]) == (states(sge, pending), states(sge, running))

    sge.enable()
    wait_for_end(sge, pending)


def test_what_cannot_be_is_refused_with_a_reason(sge: GridEngine) -> None:
    refused = "Unable to run job: {}\nExiting.\n"
    unknown = 'Job was rejected because job requests unknown queue "nosuch"'
    assert refused.format(unknown) == refusal(sge, "-q", "nosuch")
    assert refused.format('unknown resource "nosuch"') == refusal(sge, "-l", "nosuch=1")
    unknown = 'job rejected: the requested parallel environment "nosuch" does not exist'
    assert refused.format(unknown) == refusal(sge, "-pe", "nosuch", "2")
    assert refused.format("error: no suitable queues") == refusal(sge, "-w", "e", "-pe", "smp", "99")


def test_some_of_what_cannot_be_pends_for_ever(sge: GridEngine) -> None:
    job = submit(sge, "true", "-pe", "smp", "99")
    lost = submit(sge, "true", "-o", "/nosuch/folder/out")

    wait_until(lambda: "cannot run in PE" in sge.run(["qstat", "-j", job]).stdout, "it is told why it pends", SECONDS)
    wait_for(sge, lost, "Eqw")
    assert "can't open output file" in sge.run(["qstat", "-j", lost]).stdout
    assert ["qw"] == states(sge, job)


def test_a_user_may_have_so_many_jobs(sge: GridEngine) -> None:
    sge.limit_jobs(1)
    job = submit(sge, "true", "-h")
    words = "job rejected: only 1 jobs are allowed per user (current job count: 1)"
    assert f"Unable to run job: {words}\nExiting.\n" == refusal(sge)

    sge.limit_jobs(0)
    submit(sge, "true", "-h")
    assert ["hqw"] == states(sge, job)


def test_a_frozen_master_lets_commands_hang(sge: GridEngine) -> None:
    sge.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        sge.run(["qsub", "-N", "late", "-b", "y", "true"], timeout=3)

    sge.thaw()
    job = submit(sge, "true")
    wait_for_end(sge, job)


def test_a_job_on_a_host_without_power_is_listed_as_running_until_the_host_is_back(sge: GridEngine) -> None:
    job = submit(sge, "sleep 100", "-q", "all.q@h2")
    wait_for(sge, job, "r")

    sge.kill_node("h2")
    wait_until(lambda: sge.ready() == ["h1"], "the master has noticed", SECONDS)
    assert ["r"] == states(sge, job)
    sge.delete(job)
    assert ["dr"] == states(sge, job)
    sge.restore_node("h2")
    wait_for_end(sge, job)
    wait_for_end(sge, submit(sge, "true", "-q", "all.q@h2"))


def test_an_unknown_job_is_an_error(sge: GridEngine) -> None:
    done = sge.run(["qstat", "-j", "9999"])
    assert (1, "", "Following jobs do not exist: \n9999\n") == (done.returncode, done.stdout, done.stderr)
    done = sge.run(["qdel", "9999"])
    assert (1, 'denied: job "9999" does not exist\n', "") == (done.returncode, done.stdout, done.stderr)


def test_settings_go_to_the_queue_or_the_cell(hosts: Hosts) -> None:
    with GridEngine(hosts, slots=1, shell="/bin/csh", max_aj_tasks=5) as sge:
        assert "\nshell                 /bin/csh\n" in sge.run(["qconf", "-sq", "all.q"]).stdout
        assert "submit a job with more than 5 tasks" in refusal(sge, "-t", "1-6")
        job = submit(sge, "sleep 100", "-t", "1-3")
        wait_until(lambda: sorted(states(sge, job)) == ["qw", "r", "r"], "one for each host runs", SECONDS)


def running(*prefixes: str) -> list[str]:
    listed = subprocess.run(["ps", "-e", "-o", "stat=,comm="], check=True, capture_output=True, text=True).stdout
    words = [line.split(None, 1) for line in listed.splitlines()]
    return [name for state, name in words if name.startswith(prefixes) and not state.startswith("Z")]


def traces() -> Counter[str]:
    """What a cell could leave on this machine."""
    places = [
        *Path("/tmp").glob("*sge*"),
        *Path("/var/spool/gridengine").rglob("*"),
        *Path("/var/lib/gridengine").rglob("*"),
    ]
    files = ["/proc/mounts", "/etc/passwd", "/etc/group"]
    tables = subprocess.run(
        [which("nft") or "nft", "list", "tables"], check=True, capture_output=True, text=True
    ).stdout
    return Counter(
        [
            *running("sge_"),
            *(line for file in files for line in Path(file).read_text("utf-8").splitlines()),
            *map(str, places),
            *tables.splitlines(),
        ]
    )


@pytest.mark.parametrize("stopped", [False, True])
def test_nothing_outlives_the_cell(stopped: bool, hosts: Hosts, tmp_path: Path) -> None:
    """Neither a job nor a daemon that left it; whatever was on a host before stays."""
    mine = hosts.run("h1", ["sleep", "100"])
    before = traces()
    with GridEngine(hosts) as sge:
        assert traces() - before
        words = f"setsid sleep 100 & echo $! > {tmp_path}/pid; exec env --ignore-environment sleep 100"
        wait_for(sge, submit(sge, words), "r")
        told = tmp_path / "pid"
        wait_until(lambda: told.exists() and told.read_text("utf-8"), "the daemon is there", SECONDS)
        daemon = int(told.read_text("utf-8"))
        assert is_alive(daemon)
        if stopped:
            sge.freeze()

    assert not is_alive(daemon)
    assert mine.poll() is None
    mine.kill()
    mine.wait()
    assert not traces() - before
