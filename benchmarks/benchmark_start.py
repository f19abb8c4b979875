"""The rows about beginning: the first executor of a program, in parts, the next one, and the import.

What a user's program would pay is measured in a program that does nothing else: the harness has imported too much.
"""

from __future__ import annotations

import json
import operator
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmark_contender import Contender
from benchmark_pool import WrongResultError, check, make_warm, seconds_of
from benchmark_row import Bar, Measured, Row, Settings, make_row

ROWS: dict[str, Row] = {}

PROGRAM = """
from time import perf_counter
began = perf_counter()
{statement}
if __name__ == "__main__":
    imported = perf_counter()
    {make}
    made = perf_counter()
    result = {first}
    first = perf_counter()
    {end}
    ended = perf_counter()
    import json
    seconds = {{"import": imported - began, "construct": made - imported, "first": first - made, "end": ended - first}}
    print(json.dumps({{"result": result, "seconds": seconds}}))
"""


@make_row(ROWS, "cold", "first executor, cold", "ms", "lower", Bar(1.0, "forkserver"))
def cold(contender: Contender, settings: Settings) -> Measured:
    """In a program that does nothing else: from constructing the first executor to its first result, `pow(2, 5)`, when
    the imports are done. The parts also tell the import, all of it together, and the end of the executor.
    """
    make, first, end = (line.format(workers=settings.workers) for line in contender.program)
    text = PROGRAM.format(statement=contender.statement, make=make, first=first, end=end)
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "program.py"
        program.write_text(text)
        done = subprocess.run([sys.executable, program], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the program ended with exit code {done.returncode}")
    told = json.loads(done.stdout.splitlines()[-1])
    check(told["result"], 32)
    parts = {f"{name} ms": seconds * 1e3 for name, seconds in told["seconds"].items()}
    parts["import to result ms"] = parts["import ms"] + parts["construct ms"] + parts["first ms"]
    return Measured(parts["construct ms"] + parts["first ms"], parts)


@make_row(ROWS, "second", "second executor, to its first result", "ms", "lower", Bar(30, None))
def second(contender: Contender, settings: Settings) -> float:
    """In a process that has used an executor and shut it down: from constructing another one to its first result."""
    contender.close(make_warm(contender, settings))

    def begin() -> tuple[object, object]:
        pool = contender.make(settings.workers)
        return pool, contender.call_all(pool, operator.add, [(1, 1)])

    seconds, (pool, results) = seconds_of(begin)
    check(results, [2])
    contender.close(pool)
    return seconds * 1e3


@make_row(ROWS, "import", "import, over a bare python", "ms", "lower", Bar(40, None), baseline=None)
def import_over_bare(contender: Contender, settings: Settings) -> Measured:
    """How much longer `python -c "from ... import ..."` takes than `python -c pass`, from start to exit: the median of
    7 pairs.
    """
    bare, differences = [], []
    for _ in range(settings.number(7, 2)):
        bare.append(_run("pass"))
        differences.append(_run(contender.statement) - bare[-1])
    return Measured(statistics.median(differences), {"bare python ms": statistics.median(bare)})


def _run(statement: str) -> float:
    seconds, code = seconds_of(lambda: subprocess.run([sys.executable, "-c", statement], check=False).returncode)
    if code:
        raise WrongResultError(f"{statement!r} ended with exit code {code}")
    return seconds * 1e3
