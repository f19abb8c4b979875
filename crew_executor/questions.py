"""What a client answers to `ps` and `kill`: its executors in figures, and the end of one. They are of the same user."""

from __future__ import annotations

import sys
from typing import Any

from . import pools


def answer(question: dict[str, Any]) -> Any:
    """Answer a question that came by way of the supervisor; never raises.

    Args:
        question: `ask` is "stats", or "end" with `run` as 16 hexadecimal digits.

    Returns:
        For "stats" the command and the executors; for "end" whether there was such an executor, which has ended.
    """
    if question["ask"] == "stats":
        return {"command": list(sys.argv), "executors": [_figures(run, each) for run, each in pools.executors()]}
    if question["ask"] == "end":
        for run, executor in pools.executors():
            if f"{run:016x}" == question.get("run"):
                executor.kill_workers()
                executor.shutdown(wait=True)
                return {"ended": True}
    return {"ended": False}


def _figures(run: int, executor: Any) -> dict[str, Any]:
    stats = executor.stats()
    return {
        "run": f"{run:016x}", "name": executor._name, "queued": stats.queued, "running": stats.running,
        "done": stats.done, "max_workers": executor._max_workers, "launched": stats.launched,
        "workers": [worker._asdict() for worker in stats.workers],
    }  # fmt: skip
