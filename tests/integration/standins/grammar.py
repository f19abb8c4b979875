"""The grammar of directives, as documented, and stricter than the products: what is not listed here is refused.

Nothing but the standard library is imported: the stand-ins use it without site-packages.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

NAME = r"[A-Za-z0-9_.+\-/@]+"
JOB_NAME = r"[A-Za-z][A-Za-z0-9_.+-]{0,229}"
NUMBER = r"[1-9]\d*"
PATH = r"/[^\s\"'\\:,]+"
CLOCK = r"\d{2,}:[0-5]\d:[0-5]\d"

SBATCH = {
    "--job-name": JOB_NAME, "--output": PATH, "--array": r"\d+-\d+(%\d+)?", "--partition": f"{NAME}(,{NAME})*",
    "--account": NAME, "--qos": NAME, "--constraint": r"[\w&|*()\[\]]+", "--time": r"\d+|\d+-\d+(:\d+)*|\d+(:\d+)+",
    "--nodes": NUMBER, "--ntasks": NUMBER, "--cpus-per-task": NUMBER, "--mem": rf"{NUMBER}[KMGT]?",
    "--gpus": r"(\w+:)?\d+", "--gres": r"\w+(:\w+)*(,\w+(:\w+)*)*",
    "--signal": r"B:[A-Z0-9]+@\d+", "--no-requeue": None, "--exclusive": None,
    "--export": r"[\w,=]+", "--open-mode": "append|truncate", "--chdir": PATH,
}  # fmt: skip
"""Long options of sbatch with their values; None: it has none."""
SGE = {
    "-N": JOB_NAME, "-o": PATH, "-j": "y|n", "-r": "y|n", "-S": PATH, "-notify": None, "-t": r"[1-9]\d*-[1-9]\d*",
    "-q": f"{NAME}(,{NAME})*", "-P": NAME, "-A": NAME, "-pe": (NAME, NUMBER), "-l": r"\w+=[\w.]+(,\w+=[\w.]+)*",
    "-w": "[ewnvp]", "-cwd": None, "-wd": PATH, "-p": r"-?\d+", "-tc": NUMBER, "-V": None,
}  # fmt: skip
PBS = {
    "-N": JOB_NAME, "-o": PATH, "-j": "oe|eo|n", "-r": "y|n", "-S": PATH, "-J": r"\d+-\d+(:\d+)?(%\d+)?", "-q": NAME,
    "-P": NAME, "-A": NAME, "-m": "n|[abej]+", "-p": r"-?\d+", "-V": None,
    "-l": rf"select=\d+(:\w+=\w+)*(\+\d+(:\w+=\w+)*)*|walltime={CLOCK}|place=[\w:=]+",
}  # fmt: skip
LSF = {
    "-J": rf"{JOB_NAME}(\[1-{NUMBER}\](%\d+)?)?", "-o": PATH, "-rn": None, "-n": rf"{NUMBER}(,{NUMBER})?", "-q": NAME,
    "-P": NAME, "-M": NUMBER, "-W": r"(\d+:)?\d+(/\w+)?", "-wa": r"[A-Z0-9]+", "-wt": r"(\d+:)?\d+", "-x": None,
    "-R": r"(span\[hosts=1\]|rusage\[[\w=:,]+\]|select\[[^\]]+\])", "-gpu": r"num=\d+(:\w+=\w+)*", "-app": NAME,
}  # fmt: skip
GRAMMARS: dict[str, Mapping[str, str | tuple[str, str] | None]] = {
    "#SBATCH": SBATCH, "#$": SGE, "#PBS": PBS, "#BSUB": LSF,
}  # fmt: skip
REPEATABLE = {"-l", "-R"}


class Refused(Exception):
    """A script is against the grammar."""


def parse(script: str, prefix: str) -> dict[str, list[str]]:
    """Return the values of each option in a script's directives.

    Raises:
        Refused: an option that is not known, twice there, or has a value of another kind; or a directive where none
            belongs, as what seems to be a line of its own but came in with something else.
    """
    lines = script.split("\n")
    if not lines[0].startswith("#!/"):
        raise Refused(f"no interpreter is named: {lines[0]!r}")
    found: dict[str, list[str]] = {}
    is_head = True
    for line in lines[1:]:
        if line.startswith(prefix):
            if not is_head:
                raise Refused(f"a directive behind the first command: {line!r}")
            _take(line.removeprefix(prefix), prefix, found)
        elif line.strip() and not line.startswith("#"):
            is_head = False
    if is_head:
        raise Refused("there is no command")
    _check_together(found, prefix)
    return found


def _take(line: str, prefix: str, found: dict[str, list[str]]) -> None:
    if not line.startswith(" "):
        raise Refused(f"no blank behind {prefix}: {line!r}")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise Refused(f"{line!r}: {error}") from None
    if not words:
        raise Refused("a directive without an option")
    option, values = words[0], words[1:]
    if prefix == "#SBATCH" and "=" in option:
        option, _, value = option.partition("=")
        values = [value, *values]
    grammar = GRAMMARS[prefix]
    if option not in grammar:
        raise Refused(f"illegal option {option!r}")
    wanted = grammar[option]
    patterns = () if wanted is None else (wanted,) if isinstance(wanted, str) else wanted
    if len(values) != len(patterns) or not all(map(re.fullmatch, patterns, values)):
        raise Refused(f"illegal {option} value {values!r}")
    if option in found and option not in REPEATABLE:
        raise Refused(f"{option} twice")
    found.setdefault(option, []).extend(values or [""])


def _check_together(found: Mapping[str, list[str]], prefix: str) -> None:
    """Check what single options do not tell."""
    if prefix == "#PBS" and "-J" in found:
        if found.get("-r") == ["n"]:
            raise Refused("cannot submit non-rerunable Array Job")
        first, last = map(int, re.findall(r"\d+", found["-J"][0])[:2])
        if not first < last:
            raise Refused(f"illegal -J value {found['-J']!r}")
    if prefix == "#BSUB" and "-wt" in found and not _minutes(found["-wt"][0]) < _minutes(found["-W"][0]):
        raise Refused("the warning would come at once")


def _minutes(value: str) -> int:
    hours, _, minutes = value.rpartition(":")
    return 60 * int(hours or 0) + int(minutes)
