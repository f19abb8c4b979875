"""A real Slurm takes, queues, starts, cancels and loses jobs as tests of a launcher need it, and is gone afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import Hosts, is_alive, wait_until
from .slurm import Slurm, missing

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

SECONDS = 60.0
"""For what takes 1 or 2 on a machine that does nothing else."""


@pytest.fixture
def slurm(hosts: Hosts) -> Iterator[Slurm]:
    with Slurm(hosts) as made:
        yield made


def submit(slurm: Slurm, command: str, *options: str) -> str:
    done = slurm.run(["sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={command}"])
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.strip()


def refusal(slurm: Slurm, *options: str) -> str:
    done = slurm.run(["sbatch", "--parsable", "--output=/dev/null", *options, "--wrap=true"])
    assert (1, "") == (done.returncode, done.stdout)
    return done.stderr


def states(slurm: Slurm, job: str) -> list[str]:
    return [found["state"] for found in slurm.jobs() if found["array"] == job]


def wait_for(slurm: Slurm, job: str, state: str, number: int = 1) -> None:
    wait_until(lambda: states(slurm, job) == [state] * number, f"{job} is {state}", SECONDS)


def wait_for_reason(slurm: Slurm, job: str, reason: str) -> None:
    wait_until(lambda: (job, reason) in [(j["id"], j["reason"]) for j in slurm.jobs()], f"{job}: {reason}", SECONDS)


def test_a_job_runs_on_a_host_with_the_environment_of_its_user(slurm: Slurm, tmp_path: Path) -> None:
    code = "import json, os, socket; print(json.dumps([socket.gethostname(), os.getcwd(), dict(os.environ)]))"
    done = slurm.run(
        ["sbatch", "--parsable", f"--output={tmp_path}/%j.out", f"--wrap={sys.executable} -c '{code}'"],
        env={"MINE": "1"},
        cwd=tmp_path,
    )
    job = done.stdout.strip()
    wait_for(slurm, job, "COMPLETED")

    host, folder, environment = json.loads((tmp_path / f"{job}.out").read_text("utf-8"))
    (told,) = slurm.jobs()
    assert ("cpu", host, "N/A") == (told["partition"], told["host"], told["index"])
    assert host in {"h1", "h2"}
    assert str(tmp_path) == folder
    assert ("1", job, None) == tuple(map(environment.get, ("MINE", "SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID")))
    assert slurm.environment["SLURM_CONF"] == environment["SLURM_CONF"]


def test_an_array_runs_on_both_hosts_and_each_task_knows_its_index(slurm: Slurm, tmp_path: Path) -> None:
    words = "echo $SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID $(hostname); sleep 1"
    job = submit(slurm, words, "--array=0-7", f"--output={tmp_path}/%A_%a.out")
    wait_for(slurm, job, "COMPLETED", 8)

    said = [(tmp_path / f"{job}_{index}.out").read_text("utf-8").split() for index in range(8)]
    assert [[job, str(index)] for index in range(8)] == [words[:2] for words in said]
    assert {"h1", "h2"} == {words[2] for words in said}
    assert {f"{job}_{index}" for index in range(8)} == {found["id"] for found in slurm.jobs()}


def test_jobs_and_single_tasks_are_cancelled(hosts: Hosts, slurm: Slurm) -> None:
    # exec: (1) the daemon lists what belongs to a job, (2) its shell forks, (3) the daemon kills what it listed. The
    # shell's child is left: once in forty runs, when the job has only just begun.
    job = submit(slurm, "exec sleep 100", "--array=1-2", "--nodelist=h1")
    wait_for(slurm, job, "RUNNING", 2)

    slurm.cancel(f"{job}_1")
    wait_until(lambda: sorted(states(slurm, job)) == ["CANCELLED", "RUNNING"], "one is cancelled", SECONDS)
    slurm.cancel(job)
    wait_for(slurm, job, "CANCELLED", 2)
    wait_until(lambda: len(hosts.processes("h1")) == 1, "there is but the daemon", SECONDS)
    slurm.cancel(job)
    slurm.cancel("9999")


def test_a_job_pends_while_the_hosts_are_drained(slurm: Slurm) -> None:
    running = submit(slurm, "sleep 100")
    wait_for(slurm, running, "RUNNING")
    slurm.drain()
    pending = submit(slurm, "true")
    wait_until(lambda: "ReqNodeNotAvail" in str(slurm.jobs()), "it pends", SECONDS)
    assert ["PENDING"] == states(slurm, pending)
    assert ["RUNNING"] == states(slurm, running)

    slurm.resume()
    wait_for(slurm, pending, "COMPLETED")


def test_what_cannot_be_is_refused_with_a_reason(slurm: Slurm) -> None:
    failed = "sbatch: error: Batch job submission failed: "
    partition, memory = refusal(slurm, "--partition=nosuch"), refusal(slurm, "--mem=9000G")
    assert (
        f"sbatch: error: invalid partition specified: nosuch\n{failed}Invalid partition name specified\n" == partition
    )
    assert memory.endswith(f"{failed}Requested node configuration is not available\n")
    assert f"{failed}Invalid job array specification\n" == refusal(slurm, "--array=0-1001")


def test_some_of_what_cannot_be_pends_for_ever(slurm: Slurm) -> None:
    wait_for_reason(slurm, submit(slurm, "true", "--nodes=9"), "PartitionConfig")
    wait_for_reason(slurm, submit(slurm, "true", "--partition=short", "--time=2"), "PartitionTimeLimit")


def test_a_job_that_takes_too_much_memory_is_killed(slurm: Slurm) -> None:
    words = f"exec {sys.executable} -c 'import time; x = bytearray(400 << 20); time.sleep(100)'"
    job = submit(slurm, words, "--mem=100")

    wait_for(slurm, job, "FAILED")  # without cgroups not OUT_OF_MEMORY
    wait_for_reason(slurm, job, "JobLaunchFailure")


def test_a_frozen_controller_lets_commands_hang_and_does_later_what_they_asked(hosts: Hosts) -> None:
    with Slurm(hosts, MessageTimeout=2) as slurm:
        slurm.freeze()
        began = time.monotonic()
        refused, asked = refusal(slurm, "--job-name=late"), slurm.run(["squeue"])
        assert time.monotonic() - began > 3.5
        assert (1, "") == (asked.returncode, asked.stdout)
        for words in (refused, asked.stderr):
            assert words.endswith("Socket timed out on send/recv operation\n")

        slurm.thaw()
        wait_until(
            lambda: [("late", "COMPLETED")] == [(j["name"], j["state"]) for j in slurm.jobs()], "it ran", SECONDS
        )


def test_a_job_on_a_host_without_power_is_found_out_and_the_host_comes_back(slurm: Slurm) -> None:
    options = "--nodelist=h2", "--no-requeue"
    lost, again = submit(slurm, "sleep 100", *options), submit(slurm, "sleep 100", "--nodelist=h2", "--requeue")
    wait_for(slurm, lost, "RUNNING")
    wait_for(slurm, again, "RUNNING")

    slurm.kill_node("h2")
    wait_for(slurm, lost, "NODE_FAIL")
    wait_for(slurm, again, "PENDING")
    slurm.restore_node("h2")
    wait_for(slurm, submit(slurm, "true", *options), "COMPLETED")


def test_the_controller_forgets_jobs_as_it_is_told(hosts: Hosts) -> None:
    """A squeue fails if it knows none of the jobs it is asked for, and only then."""
    with Slurm(hosts, MinJobAge=2) as slurm:
        job = submit(slurm, "true")
        wait_until(lambda: not slurm.jobs(), "it is forgotten", 4 * SECONDS)  # it looks only now and then

        unknown = slurm.run(["squeue", "--noheader", f"--jobs={job}"])
        assert (1, "slurm_load_jobs error: Invalid job id specified\n") == (unknown.returncode, unknown.stderr)
        unknown = slurm.run(["squeue", "--noheader", f"--jobs={job},9999"])
        assert (0, "", "") == (unknown.returncode, unknown.stdout, unknown.stderr)


def test_one_that_does_not_start_tells_why(hosts: Hosts) -> None:
    with pytest.raises(RuntimeError, match="nosuch"), Slurm(hosts, SelectType="select/nosuch"):
        pass


def running(*prefixes: str) -> list[str]:
    listed = subprocess.run(["ps", "-e", "-o", "stat=,comm="], check=True, capture_output=True, text=True).stdout
    words = [line.split(None, 1) for line in listed.splitlines()]
    return [name for state, name in words if name.startswith(prefixes) and not state.startswith("Z")]


def traces() -> Counter[str]:
    """What a cluster could leave on this machine."""
    places = [path for folder in ("/tmp", "/run", "/var/spool", "/etc/slurm") for path in Path(folder).glob("*")]
    files = ["/proc/mounts", "/etc/passwd", "/etc/group"]
    return Counter(
        [
            *running("slurm", "munge"),
            *(line for file in files for line in Path(file).read_text("utf-8").splitlines()),
            *(str(path) for path in places if "slurm" in path.name or "munge" in path.name),
        ]
    )


@pytest.mark.parametrize("stopped", [False, True])
def test_nothing_outlives_the_cluster(stopped: bool, hosts: Hosts, tmp_path: Path) -> None:
    """Neither a job nor a daemon that left it; whatever was on a host before stays."""
    mine = hosts.run("h1", ["sleep", "100"])
    before = traces()
    with Slurm(hosts) as slurm:
        assert traces() - before
        words = f"setsid sleep 100 & echo $! > {tmp_path}/pid; exec env --ignore-environment sleep 100"
        wait_for(slurm, submit(slurm, words), "RUNNING")
        told = tmp_path / "pid"
        wait_until(lambda: told.exists() and told.read_text("utf-8"), "the daemon is there", SECONDS)
        daemon = int(told.read_text("utf-8"))
        assert is_alive(daemon)
        if stopped:
            slurm.freeze()

    assert not is_alive(daemon)
    assert mine.poll() is None
    mine.kill()
    mine.wait()
    assert not traces() - before
    assert "SLURM_CONF" not in os.environ


def test_what_a_killed_run_has_left_is_ended(tmp_path: Path) -> None:
    code = "from clusters import hosts, slurm; h = hosts.Hosts(1).__enter__(); s = slurm.Slurm(h).__enter__()"
    killed = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)},
    )
    before = running("slurmctld", "munged")
    with killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"\n"
        killed.kill()

    with Hosts(1) as hosts, Slurm(hosts) as slurm:
        wait_for(slurm, submit(slurm, "true"), "COMPLETED")
        assert sorted([*before, "munged", "slurmctld"]) == sorted(running("slurmctld", "munged"))
