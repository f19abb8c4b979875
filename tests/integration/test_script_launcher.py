"""Checks what launchers by job scripts have in common: the scripts of all four, the folders, the commands that fail."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pytest

from crew_executor import LaunchError
from crew_executor.launchers import Job, LaunchRetry, script
from crew_executor.launchers.base import SubmitTimeout
from crew_executor.launchers.lsf import LSFLauncher
from crew_executor.launchers.pbs import PBSLauncher
from crew_executor.launchers.script import ScriptLauncher, seconds_of
from crew_executor.launchers.sge import SGELauncher
from crew_executor.launchers.slurm import SlurmLauncher

from .helpers import is_alive, wait_until
from .standins import grammar

ALL = [LSFLauncher, PBSLauncher, SGELauncher, SlurmLauncher]
OWN: dict[type[ScriptLauncher], dict[str, Any]] = {
    LSFLauncher: {"queue": "normal"},
    PBSLauncher: {"queue": "workq", "project": "proj"},
    SGELauncher: {"queue": "all.q", "project": "proj"},
    SlurmLauncher: {"partition": "cpu,gpu", "qos": "high", "constraint": "avx2&ib"},
}
COMMON: dict[str, Any] = {
    "workers_per_job": 4, "walltime": "2h", "memory_gb": 8.5, "gpus": 1, "account": "acct", "job_name": "study",
    "prologue": ["module load python", "# a note"], "folder": "/shared/crew", "working_directory": "/work/my dir",
    "python": "/opt/py thon/bin/python3",
}  # fmt: skip
BODY = """\
module load python
# a note
cd '/work/my dir' || exit
exec '/opt/py thon/bin/python3' -m crew_executor worker /shared/crew/crew-RUN-1.invitation
"""
GOLDEN = {
    LSFLauncher: """\
#!/bin/sh
#BSUB -J "study-RUN-1[1-3]"
#BSUB -o /shared/crew/logs/study-RUN-1-%J.%I.log
#BSUB -rn
#BSUB -n 4
#BSUB -R "span[hosts=1]"
#BSUB -q normal
#BSUB -P acct
#BSUB -M 8704
#BSUB -R "rusage[mem=8704]"
#BSUB -gpu "num=1"
#BSUB -W 02:00
#BSUB -wa USR1
#BSUB -wt 1
""",
    PBSLauncher: """\
#!/bin/sh
#PBS -N study-RUN-1
#PBS -o /shared/crew/logs/study-RUN-1-^array_index^.log
#PBS -j oe
#PBS -S /bin/sh
#PBS -l select=1:ncpus=4:mem=8704mb:ngpus=1
#PBS -J 0-2
#PBS -q workq
#PBS -P proj
#PBS -A acct
#PBS -l walltime=02:00:00
""",
    SGELauncher: """\
#!/bin/sh
#$ -N study-RUN-1
#$ -o /shared/crew/logs/study-RUN-1-$JOB_ID.$TASK_ID.log
#$ -j y
#$ -r n
#$ -S /bin/sh
#$ -notify
#$ -w e
#$ -t 1-3
#$ -q all.q
#$ -P proj
#$ -A acct
#$ -pe smp 4
#$ -l h_vmem=2176M
#$ -l gpu=1
#$ -l h_rt=7200
""",
    SlurmLauncher: """\
