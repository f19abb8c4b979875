"""`python -m crew_executor kill RUN`: end an executor of this user on this machine, with its workers.

The client's executor is asked to. Only if it does not answer, its supervisor ends the workers; and only if that does
not answer either, it is killed, which ends them as well. The client itself is left alone.
"""

from __future__ import annotations

import argparse
import sys

from .callers import end, find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", nargs="*", metavar="RUN", help="as `ps` shows it, or its beginning, or the name")
    parser.add_argument("--all", action="store_true", help="all executors of this user")


def run(arguments: argparse.Namespace) -> int:
    """End them; return the exit status: 1 if one was not found or two are meant by a word, 2 if none is named."""
    if not arguments.runs and not arguments.all:
        sys.stderr.write("name a RUN, as `python -m crew_executor ps` shows it, or say --all\n")
        return 2
    there = []
    for household in find():
        there += [(household, each["run"], each["name"]) for each in household.executors]
        if not household.answers:  # its executors are not known, and have all to go
            there.append((household, "", f"client-{household.client_pid}"))
    chosen = there if arguments.all else []
    status = 0
    for word in arguments.runs:
        meant = [each for each in there if word == each[2] or (word and each[1].startswith(word))]
        if len(meant) == 1:
            chosen += meant
            continue
        status = 1
        told = (
            ", ".join(
                f"{run} ({name}, client {home.client_pid})" if run else name for home, run, name in meant or there
            )
            or "none"
        )
        problem = "more than one run is meant by" if meant else "no run is"
        sys.stderr.write(f"{problem} {word!r}; there are: {told}\n")
    for household, name_of_run, name in chosen:
        sys.stdout.write(f"run {name_of_run or '?'} ({name}): {end(household, name_of_run)}\n")
    return status
