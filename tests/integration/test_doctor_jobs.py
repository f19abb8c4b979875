"""`doctor --launcher pbs` and lsf: each step of it, before stand-ins; tests/clusters has the real schedulers."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crew_executor import addresses, doctor, doctor_jobs
from crew_executor.launchers import ledger
from crew_executor.launchers.script import ScriptLauncher

from .standins import Standin, standin

pytestmark = [pytest.mark.launchers, pytest.mark.timeout(120)]

Examine = Callable[..., tuple[int, str]]


@pytest.fixture(params=["pbs", "lsf"])
def scheduler(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    with standin(request.param, tmp_path / "scheduler", monkeypatch) as made:
        yield made


@pytest.fixture
def examine(scheduler: Standin, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Examine:
    """Run the command in this process; return its exit status and what it says."""

    def run(*words: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        doctor.add_arguments(parser)
        fixed = ["--launcher", scheduler.kind, "--folder", str(tmp_path / "jobs"), "--address", "127.0.0.1"]
        status = doctor.run(parser.parse_args([*fixed, *words]))
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def submitted(scheduler: Standin) -> int:
    return len(scheduler.commands({"pbs": "qsub", "lsf": "bsub"}[scheduler.kind]))


def test_a_sound_cluster_passes_and_nothing_is_left(scheduler: Standin, examine: Examine, tmp_path: Path) -> None:
    status, said = examine()

    assert status == 0
    assert "can be written\n" in said
    assert f" ran on {socket.gethostname()}, and has told what it found " in said
    assert f"{sys.executable} is Python {sys.version.split()[0]} there\n" in said
    assert f"it can read its invitation, with the key, in {tmp_path / 'jobs'}\n" in said
    assert "it reaches this machine at 127.0.0.1\n" in said
    assert "there: " in said
    assert f"a worker on {socket.gethostname()} (pid " in said
    assert "ok    no job is left\n" in said
    assert submitted(scheduler) == 2
    assert os.listdir(tmp_path / "jobs") == ["logs"]
    assert ledger.entries() == []


def fails(examine: Examine, scheduler: Standin, *words: str) -> str:
    """Return what doctor says of one job that is not as it must be; no worker is tried then."""
    status, said = examine(*words)
    assert status == 1
    assert "a worker on" not in said
    assert submitted(scheduler) <= 1
    return said


def test_an_interpreter_that_is_not_there(
    scheduler: Standin, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_jobs, "LOG_SECONDS", 1.0)
    said = fails(examine, scheduler, "--python", "/nosuch/python")

    assert " ended, and said nothing: " in said
    assert "is there a Python at /nosuch/python on the hosts? Name the path that it has there: --python PATH" in said


def test_a_queue_that_is_not_there(scheduler: Standin, examine: Examine) -> None:
    said = fails(examine, scheduler, "--queue", "nosuch")

    assert "FAIL  no job can be submitted: " in said
    assert "lists the queues: give " in said


def test_a_scheduler_that_does_not_answer(scheduler: Standin, examine: Examine) -> None:
    scheduler.set("server", "refuses")
    said = fails(examine, scheduler)

    assert "FAIL  no job can be submitted: " in said


def test_a_job_that_waits_too_long_is_cancelled(scheduler: Standin, examine: Examine) -> None:
    scheduler.set("hold")
    said = fails(examine, scheduler, "--timeout", "3")

    assert " is not done 3 s after its submission: " in said
    assert "if it only has to wait longer, say --timeout SECONDS" in said
    assert [facts["state"] for facts in scheduler.jobs().values()] == ["ended"]


def test_a_job_that_would_pend_for_ever_is_cancelled_and_told(scheduler: Standin, examine: Examine) -> None:
    if scheduler.kind != "pbs":
        pytest.skip("bjobs does not say so")
    scheduler.set("hold")
    scheduler.set("comment", "Can Never Run: Insufficient amount of resource: ncpus (R: 100 A: 4 T: 4)")
    said = fails(examine, scheduler)

    assert " was cancelled: Q: Can Never Run: Insufficient amount" in said
    assert "ask for less, or elsewhere: see --walltime" in said
    assert [facts["state"] for facts in scheduler.jobs().values()] == ["ended"]


def test_words_of_a_prologue_are_shown(scheduler: Standin, examine: Examine) -> None:
    status, said = examine("--prologue", "echo module: not found; false")

    assert status == 0
    assert "note  there is more in its output, perhaps of the prologue:\n      module: not found\n" in said


def test_a_prologue_that_ends_the_job(scheduler: Standin, examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_jobs, "LOG_SECONDS", 1.0)
    said = fails(examine, scheduler, "--prologue", "echo no module of this name", "--prologue", "exit 3")

    assert " ended, and said nothing: " in said
    assert "no module of this name\n" in said
    assert "did a line of the prologue end it?" in said


def test_a_working_directory_that_is_not_there(
    scheduler: Standin, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_jobs, "LOG_SECONDS", 1.0)
    said = fails(examine, scheduler, "--working-directory", "/nosuch/here")

    assert "the hosts have no /nosuch/here: name another one (--working-directory)" in said


def test_output_that_does_not_come(scheduler: Standin, examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_jobs, "LOG_SECONDS", 1.0)
    monkeypatch.setattr(doctor_jobs._class_of(scheduler.kind), "log_path", lambda _self, _handle: None)
    said = fails(examine, scheduler)

    assert "name a folder that they share (--folder, --log-folder)" in said


def test_an_invitation_that_cannot_be_read(scheduler: Standin, examine: Examine, tmp_path: Path) -> None:
    said = fails(examine, scheduler, "--prologue", f"rm {tmp_path}/jobs/*.invitation")

    assert "FAIL  it cannot read its invitation, with the key, in " in said
    assert "No such file" in said
    assert "name a folder that the hosts share with this machine: --folder PATH" in said


def test_this_machine_cannot_be_reached(scheduler: Standin, examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "resolve", lambda _hosts: ("127.0.0.1", ["127.0.0.2"]))
    said = fails(examine, scheduler)

    assert "FAIL  the host does not reach this machine: 127.0.0.2: [Errno 111]" in said
    assert "--address" in said


def test_an_address_that_leads_nowhere_beside_one_that_does_is_a_note(
    scheduler: Standin, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "resolve", lambda _hosts: ("127.0.0.1", ["127.0.0.2", "127.0.0.1"]))
    status, said = examine()

    assert status == 0
    assert "note  not so at 127.0.0.2: [Errno 111]" in said
    assert "with --address 127.0.0.1 (host= of the launcher) that is not tried" in said


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("crew_executor", "FAIL  crew_executor cannot be imported there: ImportError: broken\n"),
        ("tblib", "FAIL  what crew_executor needs cannot be loaded there: ImportError: broken\n"),
    ],
)
def test_a_package_that_is_broken_there(
    scheduler: Standin, examine: Examine, tmp_path: Path, module: str, words: str
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / f"{module}.py").write_text("raise ImportError('broken')")
    said = fails(examine, scheduler, "--prologue", f"export PYTHONPATH={tmp_path / 'broken'}")

    assert words in said


def test_few_cpus_for_many_workers_are_a_note(scheduler: Standin, examine: Examine) -> None:
    status, said = examine("--workers-per-job", "1000")

    assert status == 0
    assert "; for 1000 workers these are few CPUs: see --cpus" in said


def test_ports_are_those_of_the_launcher(scheduler: Standin, examine: Examine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = fails(examine, scheduler, "--port", str(port))

    assert f"FAIL  no port can be listened at, of range({port}, {port + 1}): " in said


@pytest.mark.parametrize(
    ("launcher", "words", "complaint"),
    [
        ("pbs", ["--partition", "cpu"], "--partition is no option of PBSLauncher: leave it out\n"),
        ("lsf", ["--project", "x"], "--project is no option of LSFLauncher: leave it out\n"),
        ("slurm", ["--walltime", "soon"], "'soon' is no duration: "),
        ("slurm", ["--host", "h1"], "--host is of use with --launcher ssh only: "),
        ("local", ["--partition", "cpu"], "--partition is of use with --launcher slurm, sge, pbs or lsf only: "),
        ("local", ["--python", "x"], "--python is of use with --launcher ssh, slurm, sge, pbs or lsf only: "),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_tried(
    launcher: str, words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)

    assert doctor.run(parser.parse_args(["--launcher", launcher, *words])) == 2
    assert complaint in capsys.readouterr().err


def test_each_option_of_a_launcher_has_a_word_or_is_silent_for_a_reason() -> None:
    for name in ("slurm", "sge", "pbs", "lsf"):
        kind = doctor_jobs._class_of(name)
        assert issubclass(kind, ScriptLauncher)
        options = doctor_jobs.options_of(kind)
        assert {"walltime", "memory_gb", "cpus", "log_folder", "port"} <= set(options)
        assert not set(options) & doctor_jobs.SILENT
        assert options["directives"] == ("--directive", str, True)
        assert options["port"].kind("7-9") == range(7, 10)
