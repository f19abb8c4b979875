"""All rows of the benchmark, in the order of the table."""

from __future__ import annotations

import benchmark_footprint
import benchmark_schedule
import benchmark_speed
import benchmark_start
from benchmark_row import Row

ROWS: dict[str, Row] = {
    **benchmark_speed.ROWS, **benchmark_schedule.ROWS, **benchmark_start.ROWS, **benchmark_footprint.ROWS,
}  # fmt: skip
