"""Stands in for qsub, qstat and qdel of PBS: the first argument says for which."""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # not there with PYTHONSAFEPATH

import grammar
import jobs

SERVER = "pbs"
QUEUES = ("workq", "generic")
DOWN = ("Connection refused\n{command}: cannot connect to server pbs (errno=111)", 111)
UNKNOWN, FINISHED, NO_HISTORY = 153, 35, 36
STATES = {"pending": "Q", "running": "R", "ended": "F"}
NODE = "(n1:ncpus=1)"


def qsub(arguments: list[str]) -> None:
    """Take a script."""
    if len(arguments) != 1:
        jobs.fail("usage: qsub [-a date_time] [-A account_string] ...", 2)
    script = Path(arguments[0]).read_text()
    try:
        options = {option: values[0] for option, values in grammar.parse(script, "#PBS").items()}
    except grammar.Refused as error:
        jobs.fail(f"qsub: directive error: {error}", 2)
    if options.get("-q", "workq") not in QUEUES:
        jobs.fail("qsub: Unknown queue", 170)
    indices = _indices(options.get("-J"))
    if "-J" in options and len(indices) > int(jobs.flag("max_array_size") or 10000):
        jobs.fail("qsub: Array job exceeds server or queue size limit", 189)
    if not jobs.has_room(len(indices)):
        jobs.fail("qsub: would exceed queue generic's per-user limit", 187)
    number = jobs.next_number()
    for index in indices:
        job = f"{number}.{SERVER}" if index is None else f"{number}[{index}].{SERVER}"
        own = {} if index is None else {"PBS_ARRAY_INDEX": str(index), "PBS_ARRAY_ID": f"{number}[].{SERVER}"}
        facts = {
            "id": job, "number": number, "index": index, "name": options["-N"],
            "log": options["-o"].replace("^array_index^", str(index)),
            "environment": {"PBS_JOBID": job, "PBS_ENVIRONMENT": "PBS_BATCH", **own},
        }  # fmt: skip
        jobs.start(facts, script)
    if jobs.flag("server") == "forgets":
        jobs.time.sleep(jobs.FOR_EVER)
    sys.stdout.write(f"{number}.{SERVER}\n" if indices == [None] else f"{number}[].{SERVER}\n")


def _indices(array: str | None) -> list[int | None]:
    if array is None:
        return [None]
    first, last = map(int, re.findall(r"\d+", array)[:2])
    return list(range(first, last + 1))


def qstat(arguments: list[str]) -> None:
    """Tell of jobs."""
    has_history = arguments[0] == "-x"
    wanted = arguments[4 + has_history :]
    if arguments[has_history : 4 + has_history] != ["-t", "-f", "-F", "json"]:
        jobs.fail("usage: qstat [-f] [-J] [-p] [-t] [-x] ...", 2)
    if has_history and jobs.flag("no_history"):
        jobs.fail("qstat: PBS is not configured to maintain job history", NO_HISTORY)
    known = [facts for facts in jobs.all_jobs() if has_history or facts["state"] != "ended"]
    shown: dict[str, Any] = {}
    code = 0
    for job in wanted or [None]:
        found = [facts for facts in known if job in (None, facts["id"], _parent(facts))]
        if not found and job is not None:
            sys.stderr.write(f"qstat: Unknown Job Id {job}\n")
            code = UNKNOWN
        for facts in found:
            if facts["index"] is not None:
                shown.setdefault(_parent(facts), {"Job_Name": facts["name"], "job_state": "B", "array": "True"})
            shown[facts["id"]] = _described(facts)
    answer: dict[str, Any] = {"timestamp": 1, "pbs_version": "23.06.06", "pbs_server": SERVER}
    if shown:
        answer["Jobs"] = shown
    sys.stdout.write(json.dumps(answer, indent=4) + "\n")
    raise SystemExit(code)


def _parent(facts: dict[str, Any]) -> str:
    return f"{facts['number']}[].{SERVER}"


def _described(facts: dict[str, Any]) -> dict[str, Any]:
    found = {"Job_Name": facts["name"], "Job_Owner": f"{getpass.getuser()}@head", "queue": "workq", "server": SERVER}
    found["job_state"] = STATES[facts["state"]]
    comment = jobs.flag("comment")
    if facts["state"] == "pending":
        found["comment"] = comment or "Not Running: Not enough free nodes available"
        found["job_state"] = jobs.flag("pending_state") or "Q"
    if facts["state"] == "running":
        found["comment"] = f"Job run at Mon Jan 05 at 10:00 on {NODE}"
    if facts["state"] == "ended":
        code = facts["code"]
        found["comment"] = f"Job run at Mon Jan 05 at 10:00 on {NODE} and {'failed' if code else 'finished'}"
        found["Exit_status"] = 271 if code is None else 256 - code if code < 0 else code
        if facts["why"] == "walltime":
            found["comment"], found["Exit_status"] = f"Job run on {NODE} and exceeded resource walltime", -29
    return found


def qdel(arguments: list[str]) -> None:
    """End jobs."""
    code = 0
    for job in arguments:
        if jobs.cancel(job):
            continue
        known = (jobs.STATE / f"{job}.job").exists()
        sys.stderr.write(f"qdel: {'Job has finished' if known else 'Unknown Job Id'} {job}\n")
        code = FINISHED if known else UNKNOWN
    raise SystemExit(code)


if __name__ == "__main__":
    jobs.begin(DOWN[0].format(command=sys.argv[1]), DOWN[1])
    {"qsub": qsub, "qstat": qstat, "qdel": qdel}[sys.argv[1]](sys.argv[2:])
