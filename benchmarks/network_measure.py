"""Measures one contender of one row in this process, writes the figures to a file, and ends this process."""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from network_row import Cell, Settings
from network_rows import ROWS


def measure(row: str, contender: str, settings: str, file: str) -> None:
    """Measure, write, and end without waiting for what a pool may have left: the runner kills it."""
    try:
        cell = Cell(ROWS[row].contenders[contender].measure(Settings(**json.loads(settings))))
    except BaseException as error:
        traceback.print_exc()
        words = str(error).splitlines()[0][:160] if str(error) else ""
        cell = Cell(problem=f"failed: {type(error).__name__}: {words}")
    # Written under another name first: whoever finds the file finds all of it.
    writing = Path(f"{file}.writing")
    writing.write_text(json.dumps(asdict(cell)))
    writing.rename(file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
