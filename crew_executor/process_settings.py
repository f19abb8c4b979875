"""Settings of a process that its children have by fork: workers have those that the client had when they were launched.

Workers are forks of the supervisor, which has what the client had when its first pool was made, or nothing of it. A
script that sets its umask or recursion limit at the top means its tasks, too. What only makes sense in one process,
such as signal handlers, stays where it is.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from typing import Any

_LIMITS = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}


def current_settings() -> dict[str, Any]:
    """Return this process's settings, as JSON can say them."""
    settings: dict[str, Any] = {
        "recursion_limit": sys.getrecursionlimit(),
        "umask": _umask(),
        "limits": {name: resource.getrlimit(number)[0] for name, number in _LIMITS.items()},
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
    }
    if hasattr(sys, "get_int_max_str_digits"):  # not in the first releases of 3.10
        settings["int_max_str_digits"] = sys.get_int_max_str_digits()
    if hasattr(os, "sched_getaffinity"):
        settings["cpus"] = sorted(os.sched_getaffinity(0))
    return settings


_environment: tuple[dict[bytes, bytes] | None, dict[str, str]] = None, {}  # as it was, and decoded


def current_environment() -> dict[str, str]:
    """Return the environment, not to be changed.

    It is decoded only when it has changed, which is seen at once in the dictionary that os.environ keeps it in: to
    decode it would be a fifth of the client's work for a launch. What is seen and what is decoded are one copy, made
    by one call: another thread may change the environment at any time, and change it back. Where os.environ is
    something else, it is copied each time.
    """
    global _environment
    kept = getattr(os.environ, "_data", None)
    if not isinstance(kept, dict) or os.name != "posix":
        return dict(os.environ)
    seen, environment = _environment
    if kept != seen:
        seen = kept.copy()
        environment = {os.fsdecode(name): os.fsdecode(value) for name, value in seen.items()}
        _environment = seen, environment
    return environment


def take_environment(environment: dict[str, str]) -> None:
    """Have this environment, and no other variables."""
    zone = os.environ.get("TZ")
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if os.environ.get("TZ") != zone and hasattr(time, "tzset"):
        time.tzset()  # C's library looks at it only then


def adopt_settings(settings: dict[str, Any]) -> None:
    """Set what another process has; what may not be set here stays."""
    sys.setrecursionlimit(settings["recursion_limit"])
    if settings["umask"] is not None:
        os.umask(settings["umask"])
    for name, soft in settings["limits"].items():
        _set_limit(_LIMITS.get(name), soft)
    with contextlib.suppress(OSError):  # to be nicer is allowed, not the reverse
        os.setpriority(os.PRIO_PROCESS, 0, settings["nice"])
    if "int_max_str_digits" in settings and hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(settings["int_max_str_digits"])
    if "cpus" in settings and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # CPUs that have been taken away meanwhile
            os.sched_setaffinity(0, settings["cpus"])


def _set_limit(number: int | None, soft: int) -> None:
    if number is None:
        return
    old, hard = resource.getrlimit(number)
    if hard != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or soft > hard):
        soft = hard
    if soft != old:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(number, (soft, hard))


def _umask() -> int | None:
    """Return the umask, or None where it cannot be read without being changed for a moment, in all threads."""
    with contextlib.suppress(OSError), open("/proc/self/status", "rb", buffering=0) as status:
        words = status.read(4096).partition(b"\nUmask:")[2].split(None, 1)
        if words:
            return int(words[0], 8)
    return None
