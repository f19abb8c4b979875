"""Measures how fast CrewExecutor and other pools are, and writes tables and a picture. README.md says how to read them.

This file is the command line only: what is measured stands in benchmark_rows.py, with whom in benchmark_contenders.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmark_contenders import CONTENDERS
from benchmark_results import OURS, Results
from benchmark_row import BASELINE, Settings
from benchmark_rows import ROWS
from benchmark_run import run
from benchmark_table import machine, page, row_table, summary


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands.add_parser("run", help="measure, and print a table"))
    render = commands.add_parser("render", help="write tables and a picture of what was measured")
    render.add_argument("results", type=Path, metavar="JSON", help="what `run --json` has written")
    _add_output(render)
    render.add_argument("--page", metavar="FILE", type=Path, help="write a page, with its picture beside it (.svg)")
    render.add_argument("--plot", metavar="FILE", type=Path, help="write the picture alone (needs matplotlib)")
    commands.add_parser("list", help="what can be measured, and with whom")
    options = parser.parse_args(arguments)
    if options.command == "list":
        _list()
    elif options.command == "run":
        _run(parser, options)
    else:
        _render(options)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"which rows (default: all of {', '.join(ROWS)})")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="which, with commas (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how often all is measured (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=Settings.workers, help="of each pool (default: %(default)s)")
    parser.add_argument(
        "--remark", default="", help="what readers should know of this run; it stands beside the machine"
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything works")
    sizes.add_argument(
        "--large", action="store_true", help="a million tasks where it makes sense: more time and memory"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all that was measured, after each row")
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", metavar="FILE", type=Path, help="write the tables (Markdown) there, not to stdout")


def _list() -> None:
    for key, row in ROWS.items():
        print(f"{key:16} {row.title}{' (with --large)' if row.is_large else ''}")
    print()
    for key, contender in CONTENDERS.items():
        print(f"{key:16} {contender.title} {contender.version_or_none() or '(not installed)'}")


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    rows = options.rows or [key for key, row in ROWS.items() if options.large or not row.is_large]
    contenders = options.contenders.split(",")
    for asked, known in ((rows, ROWS), (contenders, CONTENDERS)):
        if unknown := [name for name in asked if name not in known]:
            parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
    if options.rounds < 1 or options.workers < 1:
        parser.error("--rounds and --workers must be 1 or more")

    def keep(results: Results) -> None:
        if options.json:
            options.json.write_text(json.dumps(results.as_json(), indent=1) + "\n")

    settings = Settings(options.workers, is_quick=options.quick, is_large=options.large)
    results = run(rows, contenders, options.rounds, settings, keep, options.remark)
    _write(options.table, tables(results))
    failed = {
        (key, name) for key, row in results.rows.items() for name in (OURS, BASELINE) if _has_failed(row.problems(name))
    }
    if failed:
        sys.exit(f"failed: {', '.join(f'{row} of {name}' for row, name in sorted(failed))}")


def _has_failed(problems: list[str]) -> bool:
    return any(not problem.startswith("not ") for problem in problems)


def _render(options: argparse.Namespace) -> None:
    results = Results.from_json(json.loads(options.results.read_text()))
    if options.table or not (options.page or options.plot):
        _write(options.table, tables(results))
    picture = options.plot
    if options.page:
        picture = picture or options.page.with_suffix(".svg")
        options.page.write_text(page(results, picture.name))
    if picture:
        from benchmark_plot import draw  # matplotlib is wanted for pictures only

        draw(results, picture)


def tables(results: Results) -> str:
    """Write the machine, the summary, and a table for each row."""
    rows = [f"{row.title} (`{key}`)\n\n{row_table(results, key)}" for key, row in results.rows.items()]
    return "\n\n".join([machine(results), summary(results), *rows]) + "\n"


def _write(file: Path | None, text: str) -> None:
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text)


if __name__ == "__main__":
    main()
