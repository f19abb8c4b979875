"""The command line: `python -m crew_executor <command>`. Chooses the command's module, runs it, gives its exit status.

A command is a module with `add_arguments(parser)` and `run(arguments) -> int`; a new one is one more line in COMMANDS.
Only the module of the command that was asked for is imported, so that `worker` never pays for the others.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

from .report import ReportClosed

__all__ = ["main"]

# What a shell reports for a command that Ctrl-C ended: 128 + SIGINT.
EXIT_INTERRUPTED = 130


class Command(NamedTuple):
    """Where a command lives and what `--help` says of it."""

    module: str
    summary: str


class CommandModule(Protocol):
    """What the module of a command provides."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command and return the exit status."""


COMMANDS = {
    "demo": Command("crew_executor.demo", "analyse a source tree on a pool that grows and shrinks; check the result"),
    "doctor": Command(
        "crew_executor.doctor", "try whether workers can be had, here or elsewhere; say what to do if not"
    ),
    "ps": Command("crew_executor.ps", "list this user's executors and workers on this machine"),
    "worker": Command("crew_executor.agent.command", "be the agent of an executor on this host; for launchers"),
    "kill": Command("crew_executor.kill", "end an executor of this user on this machine, with its workers"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 wrong arguments, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = argparse.ArgumentParser(prog="python -m crew_executor", description="Tools of crew_executor.")
        command = add_commands(parser, words)
        arguments = parser.parse_args(words)
        if command is None:
            parser.print_help()
            return 2
        return command.run(arguments)
    except KeyboardInterrupt:
        # The pool is already down, only the interpreter's own exit is left: a second Ctrl-C must not litter it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("\ninterrupted\n")
        return EXIT_INTERRUPTED
    except ReportClosed as closed:
        # `| head` has seen enough. Point stdout elsewhere, or the interpreter's last flush fails once more.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if str(closed) and sys.stderr is not None:
            with contextlib.suppress(OSError):  # that is what could not be written to
                sys.stderr.write(f"{closed}\n")
        return 1


def add_commands(parser: argparse.ArgumentParser, words: Sequence[str]) -> CommandModule | None:
    """List every command for `--help`, but import and declare in full only the one that `words` ask for."""
    asked = next((word for word in words if not word.startswith("-")), None)
    module: CommandModule | None = None
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.summary, description=command.summary)
        if name == asked:
            module = cast(CommandModule, importlib.import_module(command.module))
            module.add_arguments(subparser)
    return module


if __name__ == "__main__":
    sys.exit(main())
