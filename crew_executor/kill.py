"""`python -m crew_executor kill RUN`: end an executor of this user, with its workers; or what jobs it has left.

The client's executor is asked to. Only if it does not answer, its supervisor ends the workers; and only if that does
not answer either, it is killed, which ends them as well. The client itself is left alone.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

from . import leftovers
from .callers import Household, end, find
from .leftovers import Leftover
from .report import Report, ReportClosed

BEGINNING_MIN = 4
"""A shorter beginning of a run is none: one letter may mean the only executor there is by accident."""


class Target(NamedTuple):
    """What can be ended: an executor, or all of a client whose executors are not known; then `run` is empty."""

    household: Household
    run: str
    name: str

    def describe_client(self) -> str:
        """Return who it belongs to, for a list of choices."""
        return f"client {self.household.client_pid}"

    def end(self) -> str:
        """End it; return how, in words."""
        return end(self.household, self.run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    meaning = f"as `ps` shows it, or its beginning, {BEGINNING_MIN} characters or more, or the name"
    parser.add_argument("runs", nargs="*", metavar="RUN", help=meaning)
    parser.add_argument("--all", action="store_true", help="all executors of this user")


def run(arguments: argparse.Namespace) -> int:
    """End them; return the exit status: 1 if one was not found or two are meant by a word, 2 if none is named."""
    problems = Report(sys.stderr)
    if not arguments.runs and not arguments.all:
        problems.line("name a RUN, as `python -m crew_executor ps` shows it, or say --all")
        return 2
    there = _targets()
    chosen = list(there) if arguments.all else []
    unclear = []
    for word in arguments.runs:
        meant = _meant(word, there)
        if len(meant) == 1:
            chosen += [each for each in meant if each not in chosen]
        else:
            unclear.append(_problem(word, meant, there))
    _end(chosen)
    for text in unclear:
        problems.line(text)
    return 1 if unclear else 0


def _targets() -> list[Target | Leftover]:
    there: list[Target | Leftover] = []
    for household in find():
        there += [Target(household, each["run"], each["name"]) for each in household.executors]
        if not household.answers:  # its executors are not known, and have all to go
            there.append(Target(household, "", f"client-{household.client_pid}"))
    return there + leftovers.find()


def _meant(word: str, there: list[Target | Leftover]) -> list[Target | Leftover]:
    exactly = [each for each in there if word and word in (each.run, each.name)]
    if exactly or len(word) < BEGINNING_MIN:
        return exactly
    return [each for each in there if each.run.startswith(word)]


def _problem(word: str, meant: list[Target | Leftover], there: list[Target | Leftover]) -> str:
    listed = (
        f"{each.run} ({each.name}, {each.describe_client()})" if each.run else each.name
        for each in meant or there
    )  # fmt: skip
    problem = "more than one run is meant by" if meant else "no run is"
    return f"{problem} {word!r}; there are: {', '.join(listed) or 'none'}"


def _end(chosen: list[Target | Leftover]) -> None:
    """End all of them, even if nobody reads any more what became of the first."""
    report = Report()
    closed: ReportClosed | None = None
    for each in chosen:
        told = f"run {each.run or '?'} ({each.name}): {each.end()}"
        try:
            report.line(told)
        except ReportClosed as error:
            closed = error
    if closed is not None:
        raise closed
