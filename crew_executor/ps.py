"""`python -m crew_executor ps`: this user's executors on this machine, with their workers; and jobs of those gone."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from dataclasses import asdict

from . import leftovers, watch
from .callers import Household, find
from .leftovers import Leftover
from .report import Report

CLEAR = "\x1b[2J\x1b[H"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """List them; return the exit status."""
    report = Report()
    if arguments.watch and not arguments.json:
        _watch(report)
    while True:
        households, left = find(), leftovers.find()
        if arguments.json:
            figures = [asdict(household) for household in households]
            listed = [{name: each[name] for name in each if name != "entry"} for each in figures]
            text = json.dumps(listed + [_figures(each) for each in left])
        else:
            lines = [line for household in households for line in _lines(household)]
            text = "\n".join(lines + [line for each in left for line in _job_lines(each)])
        report.line(text or "no executor of this user is running on this machine")
        if not arguments.watch:
            return 0
        time.sleep(watch.SECONDS)


def _watch(report: Report) -> None:
    """Show them again and again, until Ctrl-C."""
    rates = watch.Rates()
    screen = watch.screen_for(report.line, CLEAR if report.is_live else "", report.is_live)
    try:
        while True:
            households = find()
            try:
                rows = watch.rows_of(households, rates, time.monotonic())
            except (KeyError, TypeError, ValueError):  # of another version: as `ps` lists it
                rows = []
            told = {household.client_pid for household in households if rows and household.answers == "client"}
            others = [line for each in households if each.client_pid not in told for line in _lines(each)]
            screen.show(rows, others + [line for each in leftovers.find() for line in _job_lines(each)])
            time.sleep(watch.SECONDS)
    finally:
        screen.close()


def _lines(household: Household) -> list[str]:
    kind = "agent" if household.is_agent else "client"
    who = f"{kind} {household.client_pid}, supervisor {household.supervisor_pid}"
    if household.answers == "client":
        lines = [f"{who}: {_printable(shlex.join(household.command))}"]
    elif household.answers == "supervisor":
        lines = [f"{who}: the client does not answer; what its supervisor knows:"]
    else:
        lines = [f"{who}: neither answers"]
    try:
        return lines + _executor_lines(household)
    except (KeyError, TypeError, ValueError):  # the others are listed all the same
        return [*lines, "  what it says is not understood here: it may have another version of crew_executor"]


def _printable(text: str) -> str:
    """Return a command in one line: `python -c` has scripts as words."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _executor_lines(household: Household) -> list[str]:
    lines = []
    for executor in household.executors:
        head = f"  run {executor['run']}  {executor['name']}"
        if "queued" in executor:
            head += (
                f"  {executor['queued']} queued, {executor['running']} running, {executor['done']} done;"
                f" {len(executor['workers'])} of at most {executor['max_workers']} workers"
            )
        lines.append(head)
        for worker in executor["workers"]:
            line = f"    {worker['name']}  pid {worker['pid']}  {worker['state']}"
            if "tasks" in worker:
                line += f"  {worker['tasks']} tasks, {worker['seconds']:.1f} s"
            lines.append(line)
    return lines


def _figures(left: Leftover) -> dict[str, object]:
    """Return what is left of an executor in the form of a household, which has no processes here."""
    jobs = [{"id": str(job), "state": status.state.value, "words": status.words} for job, status in left.jobs.items()]
    executor = {"run": left.run, "name": left.name, "workers": [], "jobs": jobs}
    return {
        "client_pid": left.entry.client_pid, "supervisor_pid": None, "command": [], "executors": [executor],
        "answers": "", "host": left.entry.host, "problem": left.problem, "is_agent": False,
    }  # fmt: skip


def _job_lines(left: Leftover) -> list[str]:
    lines = [left.client, f"  run {left.run}  {left.name}  " + (left.problem or f"{len(left.jobs)} jobs")]
    return lines + [f"    job {job}  {status.words}" for job, status in left.jobs.items()]
