"""What a client answers to `ps` and `kill`: its executors in figures, and the end of one. They are of the same user.

Asked are the dispatchers, not the executors: an executor that its program has forgotten, or has shut down without
waiting, is no object any more, and its workers work on.
"""

from __future__ import annotations

import sys
from typing import Any

from . import pools
from .log import logger

PATIENCE_SECONDS = 3.0
"""How long to wait for an executor that was told to end; a callback of a future may take longer than who asks waits."""


def answer(question: dict[str, Any], *, may_wait: bool = True) -> Any:
    """Answer a question that came by way of the supervisor; never raises.

    Args:
        question: `ask` is "stats", or "end" with `run` as 16 hexadecimal digits.
        may_wait: whether this thread may wait for an executor's end; not the one that brings news of exits.

    Returns:
        For "stats" the command (in an agent its client's) and the executors. For "end" its `end`: "over"; "begun",
        which is less: it was told to; "none": there is no such executor. None if there is no answer.
    """
    try:
        living = [each for each in pools.dispatchers() if not _is_over(each)]
        if question["ask"] == "stats":
            is_agent = f"{__package__}.agent.process" in sys.modules and not living
            return {"command": _command(), "executors": [_figures(each) for each in living], "is_agent": is_agent}
        if question["ask"] == "end":
            meant = [each for each in living if f"{each.run_id:016x}" == question["run"]]
            return {"end": _end(meant[0], may_wait) if meant else "none"}
    except Exception:
        logger.exception("a question of ps or kill cannot be answered: %r", question)
    return None


def _is_over(dispatcher: Any) -> bool:
    """Answer whether it has no tasks and no workers, and will have none."""
    return bool(dispatcher._is_ended or (dispatcher.is_closing and not dispatcher._is_running))


def _command() -> list[str]:
    try:
        return [str(word) for word in sys.argv]
    except Exception:  # a program may delete it, or put there what it likes: that is no reason to say nothing
        return []


def _figures(dispatcher: Any) -> dict[str, Any]:
    stats = dispatcher.stats()
    return {
        "run": f"{dispatcher.run_id:016x}", "name": dispatcher.name, "queued": stats.queued, "running": stats.running,
        "done": stats.done, "max_workers": len(stats.seats), "launched": stats.launched,
        "failed": dispatcher._announcer.failures, "errors": list(dispatcher._announcer.last_failures),
        "workers": [worker._asdict() for worker in stats.workers],
    }  # fmt: skip


def _end(dispatcher: Any, may_wait: bool) -> str:
    dispatcher.shutdown()
    dispatcher.mailbox.put(dispatcher.kill_workers)  # in its own thread: from any other it would wait for that thread
    if may_wait:
        dispatcher.join(PATIENCE_SECONDS)
    return "over" if _is_over(dispatcher) else "begun"
