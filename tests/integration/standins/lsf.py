"""Stands in for bsub, bjobs and bkill of LSF: the first argument says for which."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # not there with PYTHONSAFEPATH

import grammar
import jobs

QUEUES = ("normal", "short")
DOWN = ("Failed in an LSF library call: Cannot connect to LIM. LSF is down. Please wait ...", 255)
FIELDS = "jobid jobindex stat exit_code exit_reason delimiter='|'"
MEMORY = "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit"
REASONS = {
    "": "-", "killed": "TERM_OWNER: job killed by owner", "memory": MEMORY,
    "runlimit": "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
}  # fmt: skip
REPORT = """
------------------------------------------------------------
Sender: LSF System <lsfadmin@n1>
Subject: Job {id}: <{name}> in cluster <test> Exited

Exited with exit code {{code}}.

Resource usage summary:

    CPU time :                                   0.02 sec.

The output (if any) is above this job summary.
"""


def bsub(arguments: list[str]) -> None:
    """Take a script, from stdin."""
    if arguments:
        jobs.fail("bsub: illegal option. Job not submitted.", 255)
    script = sys.stdin.read()
    try:
        options = {option: values[0] for option, values in grammar.parse(script, "#BSUB").items()}
    except grammar.Refused as error:
        jobs.fail(f"bsub: {error}. Job not submitted.", 255)
    queue = options.get("-q", "normal")
    if queue not in QUEUES:
        jobs.fail(f"{queue}: No such queue. Job not submitted.", 255)
    array = re.fullmatch(r"(.+)\[1-(\d+)\]", options["-J"])
    indices = [0] if array is None else list(range(1, int(array[2]) + 1))
    name = options["-J"] if array is None else array[1]
    if not jobs.has_room(len(indices)):
        sys.stderr.write("Pending job threshold reached. Retrying in 60 seconds...\n")
        sys.stderr.flush()
        jobs.time.sleep(jobs.FOR_EVER)
    number = jobs.next_number()
    for index in indices:
        job = f"{number}[{index}]" if index else str(number)
        facts = {
            "id": job, "number": number, "index": index, "name": name,
            "log": options["-o"].replace("%J", str(number)).replace("%I", str(index)),
            "report": REPORT.format(id=job, name=name),
            "environment": {"LSB_JOBID": str(number), "LSB_JOBINDEX": str(index), "LSB_JOBNAME": options["-J"]},
        }  # fmt: skip
        jobs.start(facts, script)
    if jobs.flag("server") == "forgets":
        jobs.time.sleep(jobs.FOR_EVER)
    where = f"queue <{queue}>" if "-q" in options else f"default queue <{queue}>"
    sys.stdout.write(f"Job <{number}> is submitted to {where}.\n")


def bjobs(arguments: list[str]) -> None:
    """Tell of jobs."""
    if arguments[:4] != ["-a", "-noheader", "-o", FIELDS]:
        jobs.fail(f"bjobs: illegal option {arguments!r}", 255)
    wanted = arguments[4:]
    by_name = wanted[:1] == ["-J"]
    code = 0
    for word in wanted[1:] if by_name else wanted:
        found = [each for each in jobs.all_jobs() if _is_meant(word, each["name"] if by_name else str(each["number"]))]
        if not found:
            sys.stderr.write(f"Job <{word}> is not found\n")
            code = 255
        for facts in found:
            sys.stdout.write("|".join(_described(facts)) + "\n")
    raise SystemExit(code)


def _is_meant(word: str, name: str) -> bool:
    return name.startswith(word[:-1]) if word.endswith("*") else name == word


def _described(facts: dict[str, Any]) -> list[str]:
    number, index, code = str(facts["number"]), str(facts["index"]), facts["code"]
    if facts["state"] != "ended":
        state = {"pending": jobs.flag("pending_state") or "PEND", "running": jobs.flag("running_state") or "RUN"}
        return [number, index, state[facts["state"]], "-", "-"]
    if code == 0:
        return [number, index, "DONE", "-", "-"]
    shown = "-" if code is None else str(128 - code if code < 0 else code)
    return [number, index, "EXIT", shown, REASONS.get(facts["why"], facts["why"])]


def bkill(arguments: list[str]) -> None:
    """End jobs."""
    code = 0
    for job in arguments:
        if jobs.cancel(job):
            sys.stdout.write(f"Job <{job}> is being terminated\n")
            continue
        known = (jobs.STATE / f"{job}.job").exists()
        sys.stderr.write(f"Job <{job}>: {'Job has already finished' if known else 'No matching job found'}\n")
        code = 255
    raise SystemExit(code)


if __name__ == "__main__":
    jobs.begin(*DOWN)
    {"bsub": bsub, "bjobs": bjobs, "bkill": bkill}[sys.argv[1]](sys.argv[2:])
