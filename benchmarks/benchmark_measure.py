"""Measures one row with one contender in this process, writes the result to a file, and ends this process."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from benchmark_contenders import CONTENDERS
from benchmark_results import Cell
from benchmark_row import Measured, NotOffered, Settings
from benchmark_rows import ROWS


def measure(row: str, contender: str, settings: str, file: str) -> None:
    """Measure, write, and end without waiting for what a pool may have left: the runner kills it."""
    try:
        measured = ROWS[row].measure(CONTENDERS[contender], Settings(**json.loads(settings)))
        if not isinstance(measured, Measured):
            measured = Measured(measured)
        cell = Cell(measured.figure, measured.parts)
    except NotOffered as error:
        cell = Cell(problem=f"not offered: {error}")
    except BaseException as error:
        import traceback

        traceback.print_exc()
        cell = Cell(problem=f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}")
    # Written under another name first: whoever finds the file finds all of it.
    writing = Path(file + ".writing")
    writing.write_text(json.dumps(asdict(cell)))
    writing.rename(file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