#!/bin/sh
#SBATCH --no-requeue
#SBATCH --job-name=study-RUN-1
#SBATCH --output=/shared/crew/logs/study-RUN-1-%A_%a.log
#SBATCH --array=0-2
#SBATCH --partition=cpu,gpu
#SBATCH --account=acct
#SBATCH --qos=high
#SBATCH --constraint=avx2&ib
#SBATCH --time=120
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=8704M
#SBATCH --gpus=1
#SBATCH --signal=B:USR1@60
""",
}
"""Arrays of three with all options."""
ALONE = {
    LSFLauncher: [("-J", "study-RUN-1"), ("-o", "/shared/crew/logs/study-RUN-1-%J.log")],
    PBSLauncher: [("-N", "study-RUN-1"), ("-o", "/shared/crew/logs/study-RUN-1.log"), ("-r", "n")],
    SGELauncher: [("-N", "study-RUN-1"), ("-o", "/shared/crew/logs/study-RUN-1-$JOB_ID.log")],
    SlurmLauncher: [("--job-name", "study-RUN-1"), ("--output", "/shared/crew/logs/study-RUN-1-%j.log")],
}
SKIPPED = {LSFLauncher: "-R", PBSLauncher: "-l select", SGELauncher: "-pe", SlurmLauncher: "--mem"}
every = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)


def made(kind: type[ScriptLauncher], **options: Any) -> ScriptLauncher:
    return kind(**{**COMMON, **OWN[kind], **options})


# ---------------------------------------------------------------------- directives


@every
def test_a_script_with_all_options_is_this(kind: type[ScriptLauncher]) -> None:
    assert made(kind).job_script(3) == GOLDEN[kind] + BODY


@every
def test_each_script_holds_to_the_grammar(kind: type[ScriptLauncher]) -> None:
    grammar.parse(made(kind).job_script(1000), kind.prefix)
    alone = grammar.parse(made(kind).job_script(), kind.prefix)
    least = kind(folder="/shared/crew").job_script()

    assert [(option, alone[option][0]) for option, _value in ALONE[kind]] == ALONE[kind]
    assert not {"-t", "--array"} & set(alone)
    assert ("-J" in alone) is (kind is LSFLauncher)
    grammar.parse(least, kind.prefix)
    assert len(least) < len(made(kind).job_script())


@every
def test_directives_of_the_users_come_last_and_ours_can_be_left_out(kind: type[ScriptLauncher]) -> None:
    lines = made(kind, directives=["--what ever", "-x"], skip_directives=[SKIPPED[kind]]).job_script(3).splitlines()
    own = [line.removeprefix(f"{kind.prefix} ") for line in lines if line.startswith(f"{kind.prefix} ")]
    all_of_ours = [line.removeprefix(f"{kind.prefix} ") for line in GOLDEN[kind].splitlines()[1:]]

    assert own[-2:] == ["--what ever", "-x"]
    assert own[:-2] == [line for line in all_of_ours if not re.match(rf"{SKIPPED[kind]}[ =]", line)]
    assert len(own) < len(all_of_ours) + 2


@every
def test_a_template_of_the_users_is_filled_in(kind: type[ScriptLauncher]) -> None:
    template = "#!/bin/bash -l\n{directives}\n{prologue}\necho ${name} ${HOME} {other} {name} {log}\n{command}\n"
    lines = made(kind, template=template).job_script().splitlines()

    assert lines[0] == "#!/bin/bash -l"
    assert lines[1].startswith(kind.prefix)
    assert "module load python" in lines
    assert any(
        line.startswith("echo ${name} ${HOME} {other} study-RUN-1 /shared/crew/logs/study-RUN-1") for line in lines
    )
    assert "\n".join(lines[-2:]) == "\n".join(BODY.splitlines()[-2:])


@every
@pytest.mark.parametrize("sign", ["\n", "\r", "\n#PBS -q other\n#BSUB -q other\n"])
def test_no_option_brings_in_lines_of_its_own(kind: type[ScriptLauncher], sign: str) -> None:
    paths = {"python", "working_directory", "folder", "log_folder"}
    options = dict.fromkeys(paths, f"/a{sign}rm") | dict.fromkeys(OWN[kind], f"a{sign}rm")
    options |= {"account": f"a{sign}rm", "job_name": f"a{sign}rm"}
    for option, value in options.items():
        with pytest.raises(ValueError, match=r"one line|one word|job_name"):
            made(kind, **{option: value}).job_script()
    with pytest.raises(ValueError, match="one line"):
        made(kind, directives=[f"-x{sign}rm"])


@every
def test_words_that_would_be_several_or_other_options_are_refused(kind: type[ScriptLauncher]) -> None:
    options = {"account": (), "queue": (LSFLauncher, PBSLauncher), "project": (PBSLauncher,), "select": (PBSLauncher,)}
    for option in (option for option, kinds in options.items() if not kinds or kind in kinds):
        for value in ("a b", "-x", "a'b", 'a"b', "a#b", "a\\b", "", "a\tb", "a\0b"):
            with pytest.raises(ValueError, match=f"{option} must be one word"):
                made(kind, **{option: value})


@every
def test_names_of_jobs_are_what_every_scheduler_takes(kind: type[ScriptLauncher]) -> None:
    for name in ("", "1a", "a b", "a/b", "näme", "a\n", "a[1]", "a%J", "x" * 101):
        with pytest.raises(ValueError, match="job_name"):
            made(kind, job_name=name)
    grammar.parse(made(kind, job_name="x" * 100).job_script(), kind.prefix)


@every
def test_numbers_must_make_sense(kind: type[ScriptLauncher]) -> None:
    wrong: dict[str, list[Any]] = {"cpus": [0, 1.5], "gpus": [-1, 0.5], "memory_gb": [0, float("inf"), float("nan")]}
    for option, value in [(option, value) for option, values in wrong.items() for value in values]:
        with pytest.raises(ValueError, match=option):
            made(kind, **{option: value})


@every
@pytest.mark.parametrize("name", ["directives", "skip_directives", "prologue"])
def test_one_text_is_no_list_of_lines(kind: type[ScriptLauncher], name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be a sequence of lines, not one text: give \['module load x'\]"):
        kind(**{name: "module load x"})


@every
def test_a_directive_has_no_prefix(kind: type[ScriptLauncher]) -> None:
    with pytest.raises(ValueError, match=f"directives are given without {re.escape(kind.prefix)}"):
        kind(directives=[f"{kind.prefix} --exclusive"])


@every
def test_a_number_is_no_text(kind: type[ScriptLauncher]) -> None:
    with pytest.raises(TypeError, match="memory_gb must be a number, not '4G'"):
        kind(memory_gb="4G")


def test_what_sbatch_would_take_from_the_environment_stands_for_what_is_not_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("PARTITION", "envpart"), ("ACCOUNT", "envacct"), ("TIMELIMIT", "7"), ("QOS", "envqos")):
        monkeypatch.setenv(f"SBATCH_{name}", value)

    script = SlurmLauncher().job_script()
    for line in ("--partition=envpart", "--account=envacct", "--time=7", "--qos=envqos"):
        assert f"#SBATCH {line}\n" in script
    script = SlurmLauncher(partition="p", account="a", qos="q", walltime="1h").job_script()
    for line in ("--partition=p", "--account=a", "--time=60", "--qos=q"):
        assert f"#SBATCH {line}\n" in script
    assert "env" not in "".join(line for line in script.splitlines() if line.startswith("#SBATCH"))


def test_the_grammar_refuses_what_it_should() -> None:
    head = "#!/bin/sh\n#PBS -N a\n"
    for text, words in (
        (f"{head}#PBS -Z 1\ntrue\n", "illegal option"),
        (f"{head}#PBS -r maybe\ntrue\n", "illegal -r value"),
        (f"{head}#PBS -q a b\ntrue\n", "illegal -q value"),
        (f"{head}#PBS -N b\ntrue\n", "twice"),
        (f"{head}true\n#PBS -q a\n", "behind the first command"),
        (f"{head}#PBS -J 0-3\n#PBS -r n\ntrue\n", "non-rerunable"),
        (f"{head}#PBS -J 3-3\ntrue\n", "illegal -J"),
        (f"{head}#PBS -q 'a\ntrue\n", "quotation"),
        (head, "no command"),
        ("true\n", "no interpreter"),
    ):
        with pytest.raises(grammar.Refused, match=words):
            grammar.parse(text, "#PBS")


# ---------------------------------------------------------------------- the script's body


@every
def test_the_body_of_a_script_brings_all_words_unharmed(kind: type[ScriptLauncher], tmp_path: Path) -> None:
    odd = tmp_path / "wörds  $HOME 'n\" `more` \\ & ; * ~ #!"
    odd.mkdir()
    program = odd / "python 3 $x"
    program.write_text('#!/bin/sh\nprintf "%s\\0" "$PWD" "$SEEN" "$0" "$@"\n')
    program.chmod(0o755)
    launcher = kind(folder=odd, log_folder="/logs", python=program, working_directory=odd, prologue=["export SEEN=yes"])
    path = tmp_path / "script"
    path.write_text(launcher.job_script(2))
    done = subprocess.run(["/bin/sh", path], capture_output=True, check=True, cwd="/", timeout=30)

    words = [word.decode() for word in done.stdout.split(b"\0")]
    assert words[:3] == [str(odd), "yes", str(program)]
    assert words[3:] == ["-m", "crew_executor", "worker", str(odd / "crew-RUN-1.invitation"), ""]
    assert not done.stderr
    grammar.parse(launcher.job_script(2), kind.prefix)


@every
def test_the_body_replaces_its_shell_and_does_not_run_elsewhere(kind: type[ScriptLauncher], tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho $PPID $$\n")
    program.chmod(0o755)
    for folder in (tmp_path, tmp_path / "missing"):
        launcher = kind(folder=tmp_path, python=program, working_directory=folder)
        with subprocess.Popen(
            ["/bin/sh", "-s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:  # fmt: skip
            said, _errors = process.communicate(launcher.job_script(), timeout=30)
        assert bool(process.returncode) is (folder != tmp_path)
        assert said == (f"{os.getpid()} {process.pid}\n" if folder == tmp_path else "")


def test_paths_are_seen_from_here_and_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    launcher = SlurmLauncher(folder="~/jobs", log_folder="~/out", working_directory="data")
    assert (launcher.folder, launcher.log_folder) == ("/home/me/jobs", "/home/me/out")
    assert launcher.working_directory == str(tmp_path / "data")
    assert SlurmLauncher().working_directory == str(tmp_path)
    assert SlurmLauncher(folder="jobs").log_folder == str(tmp_path / "jobs" / "logs")


# ---------------------------------------------------------------------- walltime


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("1d", 86400), ("90 s", 90), ("1.5h", 5400), ("2:00:00", 7200),
     ("1-12:00:00", 129600), ("1:30", 5400), (" 2H ", 7200), (60, 60), (0.5, 0.5), (None, None)],
)  # fmt: skip
def test_durations(text: Any, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "2", "h", "2 parsecs", "2h and more", "-2h", "2h-", "1:2:3", "1-2", "1:00:00:00", "nan", "inf",
             float("inf"), float("nan")],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        seconds_of(text)


@pytest.mark.parametrize("walltime", [0, -1, "0s", "0:00:00"])
def test_a_walltime_is_above_nothing(walltime: Any) -> None:
    with pytest.raises(ValueError, match="walltime must be"):
        PBSLauncher(walltime=walltime)


@every
def test_limits_of_time_are_never_less_than_was_asked_for(kind: type[ScriptLauncher]) -> None:
    wanted = {LSFLauncher: "-W 00:02", PBSLauncher: "-l walltime=00:01:30", SGELauncher: "-l h_rt=90", SlurmLauncher:
              "--time=2"}  # fmt: skip
    assert f"{wanted[kind]}\n" in kind(walltime=90).job_script()


# ---------------------------------------------------------------------- folders


class Simple(ScriptLauncher):
    """A scheduler of which we know little: its submit command is whatever a test puts there."""

    prefix = "#TEST"
    submit_command = ("crew-test-submit",)
    clean_variables = ("TEST_JOB",)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.named: list[Hashable] = []

    def directives(self, name: str, log: str, number: int) -> list[str]:
        """Say little."""
        return [f"-n {number}"]

    def log_pattern(self, name: str, number: int) -> str:
        """Have one file."""
        return f"{name}-%j.log"

    def read_id(self, answer: str) -> str | None:
        """Find the number."""
        found = re.search(r"taken as (\d+)", answer)
        return found and found[1]

    def jobs_named(self, name: str) -> Sequence[Hashable]:
        """Return what a test has put there."""
        return self.named

    def is_transient(self, words: str) -> bool:
        """Answer whether it is busy."""
        return "busy" in words

    def advice(self, words: str) -> str:
        """Say something."""
        return "try another queue" if "queue" in words else ""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, for commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def put_command(folder: Path, body: str) -> None:
    path = folder / "crew-test-submit"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def a_job(number: int = 1) -> Job:
    return Job(f"crew-0123456789abcdef-{number}", number, 1, b"secret", {}, None, "/bin/true", 0)


@pytest.fixture
def launcher(commands: Path, tmp_path: Path) -> ScriptLauncher:
    """One whose command takes all."""
    put_command(commands, "echo taken as 42")
    made = Simple(folder=tmp_path / "jobs")
    made.check()
    return made


def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    launcher = Simple(folder=tmp_path / "jobs")
    with pytest.raises(LaunchError, match="there is no crew-test-submit here: run this on a login node"):
        launcher.check()
    (tmp_path / "jobs").mkdir()
    with pytest.raises(LaunchError, match="crew-test-submit cannot be run"):
        launcher.submit(a_job(), 1)
    launcher.close()


def test_invitations_are_for_this_user_alone_and_gone_at_the_end(launcher: ScriptLauncher) -> None:
    folder = Path(launcher.folder)
    assert launcher.submit(a_job(), 1) == ["42"]
    assert launcher.submit(a_job(), 1) == ["42"]  # the rest of a submission: with the same invitation
    launcher.submit(a_job(2), 1)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.invitation")}

    assert modes == {f"{a_job(number).name}.invitation": 0o600 for number in (1, 2)}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(launcher.log_folder).stat().st_mode) & 0o700 == 0o700
    assert all("secret" not in path.read_text() for path in folder.glob("*.sh"))
    launcher.close()
    assert [entry.name for entry in os.scandir(folder)] == ["logs"]


def test_invitations_of_clients_that_were_killed_are_removed_after_a_month(launcher: ScriptLauncher) -> None:
    folder = Path(launcher.folder)
    names = ["old.invitation", "old.sh", "new.invitation", "new.sh", "notes.txt"]
    for name in names:
        (folder / name).touch()
        if not name.startswith("new"):
            os.utime(folder / name, (time.time() - script.STALE_SECONDS - 60,) * 2)
    launcher.check()

    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["new.invitation", "new.sh", "notes.txt"]


@pytest.mark.parametrize("option", ["folder", "log_folder"])
def test_folders_that_cannot_be_made_or_written_are_told(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    put_command(commands, "true")
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        launcher = Simple(**{"folder": tmp_path / "jobs", option: path})
        with pytest.raises(LaunchError, match=rf"{path} cannot be made: .*; give folder= or log_folder="):
            launcher.check()
    launcher = Simple(**{"folder": tmp_path / "jobs", option: tmp_path / "mine"})
    monkeypatch.setattr(os, "access", lambda path, _mode: path != str(tmp_path / "mine"))  # root may write anywhere
    monkeypatch.setattr("shutil.which", lambda name: name)
    with pytest.raises(LaunchError, match="mine cannot be written to; give folder= or log_folder="):
        launcher.check()


# ---------------------------------------------------------------------- commands


def test_a_submission_that_hangs_may_have_worked(
    launcher: Simple, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_command(commands, f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    monkeypatch.setattr(script, "COMMAND_SECONDS", 0.5)
    with pytest.raises(SubmitTimeout, match=r"did not answer within 0\.5 s"):
        launcher.submit(a_job(), 1)
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(child), "what the command had started is gone")
    assert list(launcher.find(a_job())) == []
    launcher.named = ["7"]
    assert list(launcher.find(a_job())) == ["7"]
    assert list(launcher.find(a_job())) == []  # it is known now
    launcher.close()


def test_a_refusal_has_the_command_the_code_the_words_and_advice(launcher: Simple, commands: Path) -> None:
    put_command(commands, "echo no such queue >&2; exit 3")
    with pytest.raises(LaunchError) as caught:
        launcher.submit(a_job(), 1)
    launcher.close()

    path = f"{launcher.folder}/{a_job().name}.sh"
    assert str(caught.value) == (
        f"crew-test-submit {path}\nended with exit code 3: no such queue\ntry another queue"
    )  # fmt: skip


def test_a_refusal_for_now_is_one_for_now(launcher: Simple, commands: Path) -> None:
    put_command(commands, "echo the server is busy >&2; exit 1")
    with pytest.raises(LaunchRetry, match="the server is busy") as caught:
        launcher.submit(a_job(), 1)
    assert not isinstance(caught.value, SubmitTimeout)
    put_command(commands, "echo taken as 43")
    assert launcher.submit(a_job(), 1) == ["43"]
    launcher.close()


@pytest.mark.parametrize("body", ["echo welcome", "true", "printf '\\377\\376'", "echo taken as 44; exit 1"])
def test_an_answer_that_cannot_be_read_is_a_refusal(launcher: Simple, commands: Path, body: str) -> None:
    put_command(commands, body)
    with pytest.raises(LaunchError, match="ended with exit code"):
        launcher.submit(a_job(), 1)
    launcher.close()


def test_commands_are_run_in_one_language_and_without_what_a_job_around_us_has_set(
    launcher: Simple, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_JOB_ID", "1")
    monkeypatch.setenv("TEST_OTHER", "2")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    put_command(commands, "echo $LC_ALL $TEST_JOB_ID $TEST_OTHER; cat")
    assert launcher.run(["crew-test-submit"]).stdout == "C 2\n"  # and nothing comes from stdin


def test_the_output_of_a_job_is_told(launcher: Simple) -> None:
    launcher.submit(a_job(), 1)
    name = "crew-0123456789abcdef-1-{}.log"
    (Path(launcher.log_folder) / name.format(142)).write_text("of another")
    assert "did it start at all?" in launcher.explain("42")
    path = Path(launcher.log_folder) / name.format(42)
    path.touch()
    assert launcher.explain("42") == f"its output, {path}, is empty"
    path.write_bytes(b"begin" + b"x" * script.LOG_BYTES + b"\xff the end\n")
    words = launcher.explain("42")
    launcher.close()

    assert words.startswith(f"the end of its output, {path}:\n")
    assert words.endswith("\ufffd the end")
    assert "begin" not in words
