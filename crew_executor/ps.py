"""`python -m crew_executor ps`: this user's executors on this machine, with their workers."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from dataclasses import asdict

from .callers import Household, find
from .report import Report

WATCH_SECONDS = 1.0
CLEAR = "\x1b[2J\x1b[H"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """List them; return the exit status."""
    report = Report()
    while True:
        households = find()
        if arguments.json:
            figures = [asdict(household) for household in households]
            text = json.dumps([{name: each[name] for name in each if name != "entry"} for each in figures])
        else:
            text = "\n".join(line for household in households for line in _lines(household))
        clear = CLEAR if arguments.watch and report.is_live else ""
        report.line(clear + (text or "no executor of this user is running on this machine"))
        if not arguments.watch:
            return 0
        time.sleep(WATCH_SECONDS)


def _lines(household: Household) -> list[str]:
    who = f"client {household.client_pid}, supervisor {household.supervisor_pid}"
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
