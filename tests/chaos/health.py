"""What a long-lived client must not collect: descriptors, threads, mappings, objects, memory. Measured and compared.

Two sorts of samples: at rest (no task open, no worker there, garbage collected), which are nearly exact, and on the
way, which only show a large growth. Must not judge single samples: medians of halves of the run are compared.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

AT_REST, ON_THE_WAY = "at rest", "on the way"
SAMPLE_SECONDS = 0.25
_SAMPLES_MIN = 4
"""With fewer samples of a sort than this nothing is compared."""

_MEGABYTE = 1_000_000
_TOLERANCES: dict[str, dict[str, float]] = {
    AT_REST: {
        "fds": 3, "threads": 2, "mappings": 1, "objects": 100, "rss": 8 * _MEGABYTE, "pss": 8 * _MEGABYTE, "shm": 0,
    },
    ON_THE_WAY: {"fds": 30, "threads": 15, "rss": 60 * _MEGABYTE},
}  # fmt: skip
"""By how much the median of the second half may lie above that of the first."""


class Sampler:
    """Write samples of this process to a file; a thread takes those on the way."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sampler", daemon=True)
        self._thread.start()

    def sample_at_rest(self) -> None:
        """Collect the garbage and take a thorough sample."""
        gc.collect()
        smaps = _numbers_in("/proc/self/smaps_rollup")
        with open("/proc/self/maps") as file:
            mappings = sum("crew_executor" in line for line in file)
        objects = sum(type(thing).__module__.startswith("crew_executor.") for thing in gc.get_objects())
        shm = sum(name.startswith("crew") for name in os.listdir("/dev/shm"))
        self._write(AT_REST, mappings=mappings, objects=objects, pss=smaps["Pss"], shm=shm)

    def close(self) -> None:
        """End the thread and bring everything to the file."""
        self._end.set()
        self._thread.join()
        self._file.close()

    def _watch(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            self._write(ON_THE_WAY)

    def _write(self, sort: str, **more: int) -> None:
        rss = _numbers_in("/proc/self/status")["VmRSS"]
        fds = len(os.listdir("/proc/self/fd"))
        sample = {"sort": sort, "at": time.monotonic(), "fds": fds, "threads": threading.active_count(), "rss": rss}
        with self._lock:
            self._file.write(json.dumps(sample | more) + "\n")


def compare_halves(path: Path) -> tuple[list[str], list[str]]:
    """Return the problems, and lines for the report.

    Args:
        path: the file of a Sampler.
    """
    with path.open() as file:
        samples: list[dict[str, Any]] = [json.loads(line) for line in file]
    problems, lines = [], []
    for sort, tolerances in _TOLERANCES.items():
        mine = [sample for sample in samples if sample["sort"] == sort]
        if len(mine) < _SAMPLES_MIN:
            continue
        middle = len(mine) // 2
        for name, tolerance in tolerances.items():
            first, second = (
                statistics.median(sample[name] for sample in half) for half in (mine[:middle], mine[middle:])
            )
            most = max(sample[name] for sample in mine)
            lines.append(f"{name} {sort}: {first:g} -> {second:g}, most {most:g} ({len(mine)} samples)")
            if second - first > tolerance:
                problems.append(f"{name} {sort} grew from {first:g} to {second:g}, allowed are {tolerance:g} more")
    return problems, lines


def _numbers_in(path: str) -> dict[str, int]:
    """Return the sizes of a status file of the kernel, in bytes."""
    sizes = {}
    with open(path) as file:
        for line in file:
            name, _, rest = line.partition(":")
            if rest.strip().endswith("kB"):
                sizes[name] = int(rest.split()[0]) * 1024
    return sizes
