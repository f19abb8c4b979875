"""`doctor`: what it says of this machine, of any launcher, and of hosts; ssh is a script that runs all of it here."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from crew_executor import doctor, doctor_ssh, errors, transport
from crew_executor.launchers import Job, JobState, JobStatus

from .agents import ProcessLauncher
from .helpers import is_alive

pytestmark = pytest.mark.launchers


def call(*words: str, **environment: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "crew_executor", "doctor", *words]
    environ = {**os.environ, **environment}
    run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=environ)
    return run.returncode, run.stdout, run.stderr


@pytest.fixture
def examine(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command in this process; return its exit status and what it says."""

    def run(*words: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        doctor.add_arguments(parser)
        status = doctor.run(parser.parse_args(words))
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def states_in(out: str) -> list[str]:
    """The first words of the lines, but of those that belong to the one before."""
    return [line.split()[0] for line in out.splitlines()[:-2] if not line.startswith("      ")]


# ---------------------------------------------------------------------- this machine


def test_a_sound_machine_passes_and_a_worker_was_really_there() -> None:
    status, out, err = call()

    assert (status, err) == (0, "")
    assert set(states_in(out)) <= {"ok", "note"}
    assert f"Python {sys.version.split()[0]} (CPython), {sys.executable}" in out
    assert f"pynng {importlib.metadata.version('pynng')}, cloudpickle" in out
    assert "NNG can be used" in out
    assert f"a worker on {socket.gethostname()} (pid " in out
    assert "round trip " in out
    assert "also of a lambda and of a traceback" in out
    assert "ok    launchers: local, " in out
    assert out.endswith("\n\nall is well\n")


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("CREW_EXECUTOR_NO_MEMFD", "no shared memory for large buffers (CREW_EXECUTOR_NO_MEMFD is set): they travel"),
        ("CREW_EXECUTOR_NO_MEMBARRIER", "no membarrier (CREW_EXECUTOR_NO_MEMBARRIER is set): workers take a lock"),
        ("CREW_EXECUTOR_NO_PIDFD", "no pidfd (CREW_EXECUTOR_NO_PIDFD is set): the end of a killed client"),
    ],
)
def test_what_is_missing_but_can_be_done_without_is_a_note(variable: str, words: str) -> None:
    status, out, _err = call(**{variable: "1"})

    assert status == 0
    assert f"note  {words}" in out
    assert "all is well" in out


def test_launchers_whose_commands_are_not_here_are_named(tmp_path: Path) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").chmod(0o755)
    _status, out, _err = call(PATH=str(tmp_path))

    (line,) = [line for line in out.splitlines() if "launchers:" in line]
    assert line.startswith("ok    launchers: local, slurm; not usable: ssh (no ssh here), sge (no qsub here), pbs (no")
    assert "mpi (no mpirun here)" in line


@pytest.mark.parametrize(
    ("limit", "advice"), [("-Sn", "raise it by `ulimit -n`"), ("-n", "only an administrator can raise it")]
)
def test_a_low_limit_of_open_files_is_a_note_that_says_how_many_workers_there_may_be(limit: str, advice: str) -> None:
    shell = f"ulimit {limit} 300; exec {sys.executable} -m crew_executor doctor"
    run = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=50, check=False)

    assert run.returncode == 0
    assert f"note  at most 300 open files: enough for about 20 workers of an executor; {advice}" in run.stdout


