"""Imports while a program runs, which no fork may come between.

In clients and workers. Modules that most programs need not pay for are imported at their first use, in whatever thread
that is. Must not import anything of the package.

What goes wrong without it: (1) a thread begins to import a module; (2) another forks, say for a Pool; (3) in the child
that thread does not exist, but CPython's lock of the module still belongs to it; (4) the child comes to an import of
the same module and waits for ever. So a fork waits until these imports are over.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager

FORK_WAIT_SECONDS = 10.0
"""A fork goes on after this: an import that takes longer may be waiting for the very thread that forks."""

_lock = threading.RLock()
_forking: set[int] = set()  # the threads that hold the lock over a fork


def imports() -> AbstractContextManager[object]:
    """Return the lock under which what may be imported in any thread is: `with late.imports(): import x`."""
    return _lock


def _before_fork() -> None:
    if _lock.acquire(timeout=FORK_WAIT_SECONDS):
        _forking.add(threading.get_ident())


def _after_fork_in_parent() -> None:
    if threading.get_ident() in _forking:
        _forking.discard(threading.get_ident())
        _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # the thread that holds the other one may not exist here
    _forking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
