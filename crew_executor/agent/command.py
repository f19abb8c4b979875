"""`python -m crew_executor worker`: be the agent of an executor on this host. Launchers run it, people do not."""

from __future__ import annotations

import argparse
import sys

from ..errors import CrewError

EXIT_NO_INVITATION = 70


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("invitation", metavar="INVITATION", help="a file; -: stdin; env:NAME: a variable")


def run(arguments: argparse.Namespace) -> int:
    """Run the agent and return its exit status."""
    from .process import run as run_agent  # late: what it needs takes a while to import

    try:
        return run_agent(arguments.invitation)
    except (OSError, CrewError) as error:
        sys.stderr.write(f"crew_executor worker: {error}\n")
        return EXIT_NO_INVITATION