def test_a_package_that_is_not_there_fails_and_no_worker_is_tried(
    examine: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        if package == "tblib":
            raise importlib.metadata.PackageNotFoundError(package)
        return known(package)

    known = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", version)
    status, out = examine()

    assert status == 1
    assert f"FAIL  tblib is not installed here: {sys.executable} -m pip install 'tblib>=" in out
    assert "a worker on" not in out
    assert out.endswith("\n\n1 of these checks failed\n")


def test_a_package_that_is_too_old_fails(
    examine: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.0.9" if name == "tblib" else known(name))
    status, out = examine()

    assert status == 1
    assert "FAIL  tblib 3.0.9 is too old, 3.1 is needed" in out


@pytest.mark.parametrize("package", ["cloudpickle", "psutil", "tblib"])
def test_a_package_that_is_there_but_broken_fails(tmp_path: Path, package: str) -> None:
    (tmp_path / f"{package}.py").write_text("raise ImportError('wrong ELF class')")
    status, out, err = call(PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    assert (status, err) == (1, "")
    assert "cannot be imported: ImportError: wrong ELF class; try: " in out
    assert f"FAIL  {package} " in out


def test_an_nng_that_cannot_be_used_fails(
    examine: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> None:
        raise errors.CrewError("the installed pynng lacks nng_aio_count")

    monkeypatch.setattr(transport, "load", load)
    status, out = examine()

    assert status == 1
    assert "FAIL  NNG cannot be used: the installed pynng lacks nng_aio_count" in out
    assert "a worker on" not in out


def test_a_worker_that_does_not_come_fails_in_time(
    examine: Callable[..., tuple[int, str]],
) -> None:
    status, out = examine("--timeout", "0.000001")

    assert status == 1
    assert "FAIL  no worker could be had here: no result came within 1e-06 s" in out


# ---------------------------------------------------------------------- any launcher


class Pending(ProcessLauncher):
    """Its jobs wait for ever."""

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Say that there is one."""
        return ["17"]

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Say what it waits for."""
        return dict.fromkeys(handles, JobStatus(JobState.PENDING, "(Resources)"))


class Refused(ProcessLauncher):
    """Its scheduler wants no jobs."""

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Raise its words."""
        raise errors.LaunchError("sbatch: error: invalid partition")


class Choosy(ProcessLauncher):
    def __init__(self, image: str, **options: Any) -> None:
        super().__init__(**options)
        self.image = image


class Unfit(ProcessLauncher):
    """It cannot work here."""

    def check(self) -> None:
        """Raise the reason."""
        raise errors.LaunchError("there is no sbatch here: log in to a submit host")


class Sick(ProcessLauncher):
    """Works, with a defect that is logged."""

    def poll(self, handles: Sequence[Hashable]) -> Mapping[Hashable, JobStatus]:
        """Fail as long as the agent is not there."""
        raise OSError("squeue is ill")

    def submit(self, job: Job, number: int) -> Sequence[Hashable]:
        """Start one late, so that it is asked for."""
        command = shlex.join(job.command())
        job.command = lambda path="-": ["sh", "-c", f"sleep 1; exec {command}"]  # type: ignore[method-assign]
        return super().submit(job, number)


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        def __init__(self, made: Callable[[], Any]) -> None:
            self.name = made.__name__.lower()
            self.load = lambda: made

    points = [Point(made) for made in (ProcessLauncher, Pending, Refused, Unfit, Sick, Choosy, dict)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)


@pytest.mark.parametrize("name", ["local", "processlauncher"])
def test_a_launcher_is_tried_by_name(examine: Callable[..., tuple[int, str]], entry_points: None, name: str) -> None:
    status, out = examine("--launcher", name)

    assert status == 0
    assert f"ok    the launcher '{name}' can be made" in out
    assert f"ok    a worker on {socket.gethostname()} (pid " in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nosuch", "no launcher is named 'nosuch'; known are: choosy, dask, dict, local, lsf, mpi, pbs, pending, "),
        ("choosy", "the launcher 'choosy' needs options: give launcher=Choosy(image=...)"),
        ("dict", "the entry point 'dict' made a dict, which is no Launcher"),
        ("unfit", "the launcher 'unfit' cannot work here: there is no sbatch here: log in to a submit host"),
        ("refused", "its job could not be submitted: sbatch: error: invalid partition"),
    ],
)
def test_a_launcher_that_fails_is_told_in_its_own_words(
    examine: Callable[..., tuple[int, str]], entry_points: None, name: str, words: str
) -> None:
    status, out = examine("--launcher", name)

    assert status == 1
    assert words in out[out.index("FAIL") :]
    assert states_in(out).count("FAIL") == 1
    assert out.count("invalid partition") == (name == "refused"), "it is tried once"


def test_of_a_job_that_waits_the_schedulers_reason_is_told(
    examine: Callable[..., tuple[int, str]], entry_points: None
) -> None:
    status, out = examine("--launcher", "pending", "--timeout", "2")

    assert status == 1
    assert "no worker of 'pending' could be had: no result came within 2 s" in out
    assert "of its job the launcher last heard: pending (Resources)" in out
    assert "say --timeout SECONDS" in out


def test_what_is_logged_meanwhile_is_a_note(examine: Callable[..., tuple[int, str]], entry_points: None) -> None:
    status, out = examine("--launcher", "sick")

    assert status == 0
    assert "note  meanwhile this was logged: Sick could not be asked about its jobs: squeue is ill" in out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--launcher", "ssh"], "name a host to try"),
        (["--host", "h"], "--host is of use with --launcher ssh only"),
        (["--launcher", "local", "--tunnel"], "--tunnel is of use with --launcher ssh only"),
        (["--launcher", "ssh", "--host=-oProxyCommand=x"], "is no host but an option"),
        (["--launcher", "ssh", "--host", "h", "--tunnel", "--address", "lo"], "leave one of them out"),
        (["--timeout", "0"], "0 is no number of seconds above 0"),
        (["--timeout", "soon"], "soon is no number of seconds above 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(words: list[str], error: str) -> None:
    status, out, err = call(*words)

    assert (status, out) == (2, "")
    assert error in err


# ---------------------------------------------------------------------- ssh

SSH = """#!/bin/sh
for command; do :; done
{before}
exec sh -c "$command"
"""
PYTHON = """#!/bin/sh
PYTHONPATH={folder}:$PYTHONPATH exec {python} {options} "$@"
"""


@pytest.fixture
def ssh(tmp_path: Path, examine: Callable[..., tuple[int, str]]) -> Callable[..., tuple[int, str]]:
    """Try a worker by an ssh that does this before it runs the command here, with an interpreter like this one."""

    def run(
        *words: str, before: str = "", custom: str = "", options: str = "", python: str | None = None
    ) -> tuple[int, str]:
        script, interpreter = tmp_path / "ssh", tmp_path / "python"
        script.write_text(SSH.format(before=before))
        interpreter.write_text(PYTHON.format(folder=tmp_path, python=sys.executable, options=options))
        (tmp_path / "sitecustomize.py").write_text(custom)
        for each in (script, interpreter):
            each.chmod(0o755)
        path = str(interpreter) if python is None else python
        all_words = ["--launcher", "ssh", "--ssh", str(script), "--python", path, *words]
        if "--tunnel" not in words and "--address" not in words:
            all_words += ["--address", "127.0.0.1"]
        return examine(*(all_words if "--host" in words else [*all_words, "--host", "h"]))

    return run


def test_a_sound_host_passes_all_steps(ssh: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    status, out = ssh()

    lines = out.splitlines()
    assert status == 0
    assert states_in(out) == ["ok"] * 8
    steps = [
        "an ssh client",
        "gets in",
        "says nothing",
        "is Python",
        "crew_executor is",
        "NNG",
        "a worker on",
        "nothing is left",
    ]
    assert [step for step, line in zip(steps, lines, strict=False) if step not in line] == []
    pids = [int(word.strip(",")) for word in lines[7].split() if word.strip(",").isdecimal()]
    assert len(pids) == 3, "worker, supervisor, agent"
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("me@h: Permission denied (publickey).", "ssh-copy-id h"),
        ("ssh: Could not resolve hostname h: Name or service not known", "no host has this name"),
        ("Host key verification failed.", "compare its fingerprint"),
        ("ssh: connect to host h port 22: Connection timed out", "does not answer"),
        ("ssh: connect to host h port 22: Connection refused", "is sshd running?"),
        ("ssh: connect to host h port 22: No route to host", "jump host"),
        ("kex_exchange_identification: banner line too long", "try the same by hand: "),
    ],
)
def test_an_ssh_that_does_not_get_in_is_told_in_its_own_words(
    ssh: Callable[..., tuple[int, str]], said: str, advice: str
) -> None:
    status, out = ssh(before=f"echo '{said}' >&2; exit 255")

    assert status == 1
    assert states_in(out) == ["ok", "FAIL"]
    assert f"h: ssh does not get in without asking: it ended with exit code 255\n      {said}\n" in out
    assert advice in out


def test_an_ssh_that_hangs_is_given_up(ssh: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_ssh, "CALL_SECONDS", 0.5)
    status, out = ssh(before="echo 'Enter PIN:' >&2; exec sleep 100")

    assert status == 1
    assert "h: ssh does not get in without asking: it did not end within 0.5 s\n      Enter PIN:" in out


def test_what_ssh_leaves_in_the_background_is_not_waited_for(
    ssh: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """As a master of ControlPersist, which may keep the descriptors."""
    status, out = ssh(before=f"[ -e {tmp_path}/master ] || {{ sleep 20 & echo $! >{tmp_path}/master; }}")
    os.kill(int((tmp_path / "master").read_text()), 9)

    assert status == 0
    assert "gets in without asking, in 0." in out


def test_no_ssh_client_fails_before_all_else(examine: Callable[..., tuple[int, str]]) -> None:
    status, out = examine("--launcher", "ssh", "--host", "h", "--ssh", "/nope/ssh")

    assert status == 1
    assert out.startswith("FAIL  there is no ssh client '/nope/ssh' here: install one")


def test_an_account_without_a_shell_fails(ssh: Callable[..., tuple[int, str]]) -> None:
    status, out = ssh(before="echo 'This account is not available.' >&2; exit 1")

    assert status == 1
    assert "ssh gets in, but runs no command: it ended with exit code 1\n      This account is not available." in out


def test_words_of_the_shell_are_a_note_and_do_no_harm(ssh: Callable[..., tuple[int, str]]) -> None:
    status, out = ssh(before='echo "Welcome to h!"; printf "no newline"')

    assert status == 0
    assert "note  h: the shell there has words of its own, which does workers no harm:\n      Welcome to h!" in out
    assert "ok    h: nothing is left there" in out


def test_a_command_that_is_forced_is_seen(ssh: Callable[..., tuple[int, str]]) -> None:
    status, out = ssh(before="echo forced; exit 0")

    assert status == 1
    assert "did not run what it was told to: it ended with exit code 0" in out


@pytest.mark.parametrize(("mode", "words"), [(None, "there is no interpreter"), (0o644, "cannot be executed")])
def test_an_interpreter_that_is_not_there_fails(
    ssh: Callable[..., tuple[int, str]], tmp_path: Path, mode: int | None, words: str
) -> None:
    path = tmp_path / "other"
    if mode is not None:
        path.touch(mode)
    status, out = ssh(python=str(path))

    assert status == 1
    assert words in out
    assert states_in(out)[-1] == "FAIL"
    assert "name the path that it has there: --python PATH" in out


def test_another_minor_version_fails(ssh: Callable[..., tuple[int, str]]) -> None:
    status, out = ssh(custom="import sys; sys.version_info = (3, 99, 1, 'final', 0)")

    assert status == 1
    assert f"is Python 3.99, and here it is 3.{sys.version_info[1]}; functions travel as byte code" in out


def test_a_host_without_the_package_is_told_how_to_install_it(
    ssh: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    status, out = ssh(custom="import sys; sys.modules['crew_executor'] = None")

    assert status == 1
    version = importlib.metadata.version("crew_executor")
    assert "crew_executor cannot be imported there: ModuleNotFoundError" in out
    assert f"install it there: {tmp_path}/python -m pip install crew_executor=={version}\n" in out


def test_another_version_of_the_package_fails(ssh: Callable[..., tuple[int, str]]) -> None:
    status, out = ssh(custom="import importlib.metadata; importlib.metadata.version = lambda name: '0.0.1'")

    assert status == 1
    version = importlib.metadata.version("crew_executor")
    assert f"crew_executor is 0.0.1 there, and {version} here" in out
    assert f"-m pip install crew_executor=={version}\n" in out


def test_a_package_that_is_only_on_the_path_there_is_a_note(ssh: Callable[..., tuple[int, str]]) -> None:
    custom = """
import importlib.metadata
def version(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = version
"""
    status, out = ssh(custom=custom)

    assert status == 0
    assert "note  h: crew_executor can be imported, but is not installed there, in " in out


@pytest.mark.parametrize("package", ["pynng", "cloudpickle", "psutil", "tblib"])
def test_a_package_that_is_missing_there_is_named(ssh: Callable[..., tuple[int, str]], package: str) -> None:
    status, out = ssh(custom=f"import sys; sys.modules['{package}'] = None")

    assert status == 1
    assert "FAIL  h: what crew_executor needs cannot be loaded there: ModuleNotFoundError" in out
    assert f"-m pip install {package}\n" in out


def test_an_extension_that_crashes_there_is_a_failure_of_that_step(ssh: Callable[..., tuple[int, str]]) -> None:
    status, out = ssh(custom="import sys, os\nif 'transport' in str(sys.orig_argv): os._exit(139)")

    assert status == 1
    assert "FAIL  h: what crew_executor needs cannot be loaded there: it ended with exit code 139" in out


def test_another_cloudpickle_there_is_a_note(ssh: Callable[..., tuple[int, str]]) -> None:
    status, out = ssh(custom="import cloudpickle; cloudpickle.__version__ = '2.2.1'")

    assert status == 0
    assert "note  h: cloudpickle is 2.2.1 there, and " in out


def test_a_host_that_does_not_reach_this_machine_is_told_in_the_launchers_words(
    ssh: Callable[..., tuple[int, str]],
) -> None:
    """192.0.2.1 is nobody's (RFC 5737)."""
    status, out = ssh("--address", "192.0.2.1", "--timeout", "2")

    assert status == 1
    assert states_in(out) == ["ok"] * 6 + ["FAIL"]
    assert "h: no worker could be had: " in out
    assert "agents are to come to 192.0.2.1:" in out
    assert "(--address ADDR)" in out
    assert "(--tunnel)" in out


def test_an_address_that_is_none_fails_before_any_host_is_asked(ssh: Callable[..., tuple[int, str]]) -> None:
    status, out = ssh("--address", "nobody.invalid")

    assert status == 1
    assert states_in(out) == ["ok", "FAIL"]
    assert "--address nobody.invalid: host='nobody.invalid' is no address, name or interface" in out


def test_what_is_left_on_a_host_is_named(ssh: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_ssh, "GONE_TRIES", 1)
    with subprocess.Popen(["sleep", "100"]) as left, subprocess.Popen(["true"]) as over:
        over.wait()
        worker = doctor.Worker("h", over.pid, "3", (left.pid, 1), 0.0, 0.0, 0.0, ())
        monkeypatch.setattr(doctor_ssh, "try_worker", lambda launcher, seconds: worker)
        status, out = ssh()
        left.kill()

    assert status == 1
    assert f"FAIL  h: after the shutdown processes of ours are left there: {left.pid}\n" in out
    assert f"`kill {left.pid}` there" in out


def test_each_host_is_examined_whatever_becomes_of_the_others(ssh: Callable[..., tuple[int, str]]) -> None:
    refuse = 'case "$*" in *" bad exec "*) echo "Permission denied (publickey)." >&2; exit 255;; esac'
    status, out = ssh("--host", "bad", "--host", "good", before=refuse)

    assert status == 1
    assert "FAIL  bad: ssh does not get in" in out
    assert "ok    good: nothing is left there" in out
    assert out.endswith("\n\n1 of these checks failed\n")


def test_options_come_before_the_host_and_ask_for_no_password(
    ssh: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    ssh("--option=-p", "--option=2222", "--tunnel", "--timeout=1", before=f'printf "%s\\n" "$*" >>{tmp_path}/calls')
    calls = (tmp_path / "calls").read_text().splitlines()

    assert all(each.startswith("-p 2222 -T -o BatchMode=yes ") for each in calls)
    assert [" -R 127.0.0.1:" in each for each in calls] == [False, False, False, True]
